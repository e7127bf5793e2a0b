"""Element rules: ``blocks:elements:ratio``, which replace the ratio of the layers that they match."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lbw.tags.blocks import block_range
from lbw.tags.limits import LONGEST_RULE, MOST_RULES, number, shortened

ELEMENTS = (
    "attn1", "attn2", "img_attn", "txt_attn", "attn", "ff_net", "img_mlp", "txt_mlp", "mlp", "in_layers", "out_layers",
    "emb", "skip", "norm", "proj", "linear", "img_mod", "txt_mod", "modulation", "conv", "op",
)
"""Words that rules are made of: the parts of the blocks of U-Nets, text encoders, SD3 and Flux.

It is ``ff_net``, because every layer of a U-Net has ``ff`` in its name, in ``diffusion``."""


@dataclass(frozen=True)
class Selector:
    """A set of words, or everything but that set. Without words it selects everything."""

    words: frozenset[str]
    inverted: bool = False

    def selects(self, hit: bool) -> bool:
        return not self.words or hit != self.inverted


@dataclass(frozen=True)
class ElementRule:
    """One rule: layers in ``blocks`` whose name contains one of ``elements`` get ``ratio``."""

    blocks: Selector
    elements: Selector
    ratio: float

    def matches(self, label: str | None, layer: str) -> bool:
        """Whether the rule hits ``layer``, which is in the block ``label`` (None: in no block)."""
        in_block = label in self.blocks.words
        has_element = any(word in layer for word in self.elements.words)
        return self.blocks.selects(in_block) and self.elements.selects(has_element)


def element_of(layer: str) -> str | None:
    """The first of ``ELEMENTS`` in a layer's name; None for a layer that has none of them.

    A name may have several (``ff_net_0_proj``); the first is the part of the block that the layer is in.
    """
    return next((word for word in ELEMENTS if word in layer), None)


def _words(text: str) -> tuple[list[str], bool]:
    words = text.split()
    if words[:1] == ["NOT"]:
        return words[1:], True
    return words, False


def parse_blocks(text: str, *, either_way: bool = False) -> Selector:
    """``IN05-OUT05 M00``, ``NOT BASE``: labels or ranges separated by spaces, which a leading ``NOT`` inverts.

    Raises:
        ValueError: as in :func:`lbw.tags.blocks.block_range`.
    """
    words, inverted = _words(text)
    return Selector(frozenset(label for word in words for label in block_range(word, either_way=either_way)), inverted)


def parse_rule(text: str) -> ElementRule:
    """``blocks:elements:ratio``.

    Blocks are labels or ranges separated by spaces, elements are parts of layer names separated by spaces; a leading
    ``NOT`` inverts, an empty field matches everything.

    Raises:
        ValueError: the rule is too long, has not three fields, names an unknown block, or its ratio is not a number.
    """
    shown = repr(shortened(text.strip()))
    if len(text) > LONGEST_RULE:
        raise ValueError(f"rule {shown} has {len(text)} characters; expected at most {LONGEST_RULE}")
    fields = [field.strip() for field in text.split(":")]
    if len(fields) != 3:
        raise ValueError(f"rule {shown} has {len(fields)} fields; expected blocks:elements:ratio")
    element_words, elements_inverted = _words(fields[1])
    try:
        blocks = parse_blocks(fields[0])
        ratio = number(fields[2])
    except ValueError as error:
        raise ValueError(f"rule {shown}: {error}") from None
    return ElementRule(blocks, Selector(frozenset(element_words), elements_inverted), ratio)


def parse_rules(text: str) -> tuple[ElementRule, ...]:
    """Rules separated by commas or newlines.

    Raises:
        ValueError: there are too many, or as in :func:`parse_rule`.
    """
    parts = [part for part in re.split(r"[,\n]", text) if part.strip()]
    if len(parts) > MOST_RULES:
        raise ValueError(f"{len(parts)} rules; expected at most {MOST_RULES}")
    return tuple(map(parse_rule, parts))


def ratio_of(rules: Iterable[ElementRule], label: str | None, layer: str, ratio: float) -> float:
    """The ratio of ``layer`` after the rules: the last rule that hits replaces ``ratio``."""
    for rule in rules:
        if rule.matches(label, layer):
            ratio = rule.ratio
    return ratio
