"""Where the parts of networks come from: each family of hosts loads them in its own way."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

import torch

from lbw.engine.deltas import Delta
from lbw.engine.parameters import Layer, Slot

Network = Any
"""A host's object for a loaded network: its identity, its ``name`` and its :meth:`Parts.form` count."""


class Parts(Protocol):
    """What a family's adapter tells of networks."""

    def keys(self, network: Network) -> Iterable[str]:
        """The keys of all parts of a network."""
        ...

    def has_own(self, network: Network) -> bool:
        """Whether the host itself would leave some of them out, because it does not know them."""
        ...

    def form(self, network: Network) -> Hashable:
        """What may change in a network that is loaded, and changes its deltas."""
        ...

    def slots(self, layer: Layer) -> tuple[Slot, ...]:
        """The slots of a layer that networks may have parts for; none if its weights cannot be written."""
        ...

    def of(self, network: Network, slots: Sequence[Slot], keys: Sequence[str]) -> Sequence[tuple[int, Any]]:
        """(index of the slot, part) for each part that the host would apply to the slots of one layer.

        Args:
            keys: one for each slot.
        """
        ...

    def count(self, part: Any) -> int:
        """How many parts of a file it was made of."""
        ...

    def fault(self, network: Network, part: Any) -> str | None:
        """What is wrong with a part's numbers, so that it must not be used: NaN, for instance. None if nothing is."""
        ...

    def has_faults(self, network: Network) -> bool:
        """Whether there is such a part in a network."""
        ...

    def delta(self, network: Network, part: Any, shape: torch.Size, dtype: torch.dtype) -> Delta:
        """What a part adds to a weight of ``shape`` and ``dtype``; the same object when it is asked for again.

        Raises:
            UnsupportedPartError: the part does not fit, or is of a type that cannot be computed.
        """
        ...
