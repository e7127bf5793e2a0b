"""What a network adds to a layer: a network module of the host -> LowRank, Dense or WeightDependent delta.

A delta is what the module adds at strength 1, with alpha and rank already in it; a coefficient multiplies all of it.
Network modules are only read, never changed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class UnsupportedModuleError(Exception):
    """A network module that has to be left to the host; the message says why."""


@dataclass(eq=False)
class LowRank:
    """``scale * up @ down``, reshaped to the weight's shape (Hu et al. 2021, LoRA).

    ``up`` is [out, rank]; ``down`` is [rank, in], for a convolution [rank, in * height * width].
    """

    up: Tensor
    down: Tensor
    scale: float

    @property
    def numel(self) -> int:
        return self.up.shape[0] * self.down.shape[1]

    def to(self, device: torch.device) -> None:
        """Move the factors, once for each device that the layer is found on."""
        if self.up.device != device:
            self.up, self.down = self.up.to(device), self.down.to(device)


@dataclass(eq=False)
class Dense:
    """A delta that is stored as it is; ``value`` has as many elements as the weight."""

    value: Tensor

    @property
    def numel(self) -> int:
        return self.value.numel()

    def to(self, device: torch.device) -> None:
        """Move the delta, once for each device that the layer is found on."""
        self.value = self.value.to(device)


@dataclass(eq=False)
class WeightDependent:
    """A delta that is computed from the weight it is applied to (IA3, OFT, DoRA), or whose formula only the host knows.

    The host's order and meaning hold: with several networks on a layer, each one sees the weight as the networks before
    it left it, and the first one sees the pristine weight.
    """

    module: Any
    """The host's module, as a copy that hangs on a copy of its network with both multipliers 1."""

    def compute(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """(delta of the weight, delta of the bias or None) on ``weight``, which is not changed."""
        updown, bias = self.module.calc_updown(weight)
        return updown, bias


Delta = LowRank | Dense | WeightDependent


def _low_rank_factors(module: Any) -> tuple[Tensor, Tensor]:
    """``up`` [out, rank] and ``down`` [rank, rest] of a plain LoRA or LoCon.

    With ``lora_mid`` (LyCORIS' CP decomposition) the delta is ``sum_nm up[i,n] mid[n,m,k,l] down[m,j]``: the sum over m
    turns ``mid`` and ``down`` into one factor, so it is as low-rank as the others.
    """
    up = module.up_model.weight.detach().flatten(1)
    down = module.down_model.weight.detach()
    if module.mid_model is not None:
        mid = module.mid_model.weight.detach()
        contracted = torch.einsum("nmkl,mj->njkl", mid.double(), down.double().flatten(1)).flatten(1)
        return up, contracted if mid.dtype == torch.float32 else contracted.float()
    down = down.flatten(1)
    if module.network.dyn_dim is not None:
        return up[:, : module.network.dyn_dim], down[: module.network.dyn_dim]
    return up, down


def is_low_rank_type(module: Any) -> bool:
    """Whether the module is a LoRA or a LoCon without DoRA."""
    return hasattr(module, "up_model") and hasattr(module, "down_model") and module.dora_scale is None


def delta_of(module: Any, shape: torch.Size) -> Delta:
    """The delta of a network module on a weight of ``shape``.

    Raises:
        UnsupportedModuleError: the module is of a kind for another shape, or has no way to compute its delta.
    """
    delta: Delta
    if is_low_rank_type(module):
        up, down = _low_rank_factors(module)
        scale = float(module.calc_scale())
        if module.bias is None:
            delta = LowRank(up, down, scale)
        else:
            bias = module.bias.detach().double().reshape(len(up), -1)
            delta = Dense((up.double() @ down.double() + bias) * scale)
        if delta.numel != shape.numel() or len(up) != shape[0]:
            raise UnsupportedModuleError(f"the shape is {len(up)}x{down.shape[1]}, the layer's is {tuple(shape)}")
        return delta
    if not callable(getattr(module, "calc_updown", None)):
        raise UnsupportedModuleError(f"the type is {type(module).__name__}, which is not known")
    stand_alone = copy.copy(module)
    stand_alone.network = copy.copy(module.network)
    stand_alone.network.te_multiplier = stand_alone.network.unet_multiplier = 1.0
    return WeightDependent(stand_alone)
