"""What is wrong with a part of a file: numbers that would make the whole image black, or that make nothing of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def fault_in(values: Iterable[tuple[str, Any]]) -> str | None:
    """What is wrong with one of a part's tensors and numbers, by their names; None if nothing is."""
    for name, value in values:
        if isinstance(value, Tensor) and not _is_finite(value):
            return f"its {name} holds numbers that are NaN or infinite"
        if isinstance(value, float) and not math.isfinite(value):
            return f"its {name} is {value}"
    return None


def is_of_gpu(error: BaseException) -> bool:
    """Whether an error is no part's fault, but the GPU's: its memory has run out, or it has failed."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or str(error).startswith("CUDA error")


def _is_finite(tensor: Tensor) -> bool:
    """By its extremes, which NaN is one of where there is any: ten times as fast as asking each number."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    return all(math.isfinite(float(extreme)) for extreme in wide.detach().aminmax())
