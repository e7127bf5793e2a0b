"""The factors of low-rank deltas on the GPU, packed as the grouped kernels read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lbw.engine.deltas import LowRank
from lbw.engine.kernels.pack import Packing
from lbw.engine.uploads import Staging, staging

CHUNK = 32
"""Columns of ``up`` that the kernel multiplies at a time. Ranks are padded with zeros to a multiple of it, so that a
chunk has one coefficient."""

_SIDE = 32
"""Rows and columns of a weight are padded to a multiple of it."""


@dataclass(frozen=True)
class Portion:
    """Factors that come to the device at a time, before they are packed.

    ``matrices`` are those of the plan from ``first`` on, ``places`` where they begin, ``size`` is that of all.
    """

    first: int
    matrices: tuple[Tensor, ...]
    places: np.ndarray
    size: int


class FactorPlan:
    """How the factors of many weights are packed: all in one buffer.

    The factors of all deltas of a weight are in chunks of the rank, and in a chunk as tensor cores take them.

    ``up`` is [chunks, out / 16, 2, 8, 4, 2, 2, 2]: row ``16 * band + 8 * half + g`` and column
    ``8 * t + 4 * i + 2 * j + k`` of a chunk are at [chunk, band, i, g, t, j, half, k], so that a lane gets the left
    operand of a product in one piece. ``down`` is [chunks, in / 32, 4, 8, CHUNK]: column ``32 * group + 4 * g + j`` is
    at [chunk, group, j, g], so that the weights of a lane are neighbours. Rows and columns are padded with zeros to
    multiples of 32.

    Args:
        weights: the deltas of each weight, whose factors are of ``dtype``.
    """

    def __init__(self, weights: Sequence[Sequence[LowRank]], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.chunks = [tuple(chunks_of(delta.rank) for delta in deltas) for deltas in weights]
        """Of each weight, how many chunks each delta has."""
        matrices: list[Tensor] = []
        places: list[int] = []
        ups, downs, size = [], [], 0
        for deltas, chunks in zip(weights, self.chunks, strict=True):
            out, into = (len(deltas[0].up), deltas[0].down.shape[1]) if deltas else (0, 0)
            ups.append(size)
            downs.append(size + sum(chunks) * CHUNK * _padded(out))
            up, down = ups[-1], downs[-1]
            for delta, count in zip(deltas, chunks, strict=True):
                matrices += (delta.up, delta.down)
                places += (up, down)
                up += count * CHUNK * _padded(out)
                down += count * CHUNK * _padded(into)
            size = down
        self.ups, self.downs = np.array(ups, np.int64), np.array(downs, np.int64)
        """Where those of each weight begin, in elements."""
        self.size = size
        self._owners = np.repeat(np.arange(len(weights)), [2 * len(deltas) for deltas in weights])
        self._places = np.array(places, np.int64)
        self._shapes = np.array([tuple(matrix.shape) for matrix in matrices], np.int32).reshape(-1, 2)
        self._portions = list(_portions([matrix.detach().reshape(-1) for matrix in matrices], dtype.itemsize))

    def load(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Pack the factors.

        Returns:
            The buffer, and for each matrix the number of its largest magnitude among those of the type, int32.

        Raises:
            torch.cuda.OutOfMemoryError: they do not fit.
        """
        packed = torch.empty(self.size, dtype=self.dtype, device=device)
        packing = Packing(self._shapes, packed, self._places)
        room = max((portion.size for portion in self._portions), default=0)
        plain = torch.empty(room, dtype=self.dtype, device=device)
        for portion in self._portions:
            staging(device).fill(plain[: portion.size], portion.matrices)
            packing.pack(plain, portion.first, portion.places)
        return packed, packing.largest

    def wild(self, largest: np.ndarray) -> np.ndarray:
        """For each weight, whether sums of products of its factors may leave float32's range, so that a coefficient of
        0 is not enough to leave a delta out.

        Args:
            largest: see :meth:`load`.
        """
        rank = CHUNK * max((sum(chunks) for chunks in self.chunks), default=1)
        limit = torch.tensor((torch.finfo(torch.float32).max / rank) ** 0.5).to(self.dtype)
        bound = int(limit.view(torch.int16)) if limit.isfinite() else _infinity(self.dtype)
        found = np.zeros(len(self.chunks), bool)
        np.logical_or.at(found, self._owners, largest[: len(self._owners)] >= bound)
        return found


def packed_rows(matrix: Tensor) -> Tensor:
    """A matrix as the kernels read ``up``, see :class:`FactorPlan`: [columns / 32, rows / 16, 2, 8, 4, 2, 2, 2], and so
    many rows more that they are a multiple of 32.

    Args:
        matrix: [rows, columns], the columns a multiple of 32.
    """
    padded = torch.nn.functional.pad(matrix, (0, 0, 0, -len(matrix) % _SIDE))
    tiles = padded.view(len(padded) // 16, 2, 8, matrix.shape[1] // CHUNK, 4, 2, 2, 2)
    return tiles.permute(3, 0, 5, 2, 4, 6, 1, 7).contiguous()


def _infinity(dtype: torch.dtype) -> int:
    return int(torch.tensor(float("inf")).to(dtype).view(torch.int16))


def chunks_of(rank: int) -> int:
    """How many chunks the factors of a delta of this rank take."""
    return -(-rank // CHUNK)


def _padded(size: int) -> int:
    return -(-size // _SIDE) * _SIDE


def _portions(matrices: Sequence[Tensor], itemsize: int) -> Iterator[Portion]:
    room = Staging.PIECE * Staging.PIECES // itemsize
    chosen: list[Tensor] = []
    places: list[int] = []
    first = size = 0
    for number, matrix in enumerate(matrices):
        if chosen and size + matrix.numel() > room:
            yield Portion(first, tuple(chosen), np.array(places, np.int64), size)
            first, chosen, places, size = number, [], [], 0
        chosen.append(matrix)
        places.append(size)
        size += matrix.numel()
    if chosen:
        yield Portion(first, tuple(chosen), np.array(places, np.int64), size)
