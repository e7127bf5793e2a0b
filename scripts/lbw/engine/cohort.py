"""Layers that change together, and what there is to write into them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lbw.engine.binding import BoundLayer, Holding, Value
from lbw.engine.ledger import Names, Pages
from lbw.plan.plan import Coefficients


@dataclass(eq=False)
class Cohort:
    """Layers whose coefficients are always equal.

    ``groups`` has the plan's group for each of their keys. While ``is_joined``, the records of all layers share one
    holding, so that what a switch costs here is one comparison and one assignment.
    """

    groups: tuple[int | None, ...]
    layers: list[BoundLayer]
    pages: Pages
    holding: Holding = field(default_factory=Holding)
    is_joined: bool = False

    def wanted(self, coefficients: Coefficients) -> Value:
        """What the layers should hold."""
        values = coefficients.values_of_groups
        absent = (0.0,) * (len(values[0]) if values else 0)
        return tuple(absent if group is None else values[group] for group in self.groups)

    @property
    def held(self) -> Value:
        """What the layers hold; if they are not joined, what the first one holds."""
        return self.holding.value if self.is_joined else self.layers[0].record.holding.value

    def hold(self, value: Value) -> None:
        """All layers have been brought to ``value``."""
        self.holding.value = value
        if not self.is_joined:
            self.is_joined = True
            for bound in self.layers:
                bound.record.holding = self.holding

    def join(self, token: Names, value: Value) -> None:
        """Share one holding, if every layer was brought to ``value``."""
        if all(bound.record.token is token and bound.record.holding.value == value for bound in self.layers):
            self.hold(value)

    def part(self) -> None:
        """Each record has a holding of its own again."""
        if self.is_joined:
            self.is_joined = False
            for bound in self.layers:
                bound.record.holding = Holding(self.holding.value)

    def still_has(self, names: Names) -> bool:
        """Whether every layer has these very ``names``."""
        return self.pages.have(names)


def cohorts_of(layers: Iterable[BoundLayer], groups: Mapping[str, int], known: Iterable[Cohort]) -> list[Cohort]:
    """Split layers into cohorts. One of the ``known`` cohorts that has just the layers of a new one stays.

    Args:
        groups: {a key of a layer: its group}; layers of a group always have equal coefficients.
    """
    members: dict[tuple[int | None, ...], list[BoundLayer]] = {}
    for bound in layers:
        members.setdefault(tuple(groups.get(key) for key in bound.keys), []).append(bound)
    kept = {tuple(map(id, cohort.layers)): cohort for cohort in known}
    found = []
    for key, together in members.items():
        cohort = kept.pop(tuple(map(id, together)), None)
        if cohort is None:
            cohort = Cohort(key, together, Pages(bound.page for bound in together))
        cohort.groups = key
        found.append(cohort)
    for cohort in kept.values():
        cohort.part()
    return found
