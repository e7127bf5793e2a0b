"""AUTOMATIC1111's way of keeping book: attributes of each layer, which the host compares and restores from at each
forward. It may patch a layer at any time, and so may whoever uses its functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lbw.engine.parameters import Layer


class LayerAttributes:
    """The :class:`lbw.engine.ledger.Ledger` protocol. A page is what torch keeps a layer's attributes in."""

    names_key = "network_current_names"
    weights_key = "network_weights_backup"
    bias_key = "network_bias_backup"
    is_shared = True

    def page(self, layer: Layer) -> dict[str, Any]:
        attributes: dict[str, Any] = layer.__dict__
        return attributes

    def master(self, layer: Layer, parameter: str) -> Tensor | None:
        """With weights in 8 bits the host may keep them in 16 bits, too."""
        master: Tensor | None = getattr(layer, "fp16_bias" if parameter.endswith("bias") else "fp16_weight", None)
        return master
