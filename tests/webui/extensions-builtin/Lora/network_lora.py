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
        self.up_model = self.create_module(weights.w, "lora_up.weight")
        self.down_model = self.create_module(weights.w, "lora_down.weight")
        self.mid_model = self.create_module(weights.w, "lora_mid.weight", none_ok=True)
        self.dim = weights.w["lora_down.weight"].shape[0]

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
        with torch.no_grad():
            module.weight.copy_(weight)
        module.to(device=devices.cpu, dtype=devices.dtype)
        module.weight.requires_grad_(False)
        return module

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
        up = self.up_model.weight.to(orig_weight.device)
        down = self.down_model.weight.to(orig_weight.device)
        output_shape = [up.shape[0], down.shape[1]]
        if self.mid_model is not None:
            mid = self.mid_model.weight.to(orig_weight.device)
            updown = lyco_helpers.rebuild_cp_decomposition(up, down, mid)
            output_shape += mid.shape[2:]
        else:
            output_shape += down.shape[2:]
            updown = lyco_helpers.rebuild_conventional(up, down, output_shape, self.network.dyn_dim)
        return self.finalize_updown(updown, orig_weight, output_shape)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.up_model.to(device=devices.device)
        self.down_model.to(device=devices.device)
        return y + self.up_model(self.down_model(x)) * self.multiplier() * self.calc_scale()
