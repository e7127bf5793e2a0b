"""The whole change of a weight (and of its bias), as a plain tensor."""
from __future__ import annotations

import torch

import network


class ModuleTypeFull(network.ModuleType):
    def create_module(self, net: network.Network, weights: network.NetworkWeights) -> NetworkModuleFull | None:
        return NetworkModuleFull(net, weights) if "diff" in weights.w else None


class NetworkModuleFull(network.NetworkModule):
    def __init__(self, net: network.Network, weights: network.NetworkWeights):
        super().__init__(net, weights)
        self.weight = weights.w["diff"]
        self.ex_bias = weights.w.get("diff_b")

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        ex_bias = None if self.ex_bias is None else self.ex_bias.to(orig_weight.device)
        return self.finalize_updown(self.weight.to(orig_weight.device), orig_weight, self.weight.shape, ex_bias)
