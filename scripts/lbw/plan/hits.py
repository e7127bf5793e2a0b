"""What element rules hit in a model: for each rule, the layers whose ratio it sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lbw.tags.elements import ElementRule
from lbw.tags.families import Family, label_ranges


@dataclass(frozen=True)
class Hits:
    """One rule's layers, as (block label, layer name); the label is None for a layer in no block."""

    rule: ElementRule
    layers: tuple[tuple[str | None, str], ...]

    def blocks(self, order: tuple[str, ...]) -> str:
        """The blocks in which the rule hits, in words."""
        labels = {label for label, _ in self.layers}
        return " ".join([*label_ranges([label for label in labels if label], order), *["no block"] * (None in labels)])

    def summary(self, order: tuple[str, ...]) -> str:
        count = len(self.layers)
        if not count:
            return f"ratio {self.rule.ratio:g}: no layer"
        return f"ratio {self.rule.ratio:g}: {count} layer{'s' * (count > 1)} in {self.blocks(order)}"


def find_hits(rules: Iterable[ElementRule], layers: Iterable[str], family: Family) -> list[Hits]:
    """The layers that each rule sets. A layer that several rules match counts for the last of them, which wins."""
    rules = list(rules)
    found: list[list[tuple[str | None, str]]] = [[] for _ in rules]
    for layer in layers:
        names = family.names_of(layer)
        matching = [index for index, rule in enumerate(rules) if rule.matches(names, layer)]
        if matching:
            found[matching[-1]].append((family.block_of(layer), layer))
    return [Hits(rule, tuple(hits)) for rule, hits in zip(rules, found, strict=True)]


def summaries(
    rules: Iterable[ElementRule], layers: Iterable[str], family: Family
) -> list[tuple[str, tuple[str, ...]]]:
    """(one line of words, names of the layers) for each rule."""
    return [
        (hits.summary(family.labels), tuple(name for _, name in hits.layers))
        for hits in find_hits(rules, layers, family)
    ]
