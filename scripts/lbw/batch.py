"""A set of layers that are written together: in one launch those that a grouped kernel takes, one by one the others."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem, is_, itemgetter
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lbw import base_weights
from lbw.base_weights import parameter_of
from lbw.binding import BoundLayer, Holding, Slot, Value, slots_of, targets_of
from lbw.deltas import LowRank
from lbw.factors import FactorStore
from lbw.recoverable import Recoverable

Place = tuple[torch.device, torch.dtype, bool]
"""Device, type, and whether the rows are aligned: what the weights of a launch have in common."""

Term = tuple[int, int, int, float]
"""(group, slot, network, scale) of one summand of one weight: its coefficient is that of the group, times the scale."""


class Terms:
    """The summands of one launch, and how their coefficients come from those of the groups, all at once."""

    def __init__(self, terms: Sequence[Term], groups: Sequence[Sequence[BoundLayer]]) -> None:
        self.terms = terms
        slots = [len(group[0].keys) for group in groups]
        firsts = np.cumsum([0, *slots])
        rows = [int(firsts[group]) + slot for group, slot, _network, _scale in terms]
        self._indices = np.array(rows, np.int64), np.array([network for _, _, network, _ in terms], np.int64)
        self._scales = np.array([scale for *_, scale in terms], np.float64)

    def coefficients(self, values: Sequence[Value]) -> np.ndarray:
        """One coefficient for each term, from the values of all groups."""
        rows = [slot for value in values for slot in value]
        coefficients: np.ndarray = np.array(rows, np.float64).reshape(len(rows), -1)[self._indices] * self._scales
        return coefficients


class Batch:
    """How to write some layers, found out once and used at each switch of the same layers.

    Args:
        groups: the layers; those of a group always have equal coefficients. Each has a copy of its pristine weights.
        factors: where the packed factors are.
        grouped: the grouped kernel, or None.

    Raises:
        torch.cuda.OutOfMemoryError: the factors do not fit on the GPU.
    """

    def __init__(
        self, groups: Sequence[Sequence[BoundLayer]], factors: FactorStore, grouped: ModuleType | None
    ) -> None:
        self.singles: set[BoundLayer] = set()
        """The layers that have to be written one by one."""
        self._groups = groups
        self._parameters: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._attributes: list[dict[str, Any]] = []
        self._refills: list[tuple[Tensor, Tensor]] = []
        """(weight, pristine value in RAM): copied back before the launch, which then works on the weight itself."""
        self._launches: list[tuple[Any, Terms]] = []
        self._lean_launches: list[tuple[Any, Terms, list[BoundLayer]]] = []
        self._limits: list[tuple[int, int, float]] = []
        """(group, network, largest coefficient) for lean layers."""
        members: dict[Place, list[tuple[int, BoundLayer, int, Slot]]] = {}
        for index, group in enumerate(groups):
            for bound in group:
                if grouped is None or not is_groupable(bound, grouped):
                    self.singles.add(bound)
                    continue
                self._attributes.append(bound.attributes)
                for number, slot in enumerate(slots_of(bound.layer)):
                    weight = slot.of(parameter_of(bound.layer, slot.parameter))
                    place = weight.device, weight.dtype, grouped.is_aligned(weight)
                    members.setdefault(place, []).append((index, bound, number, slot))
        for (device, dtype, _), slots in members.items():
            assert grouped is not None
            factors.pack((_deltas(bound, number) for _, bound, number, _ in slots), device, dtype)
            self._add_launches(slots, factors, grouped)
        self._pointers = self._pointers_now()
        self._backups = self._backups_now()

    def _add_launches(
        self, slots: Sequence[tuple[int, BoundLayer, int, Slot]], factors: FactorStore, grouped: ModuleType
    ) -> None:
        parts, lean_parts, lean_bounds = [], [], []
        terms: list[Term] = []
        lean_terms: list[Term] = []
        for group, bound, number, slot in slots:
            deltas = _low_rank(bound, number)
            packed = factors.of([delta for _network, delta in deltas])
            chosen = [(group, number, network, delta.scale) for network, delta in deltas]
            backup = bound.attributes["network_weights_backup"]
            weight, base = self._weight_and_base(bound, slot)
            if isinstance(backup, Recoverable):
                lean_parts.append(grouped.LeanPart(weight, backup.code, packed))
                lean_terms += chosen
                lean_bounds += [bound] * len(deltas)
                limits = zip(deltas, backup.limits, strict=True)
                self._limits += [(group, network, limit) for (network, _delta), limit in limits]
            else:
                parts.append(grouped.Part(weight, base, packed))
                terms += chosen
        if parts:
            self._launches.append((grouped.GroupedUpdate(parts), Terms(terms, self._groups)))
        if lean_parts:
            launch = grouped.GroupedLeanUpdate(lean_parts)
            self._lean_launches.append((launch, Terms(lean_terms, self._groups), lean_bounds))

    def _weight_and_base(self, bound: BoundLayer, slot: Slot) -> tuple[Tensor, Tensor]:
        """What the kernel writes and what it reads: the weight itself where it has no copy beside it."""
        owner, _, name = slot.parameter.rpartition(".")
        self._parameters.append(bound.layer.get_submodule(owner)._parameters)
        self._names.append(name)
        weight = parameter_of(bound.layer, slot.parameter)
        if isinstance(bound.attributes["network_weights_backup"], Recoverable):
            return weight, weight
        base = base_weights.pristine(bound.layer, slot.parameter)
        if base.device == weight.device and base.stride() == weight.stride():
            return slot.of(weight), slot.of(base)
        if slot.third in (None, 0):
            self._refills.append((weight, base))
        return slot.of(weight), slot.of(weight)

    def is_good_for(self, values: Sequence[Value]) -> bool:
        """Whether every weight and its pristine copy are where they were, and ``values`` are within the limits."""
        now = self._backups_now()
        return (
            self._pointers_now() == self._pointers
            and all(map(is_, now, self._backups))
            and all(abs(values[group][0][network]) <= limit for group, network, limit in self._limits)
        )

    def _pointers_now(self) -> list[int]:
        return list(map(Tensor.data_ptr, map(getitem, self._parameters, self._names)))

    def _backups_now(self) -> list[Any]:
        return list(map(itemgetter("network_weights_backup"), self._attributes))

    def launch(self, values: Sequence[Value]) -> None:
        """Bring all layers but the singles to ``values``, one for each group."""
        for weight, base in self._refills:
            weight.copy_(base, non_blocking=True)
        for update, terms in self._launches:
            update(terms.coefficients(values))
        in_force = [
            [
                bound.record.holding.value[slot][network] * scale
                for (_group, slot, network, scale), bound in zip(terms.terms, bounds, strict=True)
            ]
            for _update, terms, bounds in self._lean_launches
        ]
        # What is in a weight is all that its pristine value can be recovered from: it is noted whatever happens next.
        for (update, terms, bounds), old in zip(self._lean_launches, in_force, strict=True):
            update(old, terms.coefficients(values))
            for (group, *_), bound in zip(terms.terms, bounds, strict=True):
                bound.record.holding = Holding(values[group])


def is_groupable(bound: BoundLayer, grouped: ModuleType) -> bool:
    """Whether the grouped kernel can take all of a layer."""
    weights = [slot.of(parameter_of(bound.layer, slot.parameter)) for slot in slots_of(bound.layer)]
    dtype = weights[0].dtype
    return (
        len(targets_of(bound.layer)) == len(weights)
        and not bound.record.bias_is_changed
        and all(grouped.supports(weight) for weight in weights)
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
