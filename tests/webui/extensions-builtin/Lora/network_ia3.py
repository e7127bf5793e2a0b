"""IA3: the change is the layer's own weight, times a number for each input or output channel."""
from __future__ import annotations

import torch

import network


class ModuleTypeIa3(network.ModuleType):
    def create_module(self, net: network.Network, weights: network.NetworkWeights) -> NetworkModuleIa3 | None:
        return NetworkModuleIa3(net, weights) if "weight" in weights.w else None


class NetworkModuleIa3(network.NetworkModule):
    def __init__(self, net: network.Network, weights: network.NetworkWeights):
        super().__init__(net, weights)
        self.w = weights.w["weight"]
        self.on_input: bool = weights.w["on_input"].item()

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        factors = self.w.to(orig_weight.device)
        channels, inputs = factors.shape[0], orig_weight.shape[1]
        if self.on_input:
            return self.finalize_updown(orig_weight * factors, orig_weight, [inputs, channels])
        return self.finalize_updown(orig_weight * factors.reshape(-1, 1), orig_weight, [channels, inputs])
