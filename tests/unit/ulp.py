"""Distances between floating-point numbers in units in the last place."""

from __future__ import annotations

import torch
from torch import Tensor


def ordered(tensor: Tensor) -> Tensor:
    """Floating-point numbers as integers that count the representable values: neighbours differ by 1."""
    size = tensor.dtype.itemsize
    integers = tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[size]).long()
    return torch.where(integers < 0, -(2 ** (8 * size - 1)) - integers, integers)


def ulp_distance(a: Tensor, b: Tensor) -> int:
    """The largest distance between two elements; a NaN is far from every number.

    Where two terms of a size of about 0.1 cancel all but completely, what is left is the rounding of the float64
    reference itself: differences below 1e-16 do not count.
    """
    distances = (ordered(a.cpu()) - ordered(b.cpu())).abs()
    is_noise = (a.cpu().double() - b.cpu().double()).abs() < 1e-16
    return int(torch.where(is_noise, 0, distances).max())
