"""IA3: the weight itself, times a number for each input or output channel (Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lbw.engine.deltas.kinds import WeightDependent, accumulation_dtype, widened
from lbw.engine.deltas.shapes import misfit


@dataclass(eq=False)
class ChannelScale(WeightDependent):
    """``W * factors``; ``factors`` can be broadcast to the weight's shape."""

    factors: Tensor

    def onto(self, base: Tensor, coefficient: float, dtype: torch.dtype, of: Any) -> Tensor:
        self.to(base.device)
        return widened(base, dtype) * (1 + coefficient * self.factors.to(dtype))

    def compute(self, weight: Tensor) -> Tensor:
        self.to(weight.device)
        return weight * self.factors.to(weight.dtype)


def build(
    numbers: Tensor, shape: torch.Size, dtype: torch.dtype, *, on_input: bool, scale: float
) -> ChannelScale:
    """As in the host, numbers for the output channels fit linear layers only."""
    factors = numbers.detach() if on_input else numbers.detach().reshape(-1, 1)
    if len(factors.shape) > len(shape) or any(
        size not in (1, wanted) for size, wanted in zip(reversed(factors.shape), reversed(shape), strict=False)
    ):
        raise misfit(factors.shape, shape)
    return ChannelScale((factors.double() * scale).to(accumulation_dtype(dtype)))
