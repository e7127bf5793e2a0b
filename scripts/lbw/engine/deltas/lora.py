"""LoRA and LoCon, with PEFT's names or kohya's, and LyCORIS' CP form."""

from __future__ import annotations

import torch
from torch import Tensor

from lbw.engine.deltas.derived import low_rank
from lbw.engine.deltas.kinds import LowRank
from lbw.engine.deltas.shapes import pad_channels, require_factors, trained_shape


def contract(core: Tensor, factor: Tensor) -> Tensor:
    """A small kernel ``core`` [n, m, h, w] times an input factor [m, in]: one factor [n, in * h * w], in float64."""
    return torch.einsum("nmhw,mi->nihw", core.double(), factor.double()).flatten(1)


def build(
    up: Tensor,
    down: Tensor,
    mid: Tensor | None,
    shape: torch.Size,
    dtype: torch.dtype,
    *,
    scale: float,
    max_rank: int | None = None,
) -> LowRank:
    """With ``mid`` the delta is ``sum_nm up[o,n] mid[n,m,h,w] down[m,i]``: the sum over m turns ``mid`` and ``down``
    into one factor, so it is as low-rank as the others. Only a LoRA without it can be cut to ``max_rank``.
    """
    up, down = up.detach().flatten(1), down.detach().flatten(1)
    if mid is not None:
        down = contract(mid.detach(), down)
    elif max_rank is not None:
        up, down = up[:, :max_rank], down[:max_rank]
    require_factors(up, down, trained_shape(shape))
    down = pad_channels(down, shape)
    return LowRank(up, down, scale) if mid is None else low_rank(up.double(), down, scale, dtype)
