"""What a part of a network adds to a layer: its tensors -> a delta. Each network type is one small file.

Tensors are only read, never changed. A coefficient of 1 gives the weights that the host would give, only rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lbw.engine.deltas.dora import decompose
from lbw.engine.deltas.faults import fault_in, is_of_gpu
from lbw.engine.deltas.kinds import (
    Delta,
    Dense,
    InThird,
    LowRank,
    Source,
    StandAlone,
    UnsupportedPartError,
    WeightDependent,
    accumulation_dtype,
    frobenius,
)
from lbw.engine.deltas.shapes import reads_inpainting_channels

__all__ = [
    "Delta",
    "Dense",
    "InThird",
    "LowRank",
    "Source",
    "StandAlone",
    "UnsupportedPartError",
    "WeightDependent",
    "accumulation_dtype",
    "decompose",
    "fault_in",
    "frobenius",
    "is_of_gpu",
    "reads_inpainting_channels",
    "with_addend",
]


def with_addend(delta: StandAlone, addend: Tensor, scale: float, shape: torch.Size, dtype: torch.dtype) -> Dense:
    """A part's own ``bias`` is added to its delta for the weight, and scaled with it."""
    value = delta.materialize(addend.device, torch.float64)
    value = value.flatten() + addend.detach().double().flatten() * scale
    return Dense(value.reshape(shape).to(accumulation_dtype(dtype)), bias=delta.bias)
