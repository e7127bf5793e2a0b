"""A set of layers that are written together: in one launch those that a grouped kernel takes, one by one the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import eq, getitem, is_, itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lbw import base_weights
from lbw.base_weights import parameter_of
from lbw.binding import BoundLayer, Holding, Slot, Value, slots_of, targets_of
from lbw.deltas import LowRank
from lbw.factors import Factors, FactorStore, chunks_of
from lbw.kernels import cuda
from lbw.kernels.part import LeanPart, Part
from lbw.recoverable import Recoverable

Names = tuple[Any, ...]

Place = tuple[torch.device, torch.dtype, bool, bool]
"""Device, type, whether the rows are aligned, and whether there is no copy: what the weights of a launch have in
common."""

Term = tuple[int, int, int, float]
"""(group, slot, network, scale) of a chunk of one weight's factors: its coefficient is that of the group, times the
scale."""

Member = tuple[int, BoundLayer, int, Slot]
"""(group, layer, number of the slot, slot)"""

HEAD = 8
"""One in so many weights is in the first launch of a switch: while the GPU works on it, the others are checked."""

_names_of, _backup_of = itemgetter("network_current_names"), itemgetter("network_weights_backup")


class Terms:
    """The chunks of one launch, and how their coefficients come from those of the groups, all at once."""

    def __init__(self, terms: Sequence[Term], groups: Sequence[Sequence[BoundLayer]]) -> None:
        self.terms = terms
        slots = [len(group[0].keys) for group in groups]
        firsts = np.cumsum([0, *slots])
        rows = [int(firsts[group]) + slot for group, slot, _network, _scale in terms]
        self._indices = np.array(rows, np.int64), np.array([network for _, _, network, _ in terms], np.int64)
        self._scales = np.array([scale for *_, scale in terms], np.float64)

    def coefficients(self, values: Sequence[Value]) -> np.ndarray:
        """One coefficient for each chunk, from the values of all groups."""
        rows = [slot for value in values for slot in value]
        coefficients: np.ndarray = np.array(rows, np.float64).reshape(len(rows), -1)[self._indices] * self._scales
        return coefficients

    def in_force(self, bounds: Sequence[BoundLayer], shared: Sequence[Holding | None]) -> np.ndarray:
        """One coefficient for each chunk, of what is in the weights now. ``bounds`` has the layer of each chunk."""
        common = [holding.value for holding in shared if holding is not None]
        if len(common) == len(shared):
            return self.coefficients(common)
        held = [bound.record.holding.value for bound in bounds]
        terms = zip(self.terms, held, strict=True)
        return np.array([value[slot][network] * scale for (_group, slot, network, scale), value in terms])


class Launch:
    """Weights that one kernel writes, in two stages. They have one place, and each has a copy of its pristine value."""

    def __init__(self, update: cuda.GroupedUpdate | cuda.GroupedLeanUpdate, terms: Terms) -> None:
        self._update, self._terms = update, terms

    def allows(self, _values: Sequence[Value]) -> bool:
        """Whether the pristine weights are not lost when these values are written."""
        return True

    def upload(self, values: Sequence[Value], _shared: Sequence[Holding | None]) -> cuda.Uploaded:
        """Bring to the device what both stages need."""
        return self._update.upload(self._terms.coefficients(values))

    def write(self, stage: int, uploaded: cuda.Uploaded) -> None:
        self._update.launch(stage, uploaded)

    def note(self, _stage: int, _values: Sequence[Value], _shared: Sequence[Holding | None]) -> None:
        """Note what a stage has written, if that is all that the pristine values can be recovered from.

        Args:
            shared: for each group the holding in which that has been noted; None if there is none.
        """


class LeanLaunch(Launch):
    """As :class:`Launch`, for layers without a copy.

    Args:
        head: how many terms are those of the first stage.
        bounds: the layer of each term.
        limits: the largest coefficient of each.
    """

    def __init__(
        self,
        update: cuda.GroupedLeanUpdate,
        terms: Terms,
        head: int,
        bounds: Sequence[BoundLayer],
        limits: Sequence[float],
    ) -> None:
        super().__init__(update, terms)
        self._bounds = bounds
        self._limits = np.abs([limit * scale for limit, (*_, scale) in zip(limits, terms.terms, strict=True)])
        self._stages = slice(0, head), slice(head, len(bounds))

    def allows(self, values: Sequence[Value]) -> bool:
        return bool((np.abs(self._terms.coefficients(values)) <= self._limits).all())

    def upload(self, values: Sequence[Value], shared: Sequence[Holding | None]) -> cuda.Uploaded:
        return self._update.upload(self._terms.coefficients(values), self._terms.in_force(self._bounds, shared))

    def note(self, stage: int, values: Sequence[Value], shared: Sequence[Holding | None]) -> None:
        if None not in shared:
            return
        chosen = self._stages[stage]
        for (group, *_), bound in zip(self._terms.terms[chosen], self._bounds[chosen], strict=True):
            if shared[group] is None:
                bound.record.holding = Holding(values[group])


class Watch:
    """Tells whether layers are as they were when it was made.

    Args:
        members: their weights and backups have to be where they were.
        others: layers that are only asked for their names.
    """

    def __init__(self, members: Sequence[Member], others: Iterable[BoundLayer] = ()) -> None:
        owners = [slot.parameter.rpartition(".") for *_, slot in members]
        self._parameters = [
            bound.layer.get_submodule(owner)._parameters
            for (_, bound, *_), (owner, _, _) in zip(members, owners, strict=True)
        ]
        self._names = [name for _, _, name in owners]
        layers = dict.fromkeys(bound for _, bound, *_ in members)
        self._attributes = [bound.attributes for bound in layers]
        self._all_attributes = [*self._attributes, *(bound.attributes for bound in others)]
        self._pointers, self._backups = list(self._pointers_now()), list(self._backups_now())

    def holds(self, names: Names | None) -> bool:
        """Whether all are so, and, unless it is None, have these very ``names``."""
        try:
            return (
                all(map(eq, self._pointers_now(), self._pointers))
                and all(map(is_, self._backups_now(), self._backups))
                and (names is None or all(map(is_, map(_names_of, self._all_attributes), repeat(names))))
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
                for number, slot in enumerate(slots_of(bound.layer)):
                    weight = slot.of(parameter_of(bound.layer, slot.parameter))
                    is_lean = isinstance(bound.attributes["network_weights_backup"], Recoverable)
                    place = weight.device, weight.dtype, cuda.is_aligned(weight), is_lean
                    members.setdefault(place, []).append((index, bound, number, slot))
        for (device, dtype, *_), slots in members.items():
            factors.pack((_deltas(bound, number) for _, bound, number, _ in slots), device, dtype)
            self.singles.update(
                bound for _, bound, number, _ in slots if not factors.are_tame(_deltas(bound, number))
            )
        heads: list[Member] = []
        tails: list[Member] = []
        for (*_, is_lean), slots in members.items():
            written = [member for member in slots if member[1] not in self.singles]
            head = len(written) // HEAD
            heads += written[:head]
            tails += written[head:]
            if written:
                self._launches.append(self._lean_launch(written, head) if is_lean else self._launch(written, head))
        self._stages = [
            Stage(Watch(heads), _refills(heads)), Stage(Watch(tails, self.singles), _refills(tails))
        ]

    def _launch(self, members: Sequence[Member], head: int) -> Launch:
        parts = [
            Part(*_weight_and_base(bound, slot), self._packed(bound, number)) for _, bound, number, slot in members
        ]
        return Launch(cuda.GroupedUpdate(parts, head), self._terms(members))

    def _lean_launch(self, members: Sequence[Member], head: int) -> LeanLaunch:
        parts: list[LeanPart] = []
        bounds: list[BoundLayer] = []
        limits: list[float] = []
        terms_of_head = 0
        for index, (_group, bound, number, slot) in enumerate(members):
            backup, packed = bound.attributes["network_weights_backup"], self._packed(bound, number)
            parts.append(LeanPart(parameter_of(bound.layer, slot.parameter), backup.code, packed))
            for limit, chunks in zip(backup.limits, packed.chunks if packed is not None else (), strict=True):
                bounds += [bound] * chunks
                limits += [limit] * chunks
            if index < head:
                terms_of_head = len(bounds)
        update = cuda.GroupedLeanUpdate(parts, head)
        return LeanLaunch(update, self._terms(members), terms_of_head, bounds, limits)

    def _packed(self, bound: BoundLayer, number: int) -> Factors | None:
        return self._factors.of(_deltas(bound, number))

    def _terms(self, members: Sequence[Member]) -> Terms:
        terms = [
            (group, number, network, delta.scale)
            for group, bound, number, _slot in members
            for network, delta in _low_rank(bound, number) for _ in range(chunks_of(delta))
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


def _weight_and_base(bound: BoundLayer, slot: Slot) -> tuple[Tensor, Tensor]:
    """What the kernel writes and what it reads: the weight itself where it has no copy beside it."""
    weight, base = parameter_of(bound.layer, slot.parameter), base_weights.pristine(bound.layer, slot.parameter)
    return slot.of(weight), slot.of(base if _is_beside(base, weight) else weight)


def _is_beside(base: Tensor, weight: Tensor) -> bool:
    return base.device == weight.device and base.stride() == weight.stride()


def _refills(members: Sequence[Member]) -> list[tuple[Tensor, Tensor]]:
    """(weight, pristine value) of those that are not beside each other."""
    refills = []
    for _, bound, _, slot in members:
        weight, backup = parameter_of(bound.layer, slot.parameter), bound.attributes["network_weights_backup"]
        if slot.third in (None, 0) and not isinstance(backup, Recoverable):
            base = base_weights.pristine(bound.layer, slot.parameter)
            if not _is_beside(base, weight):
                refills.append((weight, base))
    return refills


def is_groupable(bound: BoundLayer) -> bool:
    """Whether the kernel for many weights can take all of a layer."""
    weights = [slot.of(parameter_of(bound.layer, slot.parameter)) for slot in slots_of(bound.layer)]
    dtype = weights[0].dtype
    return (
        len(targets_of(bound.layer)) == len(weights)
        and not bound.record.bias_is_changed
        and all(cuda.supports(weight) for weight in weights)
        and all(
            isinstance(delta, LowRank) and delta.bias is None and delta.up.dtype == delta.down.dtype == dtype
            for _slot, _network, delta in bound.deltas
        )
    )


def _low_rank(bound: BoundLayer, number: int) -> list[tuple[int, LowRank]]:
    """(network, delta) for one slot of a layer."""
    return [
        (network, delta) for slot, network, delta in bound.deltas if slot == number and isinstance(delta, LowRank)
    ]


def _deltas(bound: BoundLayer, number: int) -> list[LowRank]:
    return [delta for _network, delta in _low_rank(bound, number)]
