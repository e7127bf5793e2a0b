"""The factors of low-rank deltas on the GPU: uploaded once, packed as the grouped kernel reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from lbw.deltas import LowRank

CHUNK = 32
"""Columns of ``up`` that the kernel multiplies at a time. Ranks are padded with zeros to a multiple of it, so that a
chunk has one coefficient."""

_ALIGNMENT = 16
"""In bytes: what one memory instruction of a thread moves."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The factors of all deltas of one weight, side by side: ``up`` [out, rank] and ``down`` [rank, in], contiguous.

    ``chunks`` has the number of chunks of each delta. ``are_tame``: no sum of products of them leaves float32's range,
    so that a coefficient of 0 is enough to leave a delta out.
    """

    up: Tensor
    down: Tensor
    chunks: tuple[int, ...]
    are_tame: bool

    @property
    def rank(self) -> int:
        return self.down.shape[0]


class FactorStore:
    """Packed factors by the deltas of a weight. They live as long as the first delta, and it as long as its network."""

    def __init__(self) -> None:
        self._packed: WeakKeyDictionary[LowRank, tuple[list[ref[LowRank]], Factors]] = WeakKeyDictionary()

    def pack(self, weights: Iterable[Sequence[LowRank]], device: torch.device, dtype: torch.dtype) -> None:
        """Bring the factors that are not on ``device`` there: all in one buffer, by one copy.

        Args:
            weights: the deltas of each weight.

        Raises:
            torch.cuda.OutOfMemoryError: they do not fit.
        """
        missing = [deltas for deltas in weights if deltas and not self._has(deltas, device)]
        if not missing:
            return
        granule = _ALIGNMENT // dtype.itemsize
        shapes = [shape for deltas in missing for shape in _shapes(deltas)]
        starts = [0]
        for shape in shapes:
            starts.append(starts[-1] + -(-prod(shape) // granule) * granule)
        staging = torch.zeros(starts[-1], dtype=dtype, pin_memory=device.type == "cuda")
        for deltas, (up, down) in zip(missing, _pairs(staging, starts, shapes), strict=True):
            first = 0
            for delta, chunks in zip(deltas, _chunks(deltas), strict=True):
                rank = delta.up.shape[1]
                up[:, first : first + rank].copy_(delta.up)
                down[first : first + rank].copy_(delta.down)
                first += chunks * CHUNK
        packed = staging.to(device, non_blocking=True)
        all_tame = _are_tame(packed, max(rank for _, rank in shapes[::2]))
        for deltas, (up, down) in zip(missing, _pairs(packed, starts, shapes), strict=True):
            are_tame = all_tame or (_are_tame(up, len(down)) and _are_tame(down, len(down)))
            self._packed[deltas[0]] = [ref(delta) for delta in deltas], Factors(up, down, _chunks(deltas), are_tame)

    def _has(self, deltas: Sequence[LowRank], device: torch.device) -> bool:
        known, factors = self._packed.get(deltas[0], ([], None))
        return (
            factors is not None
            and factors.up.device == device
            and len(known) == len(deltas)
            and all(reference() is delta for reference, delta in zip(known, deltas, strict=True))
        )

    def of(self, deltas: Sequence[LowRank]) -> Factors | None:
        """The packed factors of a weight's deltas; None for none."""
        return self._packed[deltas[0]][1] if deltas else None

    def are_tame(self, deltas: Sequence[LowRank]) -> bool:
        """Whether the factors of a weight's deltas are, see :class:`Factors`."""
        factors = self.of(deltas)
        return factors is None or factors.are_tame

    def clear(self) -> None:
        """Free the memory; factors are packed again when they are needed."""
        self._packed.clear()


def _are_tame(values: Tensor, rank: int) -> bool:
    largest = float(values.abs().amax())
    return largest**2 * rank < torch.finfo(torch.float32).max


def _chunks(deltas: Sequence[LowRank]) -> tuple[int, ...]:
    return tuple(-(-delta.up.shape[1] // CHUNK) for delta in deltas)


def _shapes(deltas: Sequence[LowRank]) -> tuple[tuple[int, int], tuple[int, int]]:
    rank = sum(_chunks(deltas)) * CHUNK
    return (deltas[0].up.shape[0], rank), (rank, deltas[0].down.shape[1])


def _pairs(buffer: Tensor, starts: list[int], shapes: list[tuple[int, int]]) -> Iterable[tuple[Tensor, Tensor]]:
    """The buffer's parts as pairs (up, down)."""
    views = [
        buffer[start : start + prod(shape)].view(shape) for start, shape in zip(starts, shapes, strict=False)
    ]
    return zip(views[::2], views[1::2], strict=True)
