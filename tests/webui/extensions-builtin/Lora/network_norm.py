"""The change of a normalisation layer's weight and bias, as plain tensors."""
from __future__ import annotations

import torch

import network


class ModuleTypeNorm(network.ModuleType):
    def create_module(self, net: network.Network, weights: network.NetworkWeights) -> NetworkModuleNorm | None:
        return NetworkModuleNorm(net, weights) if {"w_norm", "b_norm"} <= weights.w.keys() else None


class NetworkModuleNorm(network.NetworkModule):
    def __init__(self, net: network.Network, weights: network.NetworkWeights):
        super().__init__(net, weights)
        self.w_norm, self.b_norm = weights.w["w_norm"], weights.w["b_norm"]

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight, bias = (part.to(orig_weight.device) for part in (self.w_norm, self.b_norm))
        return self.finalize_updown(weight, orig_weight, weight.shape, bias)
