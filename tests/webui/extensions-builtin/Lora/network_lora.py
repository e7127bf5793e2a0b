"""LoRA and LoCon: the change is the product of a narrow "up" and a narrow "down" matrix."""
from __future__ import annotations

import lyco_helpers
import torch
from torch import nn

import network
from modules import devices


class ModuleTypeLora(network.ModuleType):
    """Takes kohya's names, and PEFT's, where A is down and B is up."""

    def create_module(self, net: network.Network, weights: network.NetworkWeights) -> NetworkModuleLora | None:
        if "lora_up.weight" in weights.w and "lora_down.weight" in weights.w:
            return NetworkModuleLora(net, weights)
        if "lora_A.weight" in weights.w and "lora_B.weight" in weights.w:
            up, down = weights.w["lora_B.weight"], weights.w["lora_A.weight"]
            weights.w.clear()
            weights.w.update({"lora_up.weight": up, "lora_down.weight": down})
            return NetworkModuleLora(net, weights)
        return None


class NetworkModuleLora(network.NetworkModule):
    """`up_model`, `down_model` and, with a convolution decomposed in three, `mid_model`, on the CPU."""

    def __init__(self, net: network.Network, weights: network.NetworkWeights):
        super().__init__(net, weights)
        self.up_model, self.down_model, self.mid_model = (
            self.create_module(weights.w, f"lora_{part}.weight", none_ok=part == "mid")
            for part in ("up", "down", "mid"))
        self.dim = self.down_model.weight.shape[0]

    def create_module(self, weights: dict[str, torch.Tensor], key: str, none_ok: bool = False) -> nn.Module | None:
        """A layer that holds one of the tensors, fit to run in the place of `sd_module`."""
        weight = weights.get(key)
        if weight is None and none_ok:
            return None
        if isinstance(self.sd_module, (nn.Linear, nn.MultiheadAttention)):
            weight = weight.flatten(1)
            module: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        elif isinstance(self.sd_module, nn.Conv2d):
            module, weight = self._convolution(key, weight)
        else:
            raise AssertionError(f"{self.network_key}: no LoRA for a layer of type {type(self.sd_module).__name__}")
        module.requires_grad_(False).weight.copy_(weight)
        return module.to(devices.cpu, devices.dtype)

    def _convolution(self, key: str, weight: torch.Tensor) -> tuple[nn.Conv2d, torch.Tensor]:
        """In the three-part form "mid" has the layer's kernel; in the two-part form "down" has it."""
        if weight.ndim == 2:
            weight = weight[:, :, None, None]
        layer = self.sd_module
        pointwise = key == "lora_up.weight" or (key == "lora_down.weight" and weight.shape[2:] == (1, 1))
        shape = {"kernel_size": 1} if pointwise else {
            "kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding,
        }
        return nn.Conv2d(weight.shape[1], weight.shape[0], bias=False, **shape), weight

    def calc_updown(self, orig_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        up, down, mid = (
            None if part is None else part.weight.to(orig_weight.device)
            for part in (self.up_model, self.down_model, self.mid_model))
        kernel = (down if mid is None else mid).shape[2:]
        output_shape = [up.shape[0], down.shape[1], *kernel]
        if mid is None:
            updown = lyco_helpers.rebuild_conventional(up, down, output_shape, self.network.dyn_dim)
        else:
            updown = lyco_helpers.rebuild_cp_decomposition(up, down, mid)
        return self.finalize_updown(updown, orig_weight, output_shape)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for part in (self.down_model, self.up_model):
            x = part.to(devices.device)(x)
        return y + x * self.multiplier() * self.calc_scale()
