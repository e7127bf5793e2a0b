"""Distances between floating-point numbers in units in the last place."""

from __future__ import annotations

import torch
from torch import Tensor


def ordered(tensor: Tensor) -> Tensor:
    """Floating-point numbers as integers that count the representable values: neighbours differ by 1."""
    size = tensor.dtype.itemsize
    integers = tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[size]).long()
    return torch.where(integers < 0, -(2 ** (8 * size - 1)) - integers, integers)


def ulp_distance(a: Tensor, b: Tensor, floor: float = 0.0) -> int:
    """The greatest distance between two tensors of one type, among the values that differ by more than ``floor``.

    What is no number differs from all numbers.
    """
    distances = (ordered(a.cpu().contiguous()) - ordered(b.cpu().contiguous())).abs()
    apart = ~((a.cpu().double() - b.cpu().double()).abs() <= floor)
    return int(distances[apart].max()) if apart.any() else 0
