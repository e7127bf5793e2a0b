"""How strong a network is: what it adds to a weight, relative to that weight, layer by layer, without an image.

Both are Frobenius norms; those of a group of layers are those of all their weights as one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import hypot
from typing import TypeVar

from lbw.tags.elements import ELEMENTS

Label = str | None
"""A block or an element; None: layers in no block, or without an element that has a name."""

_Key = TypeVar("_Key")


class UnmeasurableError(Exception):
    """A network cannot be measured now; the message says why, and what to do."""


class UnknownNetworkError(UnmeasurableError):
    """The host knows no network of this name."""


@dataclass(frozen=True)
class Norms:
    """The norms of what a network adds to some layers at strength 1, and of the weights that it is added to."""

    layers: int = 0
    delta: float = 0.0
    weight: float = 0.0

    @property
    def strength(self) -> float:
        """The one relative to the other; 0 where there is nothing."""
        return self.delta / self.weight if self.weight else 0.0

    def __add__(self, other: Norms) -> Norms:
        return Norms(self.layers + other.layers, hypot(self.delta, other.delta), hypot(self.weight, other.weight))


@dataclass(frozen=True)
class Part:
    """One layer that a network changes, or one of the parts that a network has for it."""

    key: str
    block: Label
    element: Label
    norms: Norms


@dataclass(frozen=True)
class Strengths:
    """What a network is in one model.

    ``blocks`` are those that the model has, in their order, ``messages`` what of the network could not be used.
    """

    name: str
    blocks: tuple[Label, ...]
    parts: tuple[Part, ...]
    messages: tuple[str, ...] = ()

    @property
    def total(self) -> Norms:
        return sum((part.norms for part in self.parts), Norms())

    def by_block(self) -> dict[Label, Norms]:
        """The norms in each block of the model; where the network changes nothing they are 0."""
        found = self._grouped(lambda part: part.block)
        return {block: found.get(block, Norms()) for block in self.blocks}

    def by_element(self) -> dict[Label, Norms]:
        """The norms in each element that the network changes, in the order of ``ELEMENTS``."""
        found = self._grouped(lambda part: part.element)
        return {element: found[element] for element in (*ELEMENTS, None) if element in found}

    def by_cell(self) -> dict[tuple[Label, Label], Norms]:
        """The norms in each element of each block that the network changes."""
        return self._grouped(lambda part: (part.block, part.element))

    def _grouped(self, key: Callable[[Part], _Key]) -> dict[_Key, Norms]:
        groups: dict[_Key, Norms] = {}
        for part in self.parts:
            groups[key(part)] = groups.get(key(part), Norms()) + part.norms
        return groups
