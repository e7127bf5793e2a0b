"""Low-rank deltas whose factors are derived: products and sums of a file's tensors, which need more than 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from lbw.engine.deltas.kinds import LowRank, accumulation_dtype

MAX_RANK = 32
"""Up to which rank a LoHa or a LoKr is turned into ``up @ down``, which is as exact, runs with the plain LoRAs in one
launch, and needs no copy of the weights. The product of a LoHa of rank r has rank r * r, so beyond this rank its
factors would take more time and memory than the file's.
"""


def low_rank(up: Tensor, down: Tensor, scale: float, dtype: torch.dtype) -> LowRank:
    """``scale * up @ down`` for a weight of ``dtype``; the factors are float64.

    For float16 the grouped kernel takes factors in float16 only. A factor is the sum of two of them, ``high + low``, to
    22 bits, and ``(uh + ul) (dh + dl)`` without the smallest product ``ul dl`` is one low-rank product again.
    """
    if dtype != torch.float16:
        wide = accumulation_dtype(dtype)
        return LowRank(up.to(wide), down.to(wide), scale)
    up_high, up_low, up_unit = halves(up)
    down_high, down_low, down_unit = halves(down)
    return LowRank(
        torch.cat([up_high, up_low, up_high], dim=1),
        torch.cat([down_high, down_high, down_low]),
        scale * up_unit * down_unit,
    )


def halves(factor: Tensor) -> tuple[Tensor, Tensor, float]:
    """(high, low, unit), float16 but for the unit, a power of 2: ``(high + low) * unit`` is the factor, float64, to 22
    bits. The largest number comes near float16's end, so that those that are smaller by far have these bits, too."""
    largest = float(factor.abs().max())
    unit = 2.0 ** (torch.tensor(largest).log2().floor().item() - 14) if largest > 0 else 1.0
    scaled = factor / unit
    high = scaled.half()
    return high, (scaled - high.double()).half(), unit
