"""LoHa: the change is the elementwise product of two low-rank matrices."""
from __future__ import annotations

import lyco_helpers
import torch

import network

KEYS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


class ModuleTypeHada(network.ModuleType):
    def create_module(self, net: network.Network, weights: network.NetworkWeights) -> NetworkModuleHada | None:
        return NetworkModuleHada(net, weights) if all(key in weights.w for key in KEYS) else None


class NetworkModuleHada(network.NetworkModule):
    def __init__(self, net: network.Network, weights: network.NetworkWeights):
        super().__init__(net, weights)
        self.w1a, self.w1b, self.w2a, self.w2b = (weights.w[key] for key in KEYS)
        self.t1 = weights.w.get("hada_t1")
        self.t2 = weights.w.get("hada_t2")
        self.dim = self.w1b.shape[0]

    @staticmethod
    def _factor(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None, device: torch.device) -> torch.Tensor:
        a, b = a.to(device), b.to(device)
        if core is not None:
            return lyco_helpers.make_weight_cp(core.to(device), a, b)
        return lyco_helpers.rebuild_conventional(a, b, [a.shape[0], *b.shape[1:]])

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        first = self._factor(self.w1a, self.w1b, self.t1, orig_weight.device)
        second = self._factor(self.w2a, self.w2b, self.t2, orig_weight.device)
        updown = first * second.reshape(first.shape)
        return self.finalize_updown(updown, orig_weight, list(updown.shape))
