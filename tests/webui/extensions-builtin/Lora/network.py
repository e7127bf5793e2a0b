"""What a network file becomes in memory: a Network with one NetworkModule for each layer that it changes."""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from modules.lora.files import Network, NetworkOnDisk, SdVersion  # noqa: F401  (part of this module's interface)
from modules.models.sd3.mmdit import QkvLinear


class NetworkWeights(NamedTuple):
    """The tensors `w` that a file has for one layer."""

    network_key: str
    sd_key: str
    w: dict[str, torch.Tensor]
    sd_module: nn.Module


class ModuleType:
    """Makes modules of one kind."""

    def create_module(self, net: Network, weights: NetworkWeights) -> NetworkModule | None:
        """A module for a layer's tensors, or None where they are of another kind."""
        return None


class NetworkModule:
    """How a network changes one layer. Subclasses compute the change in `calc_updown`."""

    def __init__(self, net: Network, weights: NetworkWeights):
        self.network = net
        self.network_key, self.sd_key, w, self.sd_module = weights
        self.shape = self._weight_shape(self.sd_module)
        self.ops, self.extra_kwargs = self._operation(self.sd_module)

        self.dim: int | None = None
        self.bias = w.get("bias")
        self.alpha: float | None = w["alpha"].item() if "alpha" in w else None
        self.scale: float | None = w["scale"].item() if "scale" in w else None
        self.dora_scale = w.get("dora_scale")
        self.dora_norm_dims = len(self.shape) - 1

    @staticmethod
    def _weight_shape(layer: nn.Module) -> torch.Size | None:
        """The shape of the weight that is changed; where q, k and v are in one weight that of each of them."""
        if isinstance(layer, QkvLinear):
            return torch.Size((layer.weight.shape[0] // 3, layer.weight.shape[1]))
        if isinstance(layer, nn.MultiheadAttention):
            return layer.out_proj.weight.shape
        return layer.weight.shape if hasattr(layer, "weight") else None

    @staticmethod
    def _operation(layer: nn.Module) -> tuple[Any, dict[str, Any]]:
        """The layer's operation as a function of input and weight, for `lora_functional`."""
        if isinstance(layer, nn.Conv2d):
            return F.conv2d, {"stride": layer.stride, "padding": layer.padding}
        if isinstance(layer, nn.Linear):
            return F.linear, {}
        if isinstance(layer, nn.LayerNorm):
            return F.layer_norm, {"normalized_shape": layer.normalized_shape, "eps": layer.eps}
        if isinstance(layer, nn.GroupNorm):
            return F.group_norm, {"num_groups": layer.num_groups, "eps": layer.eps}
        return None, {}

    def multiplier(self) -> float:
        """The strength in force: the text encoder's or the U-Net's, by where the layer is."""
        in_text_encoder = "transformer" in self.sd_key[:20]
        return self.network.te_multiplier if in_text_encoder else self.network.unet_multiplier

    def calc_scale(self) -> float:
        """What the file's tensors are scaled by at strength 1."""
        if self.scale is None and None not in (self.alpha, self.dim):
            return self.alpha / self.dim
        return 1.0 if self.scale is None else self.scale

    def apply_weight_decompose(self, updown: torch.Tensor, orig_weight: torch.Tensor) -> torch.Tensor:
        """DoRA: the change that also brings each input channel's weights to the length given by the file."""
        orig_weight = orig_weight.to(updown.dtype)
        lengths = self.dora_scale.to(device=orig_weight.device, dtype=updown.dtype)
        merged = updown.to(orig_weight.device) + orig_weight
        by_input = merged.transpose(0, 1)
        norms = by_input.reshape(by_input.shape[0], -1).norm(dim=1)
        norms = norms.reshape(1, -1, *[1] * (self.dora_norm_dims - 1))
        return merged * (lengths / norms) - orig_weight

    def finalize_updown(
        self,
        updown: torch.Tensor,
        orig_weight: torch.Tensor,
        output_shape: list[int] | torch.Size,
        ex_bias: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scale, shape and, with DoRA, normalise a change, and apply the strength to it and to the bias's change."""
        if self.bias is not None:
            own = self.bias.to(orig_weight.device, dtype=updown.dtype)
            updown = updown.reshape(own.shape) + own
        if self.bias is not None or len(output_shape) == 4:
            updown = updown.reshape(output_shape)
        change = updown.reshape(orig_weight.shape) if updown.numel() == orig_weight.numel() else updown
        change = change * self.calc_scale()
        if self.dora_scale is not None:
            change = self.apply_weight_decompose(change, orig_weight)
        strength = self.multiplier()
        return change * strength, None if ex_bias is None else ex_bias * strength

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What to add to the weight and to the bias, with the strength in it."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """`lora_functional`: the layer's output `y` for the input `x`, with this network's part added."""
        if self.ops is None:
            raise NotImplementedError
        updown, ex_bias = self.calc_updown(self.sd_module.weight)
        return y + self.ops(x, weight=updown, bias=ex_bias, **self.extra_kwargs)
