"""Deltas that a file holds as they are: Full (``diff``, ``diff_b``) and Norm (``w_norm``, ``b_norm``)."""

from __future__ import annotations

import torch
from torch import Tensor

from lbw.engine.deltas.kinds import Dense, accumulation_dtype
from lbw.engine.deltas.shapes import pad_channels, require_size, trained_shape


def build(
    value: Tensor, bias: Tensor | None, shape: torch.Size, dtype: torch.dtype, *, scale: float
) -> Dense:
    """As in the host, the bias is not scaled."""
    require_size(value.shape, trained_shape(shape) if value.dim() == 4 else shape)
    value = value.detach()
    if scale != 1.0:
        value = (value.double() * scale).to(accumulation_dtype(dtype))
    if value.dim() > 1:
        value = pad_channels(value.flatten(1), shape)
    return Dense(value, bias=None if bias is None else bias.detach())
