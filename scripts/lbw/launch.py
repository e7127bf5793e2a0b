"""What a kernel for many weights is launched with: the coefficients of a switch, for all of its weights at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lbw.binding import BoundLayer, Holding, Value
from lbw.kernels import cuda

Term = tuple[int, int, int, float]
"""(group, slot, network, scale) of a chunk of one weight's factors, or of a piece: its coefficient is that of the
group, times the scale."""


class Terms:
    """The chunks or pieces of one launch, and how their coefficients come from those of the groups, all at once."""

    def __init__(self, terms: Sequence[Term], groups: Sequence[Sequence[BoundLayer]]) -> None:
        self.terms = terms
        slots = [len(group[0].keys) for group in groups]
        firsts = np.cumsum([0, *slots])
        rows = [int(firsts[group]) + slot for group, slot, _network, _scale in terms]
        self._indices = np.array(rows, np.int64), np.array([network for _, _, network, _ in terms], np.int64)
        self._scales = np.array([scale for *_, scale in terms], np.float64)

    def coefficients(self, values: Sequence[Value]) -> np.ndarray:
        """One coefficient for each, from the values of all groups."""
        coefficients: np.ndarray = _matrix(values)[self._indices] * self._scales
        return coefficients

    def limits(self, limits: Sequence[float], values: Sequence[Value]) -> np.ndarray:
        """[slots of all groups, networks]: up to which values no term gets beyond its own of ``limits``."""
        matrix = np.full(_matrix(values).shape, np.inf)
        np.minimum.at(matrix, self._indices, limits)
        return matrix

    def in_force(self, bounds: Sequence[BoundLayer], shared: Sequence[Holding | None]) -> np.ndarray:
        """One coefficient for each chunk, of what is in the weights now. ``bounds`` has the layer of each chunk."""
        common = [holding.value for holding in shared if holding is not None]
        if len(common) == len(shared):
            return self.coefficients(common)
        held = [bound.record.holding.value for bound in bounds]
        terms = zip(self.terms, held, strict=True)
        return np.array([value[slot][network] * scale for (_group, slot, network, scale), value in terms])


def _matrix(values: Sequence[Value]) -> np.ndarray:
    """[slots of all groups, networks]"""
    rows = [slot for value in values for slot in value]
    return np.array(rows, np.float64).reshape(len(rows), -1)


class Launch:
    """Weights that one kernel writes, in stages. They have one place, and each has a copy of its pristine value."""

    def __init__(self, update: cuda.Update, terms: Terms) -> None:
        self._update, self._terms = update, terms

    def allows(self, _values: Sequence[Value]) -> bool:
        """Whether the pristine weights are not lost when these values are written."""
        return True

    def upload(self, values: Sequence[Value], _shared: Sequence[Holding | None]) -> cuda.Uploaded:
        """Bring to the device what all stages need."""
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
        cuts: with which terms the second and later stages begin.
        bounds: the layer of each term.
        limits: the largest coefficient of each.
    """

    def __init__(
        self,
        update: cuda.GroupedLeanUpdate,
        terms: Terms,
        cuts: Sequence[int],
        bounds: Sequence[BoundLayer],
        limits: Sequence[float],
    ) -> None:
        super().__init__(update, terms)
        self._bounds, self._limits = bounds, limits
        self._limits_of_values: np.ndarray | None = None
        self._stages = [slice(*ends) for ends in pairwise((0, *cuts, len(bounds)))]

    def allows(self, values: Sequence[Value]) -> bool:
        if self._limits_of_values is None:
            self._limits_of_values = self._terms.limits(self._limits, values)
        return bool((np.abs(_matrix(values)) <= self._limits_of_values).all())

    def upload(self, values: Sequence[Value], shared: Sequence[Holding | None]) -> cuda.Uploaded:
        return self._update.upload(self._terms.coefficients(values), self._terms.in_force(self._bounds, shared))

    def note(self, stage: int, values: Sequence[Value], shared: Sequence[Holding | None]) -> None:
        if None not in shared:
            return
        chosen = self._stages[stage]
        for (group, *_), bound in zip(self._terms.terms[chosen], self._bounds[chosen], strict=True):
            if shared[group] is None:
                bound.record.holding = Holding(values[group])
