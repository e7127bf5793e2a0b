"""Block weights by name: ``NONE,OUT03-OUT06=1,M00=0.5`` -> a vector with a value for each block of a family.

It begins with a preset's name, ``ALL`` (1 in all blocks), ``NONE`` (0) or one value for all blocks, or else at 1. What
follows is ``blocks=value``: blocks are labels, groups and ranges of them separated by blanks, which a leading ``NOT``
inverts, and a later item counts where two are for one block. Values are those of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from lbw.tags.blocks import UnknownBlockError, block_range, families_with, split_words
from lbw.tags.families import KNOWN, Family
from lbw.tags.limits import shortened
from lbw.tags.weights import Vector, check_value, is_named, is_value

STARTS = {"ALL": "1", "NONE": "0"}
"""Words for all blocks. Alone, a preset of this name counts instead, which may leave blocks out by its length."""


def is_for_all(text: str) -> bool:
    """Whether a text is one value, or ``ALL`` or ``NONE``, which is for all blocks."""
    return text.strip() in STARTS or is_value(text)


def as_preset(text: str) -> str:
    """Block weights as a line of a preset file has them, where one value alone is no preset."""
    text = text.strip()
    return f"{text},BASE={STARTS.get(text, text)}" if is_for_all(text) else text


def is_named_or_for_all(text: str) -> bool:
    """Whether a text is no vector by number and no preset's name, but what :func:`parse_named` reads."""
    return is_named(text) or is_for_all(text)


def parse_named(text: str, family: Family, vector_of: Callable[[str], Vector]) -> Vector:
    """The vector of a named form, or of one value, with a value for each block of a family.

    Args:
        vector_of: gives the vector of a preset that the named form begins with.

    Raises:
        ValueError: an item is no ``blocks=value``, names an unknown block, or has no value.
    """
    items = [item.strip() for item in text.split(",")]
    values = dict.fromkeys(family.labels, "1")
    notes = []
    if "=" not in items[0]:
        start = items.pop(0)
        begun = _for_all(start, family) if is_for_all(start) else vector_of(start)
        values, notes = dict(begun.complete().values), [*begun.notes]
    for words, value in _pairs(items):
        check_value(value)
        selected = _selected(words, family, notes)
        if "BASE" in selected:  # it is for all text encoders
            values = {name: known for name, known in values.items() if name not in family.single_encoders}
        values |= dict.fromkeys(selected, value)
    return Vector(family, values, frozenset(family.labels), notes=tuple(dict.fromkeys(notes)))


def check(text: str) -> Collection[Family]:
    """The families of published models on which block weights by name can be used, whatever the presets are.

    Raises:
        ValueError: there are none.
    """
    items = [item.strip() for item in text.split(",")]
    families: Collection[Family] = KNOWN
    for words, value in _pairs(items[1:] if "=" not in items[0] else items):
        check_value(value)
        for word in split_words(words)[0]:
            having = families_with(word)
            if not having:
                raise UnknownBlockError(word)
            families = [family for family in families if family in having]
            if not families:
                raise ValueError(f"{shortened(word)!r} is a block of no model that has the blocks before it")
    return families


def _pairs(items: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Blocks and value of each item.

    Raises:
        ValueError: an item is no ``blocks=value``.
    """
    for item in items:
        words, separator, value = (part.strip() for part in item.partition("="))
        if not separator or not words:
            raise ValueError(f"{shortened(item)!r} is not blocks=value, as OUT03-OUT06=1")
        yield words, value


def _for_all(text: str, family: Family) -> Vector:
    value = STARTS.get(text.strip(), text.strip())
    return Vector(family, dict.fromkeys(family.labels, value), frozenset(family.labels))


def _selected(text: str, family: Family, notes: list[str]) -> list[str]:
    """The labels, and text encoders of their own, that ``OUT03-OUT06 M00`` or ``NOT BASE`` selects."""
    words, is_inverted = split_words(text)
    found: set[str] = set()
    for word in words:
        names = [name for name in block_range(word, family) if family.has(name)]
        if not names:
            notes.append(f"{word} is left out, which this {family.title} model does not have")
        found |= {*names}
    if not is_inverted:
        return [name for name in (*family.labels, *family.single_encoders) if name in found]
    rest = [label for label in family.labels if label not in found]
    if "BASE" in rest and found & {*family.single_encoders}:
        rest.remove("BASE")
        rest += [name for name in family.single_encoders if name not in found]
    return rest
