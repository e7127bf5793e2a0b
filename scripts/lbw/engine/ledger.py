"""The ledger: the engine's book of what is in each layer, kept so that what the host believes of its layers is true.

Each layer has a page, with three entries at most: the names of what is in it, the backups of its weights, and that of
its bias. Where a page is, and under which keys the entries stand there, each family of hosts has its own way; the
engine knows none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import is_, itemgetter
from typing import Any, Protocol

from torch import Tensor, nn

from lbw.engine.parameters import Layer

Names = tuple[Any, ...]
"""What is in a layer, as its host would note it; ``()`` for the pristine weights."""

UNFINISHED: Names = ("LoRA Block Weight: unfinished",)
"""Of a layer whose update has failed: no names of networks. A host that looks restores it, or our next update does."""

DISOWNED: Names = ("LoRA Block Weight",)
"""Of a layer of ours whose contents no names of networks describe: a host that looks restores it."""


class Ledger(Protocol):
    """One family's way of keeping book: the keys of a page's entries, and where pages are."""

    names_key: str
    weights_key: str
    bias_key: str
    is_shared: bool
    """Whether the host itself restores layers by it. Where not, layers are patched only as long as they are at work."""

    def page(self, layer: Layer) -> dict[str, Any]:
        """The page of a layer: the same one as long as the layer lives. It has no backups any more as soon as other
        weights have been loaded into the layer: the host sees to that, or the adapter."""
        ...

    def master(self, layer: Layer, parameter: str) -> Tensor | None:
        """What networks are added to where the host keeps a parameter in more bits than it computes with."""
        ...


class Page:
    """What is noted of one layer. ``entries`` is where it stands."""

    __slots__ = ("_names_key", "_weights_key", "entries", "layer", "ledger")

    def __init__(self, layer: Layer, ledger: Ledger) -> None:
        self.layer, self.ledger = layer, ledger
        self.entries = ledger.page(layer)
        self._names_key, self._weights_key = ledger.names_key, ledger.weights_key

    @property
    def names(self) -> Names:
        names: Names = self.entries.get(self._names_key, ())
        return names

    @names.setter
    def names(self, names: Names) -> None:
        self.entries[self._names_key] = names

    @property
    def weights(self) -> tuple[Any, ...]:
        """The backups of the weights, one for each of :func:`weight_names`; each is None where there is none."""
        backup = self.entries.get(self._weights_key)
        return backup if isinstance(backup, tuple) else (backup,)

    @weights.setter
    def weights(self, backups: Sequence[Any]) -> None:
        several = isinstance(self.layer, nn.MultiheadAttention)
        self.entries[self._weights_key] = tuple(backups) if several else backups[0]

    @property
    def bias(self) -> Any:
        """The backup of the bias; None where there is none."""
        return self.entries.get(self.ledger.bias_key)

    @bias.setter
    def bias(self, backup: Any) -> None:
        self.entries[self.ledger.bias_key] = backup

    def master(self, parameter: str) -> Tensor | None:
        return self.ledger.master(self.layer, parameter)

    def clear(self) -> None:
        """As before anything was known of the layer."""
        self.names = ()
        self.entries[self._weights_key] = self.entries[self.ledger.bias_key] = None


class Pages:
    """The pages of several layers of one ledger, to be compared at once."""

    def __init__(self, pages: Iterable[Page]) -> None:
        together = list(pages)
        self._entries = [page.entries for page in together]
        ledger = together[0].ledger if together else None
        self._names_of = itemgetter("" if ledger is None else ledger.names_key)
        self._backup_of = itemgetter("" if ledger is None else ledger.weights_key)

    def have(self, names: Names) -> bool:
        """Whether all have these very ``names``."""
        try:
            return all(map(is_, map(self._names_of, self._entries), repeat(names)))
        except KeyError:
            return False

    def backups(self) -> Iterator[Any]:
        """The backups of their weights.

        Raises:
            KeyError: a page has none.
        """
        return map(self._backup_of, self._entries)
