"""The Forge family's way of keeping book: none. The host has been given no patches, so it believes that weights are
pristine, and they are whenever it could look. What is in a layer is noted beside it."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from lbw.engine.parameters import Layer


class OwnPages:
    """The :class:`lbw.engine.ledger.Ledger` protocol. A page goes with its layer."""

    names_key, weights_key, bias_key = "names", "weights", "bias"
    is_shared = False

    def __init__(self) -> None:
        self._pages: WeakKeyDictionary[Layer, dict[str, Any]] = WeakKeyDictionary()

    def page(self, layer: Layer) -> dict[str, Any]:
        return self._pages.setdefault(layer, {})

    def master(self, layer: Layer, parameter: str) -> Tensor | None:
        return None
