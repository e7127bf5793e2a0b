"""Element rules: ``blocks:elements:ratio``, which replace the ratio of the layers that they match."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lbw.tags.blocks import Selector, UnknownBlockError, block_range, families_with, split_words
from lbw.tags.families import SD1, Family
from lbw.tags.limits import LONGEST_RULE, MOST_RULES, number, shortened

ELEMENTS = (
    "attn1", "attn2", "img_attn", "txt_attn", "attn", "ff_net", "img_mlp", "txt_mlp", "mlp", "in_layers", "out_layers",
    "emb", "skip", "norm", "proj", "linear", "img_mod", "txt_mod", "modulation", "conv", "op",
)
"""Words that rules are made of: the parts of the blocks of U-Nets, text encoders, SD3 and Flux.

It is ``ff_net``, because every layer of a U-Net has ``ff`` in its name, in ``diffusion``."""


@dataclass(frozen=True)
class ElementRule:
    """One rule: layers in ``blocks`` whose name contains one of ``elements`` get ``ratio``."""

    blocks: Selector
    elements: Selector
    ratio: float

    def matches(self, names: Collection[str], layer: str) -> bool:
        """Whether the rule hits ``layer``, whose block has these names (none: it is in no block)."""
        elements = [word for word in self.elements.words if word in layer]
        return self.blocks.selects(names) and self.elements.selects(elements)


def element_of(layer: str) -> str | None:
    """The first of ``ELEMENTS`` in a layer's name; None for a layer that has none of them.

    A name may have several (``ff_net_0_proj``); the first is the part of the block that the layer is in.
    """
    return next((word for word in ELEMENTS if word in layer), None)


def _blocks(text: str, family: Family | None) -> Selector:
    """Blocks of other families are none of this one's, so that one set of rules can be for several.

    Raises:
        ValueError: a word is a block of no family, or a range runs backwards.
    """
    words, is_inverted = split_words(text)
    found: set[str] = set()
    for word in words:
        known = families_with(word)
        try:
            found |= {*block_range(word, family or (*known, SD1)[0], either_way=False)}
        except UnknownBlockError as error:
            if not known:
                raise UnknownBlockError(error.word, family) from None
            found.add(_OF_OTHERS)
    return Selector(frozenset(found), is_inverted)


_OF_OTHERS = ""
"""Stands for blocks that no model of the family has."""


def parse_rule(text: str, family: Family | None = None) -> ElementRule:
    """``blocks:elements:ratio``.

    Blocks are labels, groups or ranges separated by spaces, elements are parts of layer names separated by spaces; a
    leading ``NOT`` inverts, an empty field matches everything.

    Args:
        family: of the model that the rule is for; without it, the rule is only checked.

    Raises:
        ValueError: the rule is too long, has not three fields, names an unknown block, or its ratio is not a number.
    """
    shown = repr(shortened(text.strip()))
    if len(text) > LONGEST_RULE:
        raise ValueError(f"rule {shown} has {len(text)} characters; expected at most {LONGEST_RULE}")
    fields = [field.strip() for field in text.split(":")]
    if len(fields) != 3:
        raise ValueError(f"rule {shown} has {len(fields)} fields; expected blocks:elements:ratio")
    element_words = fields[1].split()
    elements_inverted = element_words[:1] == ["NOT"]  # in this case only: layers may have a not in their names
    try:
        blocks = _blocks(fields[0], family)
        ratio = number(fields[2])
    except ValueError as error:
        raise ValueError(f"rule {shown}: {error}") from None
    return ElementRule(blocks, Selector(frozenset(element_words[elements_inverted:]), elements_inverted), ratio)


def parse_rules(text: str, family: Family | None = None) -> tuple[ElementRule, ...]:
    """Rules separated by commas or newlines.

    Args:
        family: of the model that they are for; without it, they are only checked.

    Raises:
        ValueError: there are too many, or as in :func:`parse_rule`.
    """
    parts = [part for part in re.split(r"[,\n]", text) if part.strip()]
    if len(parts) > MOST_RULES:
        raise ValueError(f"{len(parts)} rules; expected at most {MOST_RULES}")
    return tuple(parse_rule(part, family) for part in parts)


def ratio_of(rules: Iterable[ElementRule], names: Collection[str], layer: str, ratio: float) -> float:
    """The ratio of ``layer`` after the rules: the last rule that hits replaces ``ratio``."""
    for rule in rules:
        if rule.matches(names, layer):
            ratio = rule.ratio
    return ratio
