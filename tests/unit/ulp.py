"""Distances between floating-point numbers, in units of the last place."""

from __future__ import annotations

import torch
from torch import Tensor


def ordered(tensor: Tensor) -> Tensor:
    """Floating-point numbers as integers that count the representable values: neighbours differ by 1."""
    bits = 8 * tensor.element_size()
    integers = tensor.contiguous().view(torch.int16 if bits == 16 else torch.int32).long()
    return torch.where(integers < 0, -(2 ** (bits - 1)) - integers, integers)


def ulp_distance(a: Tensor, b: Tensor) -> int:
    """The largest distance between two elements; a NaN is far from every number."""
    return int((ordered(a.cpu()) - ordered(b.cpu())).abs().max())
