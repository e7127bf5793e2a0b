"""What element rules hit in a model: for each rule, the layers whose ratio it sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lbw.tags.blocks import block_of, family_of_layers, label_ranges, labels_of
from lbw.tags.elements import ElementRule


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


def find_hits(rules: Iterable[ElementRule], layers: Iterable[str]) -> list[Hits]:
    """The layers that each rule sets. A layer that several rules match counts for the last of them, which wins."""
    layers = list(layers)
    family = family_of_layers(layers)
    rules = list(rules)
    found: list[list[tuple[str | None, str]]] = [[] for _ in rules]
    for layer in layers:
        label = block_of(layer, family)
        matching = [index for index, rule in enumerate(rules) if rule.matches(label, layer)]
        if matching:
            found[matching[-1]].append((label, layer))
    return [Hits(rule, tuple(hits)) for rule, hits in zip(rules, found, strict=True)]


def summaries(rules: Iterable[ElementRule], layers: Iterable[str]) -> list[tuple[str, tuple[str, ...]]]:
    """(one line of words, names of the layers) for each rule."""
    layers = list(layers)
    order = labels_of(family_of_layers(layers))
    return [(hits.summary(order), tuple(name for _, name in hits.layers)) for hits in find_hits(rules, layers)]
