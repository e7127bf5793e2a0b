"""OFT and BOFT: the rows of the layer's weight, multiplied by orthogonal matrices."""
from __future__ import annotations

import torch
from torch import nn

import network


class ModuleTypeOFT(network.ModuleType):
    def create_module(self, net: network.Network, weights: network.NetworkWeights) -> NetworkModuleOFT | None:
        return NetworkModuleOFT(net, weights) if {"oft_blocks", "oft_diag"} & weights.w.keys() else None


class NetworkModuleOFT(network.NetworkModule):
    """`oft_blocks` (kohya, LyCORIS) is what the matrices are made of, `oft_diag` (old LyCORIS) the matrices themselves.

    `oft_blocks` with four axes holds BOFT's stages, of which each multiplies other groups of rows. The `alpha` beside
    them is no divisor but the bound on how far the matrices turn.
    """

    def __init__(self, net: network.Network, weights: network.NetworkWeights):
        super().__init__(net, weights)
        self.scale = 1.0
        self.is_R = "oft_blocks" not in weights.w
        self.oft_blocks = weights.w["oft_diag" if self.is_R else "oft_blocks"]
        self.is_boft = self.oft_blocks.ndim == 4
        self.out_dim = self._outputs(self.sd_module)
        self.num_blocks, self.block_size = self.oft_blocks.shape[-3:-1]
        self.dim = self.block_size if self.is_R else self.oft_blocks.shape[0]
        self.constraint = None
        if not self.is_R:
            self.alpha = weights.w.get("alpha")
            self.constraint = 0 if self.alpha is None else self.alpha * self.out_dim
        self.rescale = weights.w.get("rescale")
        if self.rescale is not None and hasattr(self.sd_module, "weight"):
            self.rescale = self.rescale.reshape(-1, *[1] * (self.sd_module.weight.ndim - 1))

    @staticmethod
    def _outputs(layer: nn.Module) -> int:
        if isinstance(layer, nn.MultiheadAttention):
            return layer.embed_dim
        return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features

    def _matrices(self, device: torch.device) -> torch.Tensor:
        blocks = self.oft_blocks.to(device)
        if self.is_R:
            return blocks
        skew = blocks - blocks.transpose(-1, -2)
        if self.constraint != 0:
            length = skew.flatten().norm()
            allowed = length.clamp(max=self.constraint.to(device))
            skew = skew * ((allowed + 1e-8) / (length + 1e-8))
        eye = torch.eye(self.block_size, device=device)
        return (eye + skew) @ (eye - skew).float().inverse()

    def _turn(self, matrices: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Each group of neighbouring rows, from the left by its matrix transposed."""
        groups = weight.unflatten(0, (-1, matrices.shape[-1]))
        return torch.einsum("gnm,gn...->gm...", matrices, groups).flatten(0, 1)

    def _turn_in_stages(self, stages: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """In stage i the partners of a row are 2^i half blocks away, so they are brought together and back again."""
        for i, matrices in enumerate(stages):
            pairs = weight.unflatten(0, (-1, 2, 2**i * (self.block_size // 2))).transpose(1, 2)
            groups = pairs.flatten(0, 2).unflatten(0, (-1, self.block_size))
            turned = torch.einsum("gij,gj...->gi...", matrices, groups).flatten(0, 1)
            weight = turned.reshape(pairs.shape).transpose(1, 2).flatten(0, 2)
        return weight

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        turn = self._turn_in_stages if self.is_boft else self._turn
        turned = turn(self._matrices(orig_weight.device), orig_weight)
        if self.rescale is not None:
            turned = self.rescale.to(turned) * turned
        return self.finalize_updown(turned - orig_weight.to(turned.dtype), orig_weight, orig_weight.shape)
