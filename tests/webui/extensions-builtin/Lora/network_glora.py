"""GLoRA: a low-rank change, and besides the layer's own weight times a low-rank matrix."""
from __future__ import annotations

import torch

import network

KEYS = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


class ModuleTypeGLora(network.ModuleType):
    def create_module(self, net: network.Network, weights: network.NetworkWeights) -> NetworkModuleGLora | None:
        return NetworkModuleGLora(net, weights) if {*KEYS, "alpha"} <= weights.w.keys() else None


class NetworkModuleGLora(network.NetworkModule):
    """As in the host, nothing tells the rank, so that alpha has no effect."""

    def __init__(self, net: network.Network, weights: network.NetworkWeights):
        super().__init__(net, weights)
        self.w1a, self.w2a, self.w1b, self.w2b = (weights.w[key] for key in KEYS)

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        a1, a2, b1, b2 = (part.to(orig_weight.device) for part in (self.w1a, self.w2a, self.w1b, self.w2b))
        of_weight = orig_weight.to(a1.dtype) @ a2 @ a1
        return self.finalize_updown(b2 @ b1 + of_weight, orig_weight, [a1.shape[0], b1.shape[1]])
