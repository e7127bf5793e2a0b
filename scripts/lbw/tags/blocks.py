"""Blocks that a text selects: ``IN05-OUT05 M00``, ``NOT BASE``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from lbw.tags.families import KNOWN, Family
from lbw.tags.limits import LONGEST_WORD, shortened


class UnknownBlockError(ValueError):
    """A word is no block of a model of ``family``; without it, of no published model."""

    def __init__(self, word: str, family: Family | None = None) -> None:
        super().__init__(word)
        self.word, self._family = word, family

    def __str__(self) -> str:  # made when it is asked for: who tries many families asks for none
        if self._family is None:
            return f"{shortened(self.word)!r} is not a block of any known model"
        known = ", ".join(self._family.all_names)
        return f"{shortened(self.word)!r} is not a block of this {self._family.title} model; expected {known}"


@dataclass(frozen=True)
class Selector:
    """A set of words, or everything but that set. Without words it selects everything."""

    words: frozenset[str]
    inverted: bool = False

    def selects(self, names: Collection[str]) -> bool:
        """Whether it selects what has these names."""
        return not self.words or any(name in self.words for name in names) != self.inverted


def split_words(text: str) -> tuple[list[str], bool]:
    """The words of a text, and whether a leading ``NOT`` inverts them."""
    words = text.split()
    is_inverted = bool(words) and words[0].upper() == "NOT"
    return words[is_inverted:], is_inverted


def block_range(word: str, family: Family, *, either_way: bool = True) -> tuple[str, ...]:
    """``IN05-OUT05`` -> the labels from IN05 to OUT05, in the order of the family; also a single one, or a group.

    They may be labels that only larger models of the family have.

    Raises:
        UnknownBlockError: no model of the family has such a block.
        ValueError: a text encoder of its own is in the range, or it runs backwards and shall not do so ``either_way``.
    """
    ends = word.split("-", maxsplit=1)
    found = [family.find(end) for end in ends]
    if not all(found):
        unknown = next((end for end, labels in zip(ends, found, strict=True) if end and not labels), word)
        raise UnknownBlockError(unknown, family)
    if len(found) == 1:
        return found[0]
    labels = [label for end in found for label in end]
    order = family.vocabulary
    if not set(labels) <= set(order):
        raise ValueError(f"the range {word!r} has a text encoder at one end; expected blocks, or BASE")
    places = [order.index(label) for label in labels]
    if places[-1] < places[0] and not either_way:
        raise ValueError(f"the range {word!r} runs backwards")
    return order[min(places) : max(places) + 1]


def parse_blocks(text: str, family: Family) -> Selector:
    """``IN05-OUT05 M00``, ``NOT BASE``: blocks, groups or ranges separated by spaces, which a leading ``NOT`` inverts.

    Raises:
        ValueError: as in :func:`block_range`.
    """
    words, is_inverted = split_words(text)
    return Selector(frozenset(label for word in words for label in block_range(word, family)), is_inverted)


@lru_cache(maxsize=10_000)
def _families_with(word: str) -> tuple[Family, ...]:
    ends = word.split("-", maxsplit=1)
    return tuple(family for family in KNOWN if all(map(family.find, ends)))


def families_with(word: str) -> tuple[Family, ...]:
    """The families of published models on which such a block, group or range means something."""
    return _families_with(word) if len(word) <= LONGEST_WORD else ()
