"""A set of layers that are written together: in one launch those that a grouped kernel takes, one by one the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import eq, getitem, is_, itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lbw import base_weights
from lbw.base_weights import parameter_of
from lbw.binding import BoundLayer, Holding, Slot, Value, slots_of, targets_of
from lbw.deltas import LowRank
from lbw.factors import FactorStore
from lbw.kernels import cuda
from lbw.kernels.part import LeanPart, Part
from lbw.recoverable import Recoverable

Place = tuple[torch.device, torch.dtype, bool]
"""Device, type, and whether the rows are aligned: what the weights of a launch have in common."""

Term = tuple[int, int, int, float]
"""(group, slot, network, scale) of a chunk of one weight's factors: its coefficient is that of the group, times the
scale."""

Member = tuple[int, BoundLayer, int, Slot]
"""(group, layer, number of the slot, slot)"""

HEAD = 8
"""One in so many weights is in the first launch of a switch: while the GPU works on it, the others are checked."""


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


@dataclass(frozen=True)
class LeanLaunch:
    """One launch for layers without a copy: for each chunk its layer and its largest coefficient."""

    update: cuda.GroupedLeanUpdate
    terms: Terms
    bounds: Sequence[BoundLayer]
    limits: np.ndarray

    def allows(self, values: Sequence[Value]) -> bool:
        """Whether the pristine weights can be recovered from those that ``values`` make."""
        return bool((np.abs(self.terms.coefficients(values)) <= self.limits).all())


class Watch:
    """Tells whether weights, and the backups of their layers, are where they were when it was made."""

    def __init__(self, members: Sequence[Member]) -> None:
        owners = [slot.parameter.rpartition(".") for *_, slot in members]
        self._parameters = [
            bound.layer.get_submodule(owner)._parameters
            for (_, bound, *_), (owner, _, _) in zip(members, owners, strict=True)
        ]
        self._names = [name for _, _, name in owners]
        self._attributes = [bound.attributes for _, bound, *_ in members]
        self._pointers, self._backups = list(self._pointers_now()), list(self._backups_now())

    def holds(self) -> bool:
        return all(map(eq, self._pointers_now(), self._pointers)) and all(
            map(is_, self._backups_now(), self._backups)
        )

    def _pointers_now(self) -> Iterator[int]:
        return map(Tensor.data_ptr, map(getitem, self._parameters, self._names))

    def _backups_now(self) -> Iterator[Any]:
        return map(itemgetter("network_weights_backup"), self._attributes)


class Stage:
    """Some weights of a batch, and how to write those that have a copy."""

    def __init__(self) -> None:
        self.watch = Watch([])
        self.refills: list[tuple[Tensor, Tensor]] = []
        """(weight, pristine value in RAM): copied back before the launch, which then works on the weight itself."""
        self.launches: list[tuple[cuda.GroupedUpdate, Terms]] = []

    def weight_and_base(self, bound: BoundLayer, slot: Slot) -> tuple[Tensor, Tensor]:
        """What the kernel writes and what it reads: the weight itself where it has no copy beside it."""
        weight = parameter_of(bound.layer, slot.parameter)
        if isinstance(bound.attributes["network_weights_backup"], Recoverable):
            return weight, weight
        base = base_weights.pristine(bound.layer, slot.parameter)
        if base.device == weight.device and base.stride() == weight.stride():
            return slot.of(weight), slot.of(base)
        if slot.third in (None, 0):
            self.refills.append((weight, base))
        return slot.of(weight), slot.of(weight)

    def launch(self, values: Sequence[Value]) -> None:
        for weight, base in self.refills:
            weight.copy_(base, non_blocking=True)
        for update, terms in self.launches:
            update(terms.coefficients(values))


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
        self._lean_launches: list[LeanLaunch] = []
        members: dict[Place, list[Member]] = {}
        for index, group in enumerate(groups):
            for bound in group:
                if not (is_grouping and is_groupable(bound)):
                    self.singles.add(bound)
                    continue
                for number, slot in enumerate(slots_of(bound.layer)):
                    weight = slot.of(parameter_of(bound.layer, slot.parameter))
                    place = weight.device, weight.dtype, cuda.is_aligned(weight)
                    members.setdefault(place, []).append((index, bound, number, slot))
        for (device, dtype, _), slots in members.items():
            factors.pack((_deltas(bound, number) for _, bound, number, _ in slots), device, dtype)
            self.singles.update(
                bound for _, bound, number, _ in slots if not factors.are_tame(_deltas(bound, number))
            )
        written = [[member for member in slots if member[1] not in self.singles] for slots in members.values()]
        heads = [slots[: len(slots) // HEAD] for slots in written]
        tails = [slots[len(slots) // HEAD :] for slots in written]
        self._stages = [self._stage(places) for places in (heads, tails)]

    def _stage(self, places: Sequence[Sequence[Member]]) -> Stage:
        stage = Stage()
        for members in places:
            self._add_launches(stage, members)
        stage.watch = Watch([member for members in places for member in members])
        return stage

    def _add_launches(self, stage: Stage, members: Sequence[Member]) -> None:
        parts, lean_parts, lean_bounds, limits = [], [], [], []
        terms: list[Term] = []
        lean_terms: list[Term] = []
        for group, bound, number, slot in members:
            deltas = _low_rank(bound, number)
            packed = self._factors.of([delta for _network, delta in deltas])
            chunks = packed.chunks if packed is not None else ()
            chosen = [
                (group, number, network, delta.scale)
                for (network, delta), count in zip(deltas, chunks, strict=True) for _ in range(count)
            ]
            backup = bound.attributes["network_weights_backup"]
            weight, base = stage.weight_and_base(bound, slot)
            if isinstance(backup, Recoverable):
                lean_parts.append(LeanPart(weight, backup.code, packed))
                lean_terms += chosen
                lean_bounds += [bound] * len(chosen)
                limits += np.repeat(backup.limits, chunks).tolist()
            else:
                parts.append(Part(weight, base, packed))
                terms += chosen
        if parts:
            stage.launches.append((cuda.GroupedUpdate(parts), Terms(terms, self._groups)))
        if lean_parts:
            update, all_terms = cuda.GroupedLeanUpdate(lean_parts), Terms(lean_terms, self._groups)
            largest = np.abs([limit * scale for limit, (*_, scale) in zip(limits, lean_terms, strict=True)])
            self._lean_launches.append(LeanLaunch(update, all_terms, lean_bounds, largest))

    def allows(self, values: Sequence[Value]) -> bool:
        """Whether ``values`` are within the limits of layers that have no copy."""
        return all(launch.allows(values) for launch in self._lean_launches)

    def launch(self, values: Sequence[Value], shared: Sequence[Holding | None]) -> bool:
        """Bring all layers but the singles to ``values``, one for each group.

        Args:
            shared: for each group the holding that all its layers share, and no other layers; None if there is none.

        Returns:
            Whether all weights and their copies were where they had been. If not, some layers have been written, and
            the layers need another batch.
        """
        for stage in self._stages:
            if not stage.watch.holds():
                return False
            stage.launch(values)
        in_force = [launch.terms.in_force(launch.bounds, shared) for launch in self._lean_launches]
        # What is in a weight is all that its pristine value can be recovered from: it is noted whatever happens.
        launched: list[LeanLaunch] = []
        try:
            for launch, old in zip(self._lean_launches, in_force, strict=True):
                launch.update(old, launch.terms.coefficients(values))
                launched.append(launch)
        except BaseException:
            _note(launched, values, [None] * len(values))
            raise
        _note(launched, values, shared)
        return True


def _note(launched: Sequence[LeanLaunch], values: Sequence[Value], shared: Sequence[Holding | None]) -> None:
    """Note that lean layers hold ``values`` now: in the holding that a group shares, or in one of each layer's own."""
    for holding, value in zip(shared, values, strict=True):
        if holding is not None:
            holding.value = value
    for launch in launched if None in shared else ():
        for (group, *_), bound in zip(launch.terms.terms, launch.bounds, strict=True):
            if shared[group] is None:
                bound.record.holding = Holding(values[group])


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
