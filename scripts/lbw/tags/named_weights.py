"""Block weights by name: ``NONE,OUT03-OUT06=1,M00=0.5`` -> a vector with a value for each block of a family.

It begins with a preset's name, ``ALL`` (1 in all blocks), ``NONE`` (0) or one value for all blocks, or else at 1. What
follows is ``blocks=value``: blocks are labels, groups and ranges of them separated by blanks, which a leading ``NOT``
inverts, and a later item counts where two are for one block. Values are those of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from random import Random

from lbw.tags.blocks import LAYOUTS, Family, family_of_layout, label_ranges, labels_of
from lbw.tags.limits import shortened
from lbw.tags.weights import is_named, ones, parse_value

STARTS = {"ALL": "1", "NONE": "0"}
"""Words for all blocks. Alone, a preset of this name counts instead, which may leave blocks out by its length."""

_NUMBERED = re.compile(r"([A-Z]+)(\d{1,3})")


@cache
def groups_of(family: Family) -> Mapping[str, tuple[str, ...]]:
    """{name: labels of several blocks}. ``FIRST``, ``MID`` and ``LAST`` are the parts of a U-Net, and thirds of the
    blocks of a transformer."""

    def kind(prefix: str) -> tuple[str, ...]:
        return tuple(label for label in labels_of(family) if re.fullmatch(rf"{prefix}\d+", label))

    if family is Family.UNET:
        parts = {"IN": kind("IN"), "M": kind("M"), "OUT": kind("OUT")}
        return parts | dict(zip(("FIRST", "MID", "LAST"), parts.values(), strict=True))
    blocks = kind("D") + kind("S")
    third = -(-len(blocks) // 3)
    return {
        "BASE": ("CLIP", "T5"), "D": kind("D"), "S": kind("S"),
        "FIRST": blocks[:third], "MID": blocks[third : 2 * third], "LAST": blocks[2 * third :],
    }  # fmt: skip


def is_block(word: str) -> bool:
    """Whether a word is a block, or a group of them, on models of any family."""
    return any(_find(word, family) for family in Family)


def is_for_all(text: str) -> bool:
    """Whether a text is one value, or ``ALL`` or ``NONE``, which is for all blocks."""
    text = text.strip()
    if text in STARTS:
        return True
    try:
        parse_value(text, 1.0, Random(0))
    except ValueError:
        return False
    return True


def is_written_out(text: str) -> bool:
    """Whether a text is no vector and no preset's name, but what :func:`written_out` makes a vector of."""
    return is_named(text) or is_for_all(text)


def written_out(text: str, family: Family, vector_of: Callable[[str], str]) -> str:
    """The vector of a named form, or of one value, with a value for each block of a family.

    Args:
        vector_of: gives the vector of a preset that the named form begins with.

    Raises:
        ValueError: an item is no ``blocks=value``, names an unknown block, or has no value.
    """
    items = [item.strip() for item in text.split(",")]
    values = dict.fromkeys(labels_of(family), "1")
    if "=" not in items[0]:
        values = _start(items.pop(0), family, vector_of)
    for item in items:
        words, separator, value = (part.strip() for part in item.partition("="))
        if not separator or not words:
            raise ValueError(f"{shortened(item)!r} is not blocks=value, as OUT03-OUT06=1")
        parse_value(value, 1.0, Random(0))
        values |= dict.fromkeys(_selected(words, family), value)
    return ",".join(values.values())


def check(text: str) -> None:
    """
    Raises:
        ValueError: block weights by name can be used on no model, whatever the presets are.
    """
    failures = []
    for family in Family:
        try:
            written_out(text, family, partial(_some_preset, family))
            return
        except ValueError as error:
            failures.append(error)
    raise failures[0]


def _some_preset(family: Family, _name: str) -> str:
    return ones(family)


def _start(text: str, family: Family, vector_of: Callable[[str], str]) -> dict[str, str]:
    """{label: value} of what a named form begins with."""
    labels = labels_of(family)
    if is_for_all(text):
        return dict.fromkeys(labels, STARTS.get(text, text))
    values = vector_of(text).split(",")
    if family_of_layout(len(values)) is not family:
        raise ValueError(f"{shortened(text)}: a vector for another kind of model than this {family.value} model")
    given = dict(zip(LAYOUTS[len(values)], values, strict=True))
    return {label: given.get(label, "0") for label in labels}


def _selected(text: str, family: Family) -> tuple[str, ...]:
    """The labels that ``OUT03-OUT06 M00`` or ``NOT BASE`` selects."""
    words = text.split()
    is_inverted = words[0].upper() == "NOT"
    found = {label for word in words[is_inverted:] for label in _range(word, family)}
    return tuple(label for label in labels_of(family) if (label in found) != is_inverted)


def _range(word: str, family: Family) -> tuple[str, ...]:
    order = labels_of(family)
    places = []
    for end in word.split("-", maxsplit=1):
        labels = _find(end, family)
        if not labels:
            known = ", ".join((*label_ranges(order, order), *groups_of(family)))
            raise ValueError(f"{shortened(end)!r} is not a block of a {family.value} model; expected {known}")
        places += [order.index(labels[0]), order.index(labels[-1])]
    if "-" not in word:
        return _find(word, family)
    return order[min(places) : max(places) + 1]


def _find(word: str, family: Family) -> tuple[str, ...]:
    """The labels of a word, in any case and with or without leading zeros; none if it is unknown."""
    word = word.strip().upper()
    if word in groups_of(family):
        return groups_of(family)[word]
    if numbered := _NUMBERED.fullmatch(word):
        word = f"{numbered[1]}{int(numbered[2]):02d}"
    return (word,) if word in labels_of(family) else ()
