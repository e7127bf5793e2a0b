"""Layers that change together, and what there is to write into them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lbw.binding import BoundLayer, Holding, Names, Value, all_have


@dataclass(eq=False)
class Cohort:
    """Layers whose coefficients are always equal.

    ``groups`` has the plan's group for each of their keys. While ``is_joined``, the records of all layers share one
    holding, so that what a switch costs here is one comparison and one assignment.
    """

    groups: tuple[int | None, ...]
    layers: list[BoundLayer]
    attributes: list[dict[str, Any]]
    holding: Holding = field(default_factory=Holding)
    is_joined: bool = False

    def join(self, token: Names, value: Value) -> None:
        """Share one holding, if every layer was brought to ``value``."""
        if all(bound.record.token is token and bound.record.holding.value == value for bound in self.layers):
            self.holding.value = value
            for bound in self.layers:
                bound.record.holding = self.holding
            self.is_joined = True

    def may_have(self, names: Names) -> bool:
        """Whether it is joined, and its first layer has these very ``names``, so that the others most likely have."""
        return self.is_joined and self.attributes[0].get("network_current_names") is names

    def still_has(self, names: Names) -> bool:
        """Whether every layer has these very ``names``."""
        return all_have(self.attributes, names)


@dataclass(eq=False)
class Job:
    """Layers of a cohort that have to be written, and what into them."""

    cohort: Cohort
    layers: list[BoundLayer]
    value: Value
