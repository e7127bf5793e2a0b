"""How far coefficients go: what is prepared for switches has to be good for all of a pass."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lbw.engine.binding import BoundLayer, Value
from lbw.plan.plan import Coefficients

_ROUNDING = 1e-6
"""Of sums of coefficients, generously; far less than what is prepared is good for."""


class Reach:
    """The largest magnitude that each coefficient may have, of each of some networks in each layer."""

    def __init__(self, networks: int) -> None:
        self._nothing = (0.0,) * networks
        self._of_keys: dict[str, tuple[float, ...]] = {}
        self._groups: Mapping[str, int] | None = None
        self._of_groups: list[tuple[float, ...]] = []

    def set(self, largest: Coefficients) -> bool:
        """Coefficients get no larger than these. Returns whether that is news."""
        values = [tuple(each * (1 + _ROUNDING) for each in value) for value in largest.values_of_groups]
        of_keys = {key: values[group] for key, group in largest.groups.items()}
        if of_keys == self._of_keys:
            return False
        self._groups, self._of_keys = None, of_keys
        return True

    def cover(self, coefficients: Coefficients) -> bool:
        """Whether these are within reach. If not, they are now, and some more is: a rising strength shall not be out of
        reach again at each step."""
        if self._groups is not coefficients.groups:
            self._groups = coefficients.groups
            self._of_groups = [(math.inf,) * len(self._nothing) for _ in coefficients.values_of_groups]
            for key, group in coefficients.groups.items():
                own = self._of_keys.get(key, self._nothing)
                self._of_groups[group] = tuple(map(min, self._of_groups[group], own))
        beyond = {
            group: value
            for group, (value, limits) in enumerate(zip(coefficients.values_of_groups, self._of_groups, strict=True))
            if any(abs(coefficient) > limit for coefficient, limit in zip(value, limits, strict=True))
        }
        for key, group in coefficients.groups.items() if beyond else ():
            if group in beyond:
                own = self._of_keys.get(key, self._nothing)
                self._of_keys[key] = tuple(map(max, own, map(_rounded_up, beyond[group])))
        if beyond:
            self._groups = None
        return not beyond

    def of(self, bound: BoundLayer) -> Value:
        """That of a layer: one for each of its keys and each network."""
        return tuple(self._of_keys.get(key, self._nothing) for key in bound.keys)

    def touches(self, bound: BoundLayer) -> bool:
        """Whether any coefficient of a layer may be other than 0."""
        return any(limit != 0.0 for limits in self.of(bound) for limit in limits)


def _rounded_up(coefficient: float) -> float:
    return 2.0 ** max(0, math.ceil(math.log2(abs(coefficient)))) if coefficient else 1.0
