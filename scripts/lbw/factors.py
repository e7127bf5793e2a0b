"""The factors of low-rank deltas on the GPU: uploaded once, packed as the grouped kernel reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from lbw.deltas import LowRank

CHUNK = 32
"""Columns of ``up`` that the kernel multiplies at a time. Ranks are padded with zeros to a multiple of it, so that a
chunk has one coefficient."""

_SIDE = 32
"""Rows and columns of a weight that a warp works on at a time."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The factors of all deltas of one weight, in chunks of the rank, and in a chunk as tensor cores take them.

    ``up`` is [chunks, out / 16, 2, 8, 4, 2, 2, 2]: row ``16 * band + 8 * half + g`` and column
    ``8 * t + 4 * i + 2 * j + k`` of a chunk are at [chunk, band, i, g, t, j, half, k], so that a lane gets the left
    operand of a product in one piece. ``down`` is [chunks, in / 32, 4, 8, CHUNK]: column ``32 * group + 4 * g + j`` is
    at [chunk, group, j, g], so that the weights of a lane are neighbours. Rows and columns are padded with zeros to
    multiples of 32.

    ``chunks`` has the number of chunks of each delta. ``are_tame``: no sum of products of them leaves float32's range,
    so that a coefficient of 0 is enough to leave a delta out.
    """

    up: Tensor
    down: Tensor
    chunks: tuple[int, ...]
    are_tame: bool


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
        shapes = [_padded_shape(deltas) for deltas in missing]
        sizes = [rank * (out + into) for rank, out, into in shapes]
        staging = torch.zeros(sum(sizes), dtype=dtype, pin_memory=device.type == "cuda")
        for deltas, buffer, (rank, out, into) in zip(missing, staging.split(sizes), shapes, strict=True):
            up, down = buffer[: rank * out].view(out, rank), buffer[rank * out :].view(rank, into)
            first = 0
            for delta, chunks in zip(deltas, _chunks(deltas), strict=True):
                width = delta.up.shape[1]
                up[: len(delta.up), first : first + width].copy_(delta.up)
                down[first : first + width, : delta.down.shape[1]].copy_(delta.down)
                first += chunks * CHUNK
        plain = staging.to(device, non_blocking=True)
        packed = torch.empty_like(plain)
        all_tame = _are_tame(plain, max(rank for rank, _, _ in shapes))
        for deltas, source, target, shape in zip(
            missing, plain.split(sizes), packed.split(sizes), shapes, strict=True
        ):
            up, down = _arranged(source, target, *shape)
            are_tame = all_tame or (_are_tame(up, shape[0]) and _are_tame(down, shape[0]))
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


def chunks_of(delta: LowRank) -> int:
    """How many chunks the factors of a delta take."""
    return -(-delta.up.shape[1] // CHUNK)


def _chunks(deltas: Sequence[LowRank]) -> tuple[int, ...]:
    return tuple(map(chunks_of, deltas))


def _padded_shape(deltas: Sequence[LowRank]) -> tuple[int, int, int]:
    """(rank, out, in) of the factors of a weight."""
    out, into = len(deltas[0].up), deltas[0].down.shape[1]
    return sum(_chunks(deltas)) * CHUNK, -(-out // _SIDE) * _SIDE, -(-into // _SIDE) * _SIDE


def _arranged(source: Tensor, target: Tensor, rank: int, out: int, into: int) -> tuple[Tensor, Tensor]:
    """Copy factors [out, rank] and [rank, in] into ``target`` as :class:`Factors` has them."""
    chunks = rank // CHUNK
    up = target[: rank * out].view(chunks, out // 16, 2, 8, 4, 2, 2, 2)
    up.copy_(source[: rank * out].view(out // 16, 2, 8, chunks, 4, 2, 2, 2).permute(3, 0, 5, 2, 4, 6, 1, 7))
    down = target[rank * out :].view(chunks, into // _SIDE, 4, 8, CHUNK)
    down.copy_(source[rank * out :].view(chunks, CHUNK, into // _SIDE, 8, 4).permute(0, 2, 4, 3, 1))
    return up, down
