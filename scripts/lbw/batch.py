"""A set of layers that are written together: those that a grouped kernel takes at once, one by one the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from operator import eq, getitem, is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from lbw import base_weights
from lbw.base_weights import parameter_of
from lbw.binding import BoundLayer, Holding, Names, Slot, Value, all_have, slots_of, targets_of
from lbw.deltas import Delta, LowRank
from lbw.factors import Factors, FactorStore, chunks_of
from lbw.kernels import cuda
from lbw.kernels.part import LeanPart, Part, PiecePart
from lbw.launch import Launch, LeanLaunch, Terms
from lbw.pieces import Kind, Piece, can_be_pieces, pieces_of
from lbw.recoverable import Recoverable


class Way(Enum):
    """How weights are written together: all deltas are low-rank; so, and there is no copy; deltas are of any kind."""

    LOW_RANK = auto()
    LEAN = auto()
    PIECES = auto()


Place = tuple[torch.device, torch.dtype, bool, Way]
"""Device, type, whether the rows are aligned, and the way: what the weights of a launch have in common."""


@dataclass(frozen=True, eq=False)
class Member:
    """A weight that is written with others: of which group and layer, and (network, piece) for all that is added."""

    group: int
    bound: BoundLayer
    number: int
    slot: Slot
    pieces: Sequence[tuple[int, Piece]]

    @property
    def factors(self) -> list[LowRank]:
        """Those of all pieces, in their order."""
        return [factor for _network, piece in self.pieces for factor in piece.factors]

    @property
    def backup(self) -> Any:
        return self.bound.attributes["network_weights_backup"]


CUTS = (1 / 8, 3 / 8)
"""After which parts of the weights a switch's second and third launch begin: while the GPU works on some weights, the
next ones are checked."""

_backup_of = itemgetter("network_weights_backup")


class Watch:
    """Tells whether layers are as they were when it was made.

    Args:
        members: their weights and backups have to be where they were.
        others: layers that are only asked for their names.
    """

    def __init__(self, members: Sequence[Member], others: Iterable[BoundLayer] = ()) -> None:
        owners = [member.slot.parameter.rpartition(".") for member in members]
        self._parameters = [
            member.bound.layer.get_submodule(owner)._parameters
            for member, (owner, _, _) in zip(members, owners, strict=True)
        ]
        self._names = [name for _, _, name in owners]
        layers = dict.fromkeys(member.bound for member in members)
        self._attributes = [bound.attributes for bound in layers]
        self._all_attributes = [*self._attributes, *(bound.attributes for bound in others)]
        self._pointers, self._backups = list(self._pointers_now()), list(self._backups_now())

    def holds(self, names: Names | None) -> bool:
        """Whether all are so, and, unless it is None, have these very ``names``."""
        try:
            return (
                all(map(eq, self._pointers_now(), self._pointers))
                and all(map(is_, self._backups_now(), self._backups))
                and (names is None or all_have(self._all_attributes, names))
            )
        except KeyError:
            return False

    def _pointers_now(self) -> Iterator[int]:
        return map(Tensor.data_ptr, map(getitem, self._parameters, self._names))

    def _backups_now(self) -> Iterator[Any]:
        return map(_backup_of, self._attributes)


class Stage:
    """Some weights of a batch: where they have to be, and what has to be copied back before they are written.

    ``refills`` are (weight, pristine value in RAM); the kernel then works on the weight itself.
    """

    def __init__(self, watch: Watch, refills: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.watch = watch
        self._refills = refills

    def refill(self) -> None:
        for weight, base in self._refills:
            weight.copy_(base, non_blocking=True)


class Batch:
    """How to write some layers, found out once and used at each switch of the same layers.

    Args:
        groups: the layers; those of a group always have equal coefficients. Each has a copy of its pristine weights.
        factors: where the packed factors are.
        is_grouping: whether layers may be written together.

    Raises:
        torch.cuda.OutOfMemoryError: the factors do not fit on the GPU.
    """

    def __init__(
        self, groups: Sequence[Sequence[BoundLayer]], factors: FactorStore, *, is_grouping: bool
    ) -> None:
        self.singles: set[BoundLayer] = set()
        """The layers that have to be written one by one."""
        self._groups = groups
        self._factors = factors
        self._launches: list[Launch] = []
        members: dict[Place, list[Member]] = {}
        for index, group in enumerate(groups):
            for bound in group:
                if not (is_grouping and is_groupable(bound)):
                    self.singles.add(bound)
                    continue
                for member in _members_of(index, bound):
                    weight = member.slot.of(parameter_of(bound.layer, member.slot.parameter))
                    place = weight.device, weight.dtype, cuda.is_aligned(weight), _way_of(member)
                    members.setdefault(place, []).append(member)
        for (device, dtype, *_), candidates in members.items():
            factors.pack((member.factors for member in candidates), device, dtype)
            self.singles.update(
                member.bound for member in candidates if not factors.are_tame(member.factors)
            )
        stages: list[list[Member]] = [[] for _ in range(len(CUTS) + 1)]
        for (*_, way), candidates in members.items():
            written = [member for member in candidates if member.bound not in self.singles]
            cuts = [int(len(written) * cut) for cut in CUTS]
            for stage, ends in zip(stages, pairwise((0, *cuts, len(written))), strict=True):
                stage += written[slice(*ends)]
            if written:
                self._launches.append(self._launch(way, written, cuts))
        self._stages = [
            Stage(Watch(stage, self.singles if stage is stages[-1] else ()), _refills(stage)) for stage in stages
        ]

    def _launch(self, way: Way, members: Sequence[Member], cuts: Sequence[int]) -> Launch:
        factors = [self._factors.of(member.factors) for member in members]
        if way is Way.LEAN:
            return self._lean_launch(members, factors, cuts)
        parts = [Part(*_weight_and_base(member), packed) for member, packed in zip(members, factors, strict=True)]
        if way is Way.LOW_RANK:
            return Launch(cuda.GroupedUpdate(parts, cuts), self._terms(members))
        terms = [
            (member.group, member.number, network, piece.scale)
            for member in members for network, piece in member.pieces
        ]
        with_pieces = [
            PiecePart(part.weight, part.base, part.factors, tuple(piece for _network, piece in member.pieces))
            for member, part in zip(members, parts, strict=True)
        ]
        return Launch(cuda.GroupedPieceUpdate(with_pieces, cuts), Terms(terms, self._groups))

    def _lean_launch(
        self, members: Sequence[Member], factors: Sequence[Factors | None], cuts: Sequence[int]
    ) -> LeanLaunch:
        parts: list[LeanPart] = []
        bounds: list[BoundLayer] = []
        limits: list[float] = []
        firsts: list[int] = []
        for member, packed in zip(members, factors, strict=True):
            weight = parameter_of(member.bound.layer, member.slot.parameter)
            parts.append(LeanPart(weight, member.backup.code, packed))
            firsts.append(len(bounds))
            for limit, chunks in zip(member.backup.limits, packed.chunks if packed is not None else (), strict=True):
                bounds += [member.bound] * chunks
                limits += [limit] * chunks
        update = cuda.GroupedLeanUpdate(parts, cuts)
        return LeanLaunch(update, self._terms(members), [firsts[cut] for cut in cuts], bounds, limits)

    def _terms(self, members: Sequence[Member]) -> Terms:
        """Those of chunks."""
        terms = [
            (member.group, member.number, network, piece.scale)
            for member in members for network, piece in member.pieces for _ in range(chunks_of(*piece.factors))
        ]
        return Terms(terms, self._groups)

    def allows(self, values: Sequence[Value]) -> bool:
        """Whether ``values`` are within the limits of layers that have no copy."""
        return all(launch.allows(values) for launch in self._launches)

    def launch(self, values: Sequence[Value], shared: Sequence[Holding | None], names: Names | None) -> bool:
        """Bring all layers but the singles to ``values``, one for each group.

        Args:
            shared: for each group the holding that all its layers share, and no other layers; None if there is none.
            names: what all layers, the singles too, have to have as ``network_current_names``; None for anything.

        Returns:
            Whether all weights and their copies were where they had been, with these names. If not, some layers have
            been written, and the layers need another batch.
        """
        uploads = [launch.upload(values, shared) for launch in self._launches]
        written: list[tuple[Launch, int]] = []
        noted: Sequence[Holding | None] = [None] * len(values)
        try:
            for number, stage in enumerate(self._stages):
                if not stage.watch.holds(names):
                    return False
                stage.refill()
                for launch, uploaded in zip(self._launches, uploads, strict=True):
                    launch.write(number, uploaded)
                    written.append((launch, number))
            noted = shared
            for holding, value in zip(shared, values, strict=True):
                if holding is not None:
                    holding.value = value
            return True
        finally:
            for launch, number in written:
                launch.note(number, values, noted)


def _members_of(group: int, bound: BoundLayer) -> Iterator[Member]:
    """The weights of a layer that :func:`is_groupable`."""
    for number, slot in enumerate(slots_of(bound.layer)):
        weight = slot.of(parameter_of(bound.layer, slot.parameter))

        def base(slot: Slot = slot) -> Tensor:
            return slot.of(base_weights.pristine(bound.layer, slot.parameter))

        pieces = [
            (network, piece)
            for network, delta in _deltas(bound, number) for piece in pieces_of(delta, weight, base)
        ]
        yield Member(group, bound, number, slot, pieces)


def _way_of(member: Member) -> Way:
    if isinstance(member.backup, Recoverable):
        return Way.LEAN
    return Way.LOW_RANK if all(piece.kind == Kind.LOW_RANK for _network, piece in member.pieces) else Way.PIECES


def _weight_and_base(member: Member) -> tuple[Tensor, Tensor]:
    """What the kernel writes and what it reads: the weight itself where it has no copy beside it."""
    slot, layer = member.slot, member.bound.layer
    weight, base = parameter_of(layer, slot.parameter), base_weights.pristine(layer, slot.parameter)
    return slot.of(weight), slot.of(base if _is_beside(base, weight) else weight)


def _is_beside(base: Tensor, weight: Tensor) -> bool:
    return base.device == weight.device and base.stride() == weight.stride()


def _refills(members: Sequence[Member]) -> list[tuple[Tensor, Tensor]]:
    """(weight, pristine value) of those that are not beside each other."""
    refills = []
    for member in members:
        if member.slot.third in (None, 0) and not isinstance(member.backup, Recoverable):
            weight = parameter_of(member.bound.layer, member.slot.parameter)
            base = base_weights.pristine(member.bound.layer, member.slot.parameter)
            if not _is_beside(base, weight):
                refills.append((weight, base))
    return refills


def is_groupable(bound: BoundLayer) -> bool:
    """Whether the kernel for many weights can take all of a layer."""
    slots = slots_of(bound.layer)
    weights = [slot.of(parameter_of(bound.layer, slot.parameter)) for slot in slots]
    return (
        len(targets_of(bound.layer)) == len(weights)
        and not bound.record.bias_is_changed
        and all(cuda.supports(weight) for weight in weights)
        and all(
            can_be_pieces([delta for _network, delta in _deltas(bound, number)], weight.shape, weight.dtype)
            for number, weight in enumerate(weights)
        )
    )


def _deltas(bound: BoundLayer, number: int) -> list[tuple[int, Delta]]:
    """(network, delta) for one slot of a layer."""
    return [(network, delta) for slot, network, delta in bound.deltas if slot == number]
