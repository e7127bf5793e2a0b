"""LoKr: the change is the Kronecker product of two matrices, each whole in the file or as a product of two or three."""
from __future__ import annotations

import lyco_helpers
import torch

import network


class ModuleTypeLokr(network.ModuleType):
    def create_module(self, net: network.Network, weights: network.NetworkWeights) -> NetworkModuleLokr | None:
        complete = all(
            f"lokr_{part}" in weights.w or {f"lokr_{part}_a", f"lokr_{part}_b"} <= weights.w.keys()
            for part in ("w1", "w2"))
        return NetworkModuleLokr(net, weights) if complete else None


class NetworkModuleLokr(network.NetworkModule):
    """The rank, for alpha, is that of the second matrix if it has one, else that of the first."""

    def __init__(self, net: network.Network, weights: network.NetworkWeights):
        super().__init__(net, weights)
        self.w1, self.w1a, self.w1b, self.w2, self.w2a, self.w2b, self.t2 = (
            weights.w.get(f"lokr_{part}") for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
        for factor in (self.w1b, self.w2b):
            if factor is not None:
                self.dim = factor.shape[0]

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        w1, w1a, w1b, w2, w2a, w2b, t2 = (
            None if part is None else part.to(orig_weight.device)
            for part in (self.w1, self.w1a, self.w1b, self.w2, self.w2a, self.w2b, self.t2))
        small = w1a @ w1b if w1 is None else w1
        if w2 is not None:
            large = w2
        elif t2 is not None:
            large = lyco_helpers.make_weight_cp(t2, w2a, w2b)
        else:
            large = w2a @ w2b
        shape = [small.shape[0] * large.shape[0], small.shape[1] * large.shape[1]]
        if orig_weight.ndim == 4:
            shape = list(orig_weight.shape)
        if large.ndim == 4:
            small = small[:, :, None, None]
        return self.finalize_updown(torch.kron(small, large.contiguous()).reshape(shape), orig_weight, shape)
