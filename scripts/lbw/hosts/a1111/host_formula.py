"""Types that only the host, or another extension, knows: computed by their own code."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lbw.engine.deltas.kinds import UnsupportedPartError, WeightDependent
from lbw.engine.deltas.shapes import require_size


@dataclass(eq=False)
class HostFormula(WeightDependent):
    """The module's own ``calc_updown``, on a weight in the layer's own type, as the host calls it."""

    module: Any
    """A copy that hangs on a copy of its network with both multipliers 1."""

    dtype: torch.dtype

    def compute(self, weight: Tensor) -> Tensor:
        delta: Tensor = self.module.calc_updown(weight.to(self.dtype))[0]
        return delta.to(weight).reshape(weight.shape)


def build(module: Any, shape: torch.Size, dtype: torch.dtype) -> HostFormula:
    """``dtype`` is the layer's. The formula is tried on a weight of ones, which shows whether it fits."""
    if not callable(getattr(module, "calc_updown", None)):
        raise UnsupportedPartError(f"the type is {type(module).__name__}, which is not known")
    stand_alone = copy.copy(module)
    stand_alone.network = copy.copy(module.network)
    stand_alone.network.te_multiplier = stand_alone.network.unet_multiplier = 1.0
    stand_alone.network.modules = {}  # else this would keep the network alive
    delta, bias = stand_alone.calc_updown(torch.ones(shape, dtype=dtype))
    require_size(delta.shape, shape)
    return HostFormula(stand_alone, dtype, bias=bias)
