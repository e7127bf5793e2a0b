"""The factors of low-rank deltas on the GPU: uploaded once, packed as the grouped kernel reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lbw.deltas import LowRank

RANK_MULTIPLE = 16
"""Tensor cores multiply 16 columns at a time: ranks are padded with zeros to a multiple of it."""

_ALIGNMENT = 16
"""In bytes: what one memory instruction of a thread moves."""


@dataclass(frozen=True, eq=False)
class Factors:
    """``up`` [out, rank] and ``down`` [rank, in], contiguous; ``rank`` is padded."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]


class FactorStore:
    """Packed factors by delta. They live as long as their delta, which lives as long as its network."""

    def __init__(self) -> None:
        self._packed: WeakKeyDictionary[LowRank, Factors] = WeakKeyDictionary()

    def pack(self, deltas: Iterable[LowRank], device: torch.device, dtype: torch.dtype) -> None:
        """Bring the factors that are not on ``device`` there: all in one buffer, by one copy.

        Raises:
            torch.cuda.OutOfMemoryError: they do not fit.
        """
        missing = [
            delta for delta in deltas if (known := self._packed.get(delta)) is None or known.up.device != device
        ]
        if not missing:
            return
        granule = _ALIGNMENT // dtype.itemsize
        shapes = [shape for delta in missing for shape in _padded_shapes(delta)]
        starts = [0]
        for shape in shapes:
            starts.append(starts[-1] + -(-prod(shape) // granule) * granule)
        staging = torch.zeros(starts[-1], dtype=dtype, pin_memory=device.type == "cuda")
        for delta, (up, down) in zip(missing, _pairs(staging, starts, shapes), strict=True):
            up[:, : delta.up.shape[1]].copy_(delta.up)
            down[: delta.down.shape[0]].copy_(delta.down)
        packed = staging.to(device, non_blocking=True)
        for delta, (up, down) in zip(missing, _pairs(packed, starts, shapes), strict=True):
            self._packed[delta] = Factors(up, down)

    def __getitem__(self, delta: LowRank) -> Factors:
        return self._packed[delta]

    def clear(self) -> None:
        """Free the memory; factors are packed again when they are needed."""
        self._packed.clear()


def _padded_shapes(delta: LowRank) -> tuple[tuple[int, int], tuple[int, int]]:
    rank = -(-delta.up.shape[1] // RANK_MULTIPLE) * RANK_MULTIPLE
    return (delta.up.shape[0], rank), (rank, delta.down.shape[1])


def _pairs(buffer: Tensor, starts: list[int], shapes: list[tuple[int, int]]) -> Iterable[tuple[Tensor, Tensor]]:
    """The buffer's parts as pairs (up, down)."""
    views = [
        buffer[start : start + prod(shape)].view(shape) for start, shape in zip(starts, shapes, strict=False)
    ]
    return zip(views[::2], views[1::2], strict=True)
