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

Shape = tuple[int, int, int]
"""(rank, out, in) of the factors of a weight, padded."""


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
        missing: dict[Shape, list[Sequence[LowRank]]] = {}
        for deltas in weights:
            if deltas and not self._has(deltas, device):
                missing.setdefault(_padded_shape(deltas), []).append(deltas)
        if not missing:
            return
        sizes = [len(group) * rank * (out + into) for (rank, out, into), group in missing.items()]
        staging = torch.zeros(sum(sizes), dtype=dtype, pin_memory=device.type == "cuda")
        for (shape, group), buffer in zip(missing.items(), staging.split(sizes), strict=True):
            for deltas, part in zip(group, buffer.view(len(group), -1), strict=True):
                _fill(part, deltas, *shape)
        plain = staging.to(device, non_blocking=True)
        packed = torch.empty_like(plain)
        all_tame = _are_tame(plain, max(rank for rank, _, _ in missing))
        for (shape, group), source, target in zip(
            missing.items(), plain.split(sizes), packed.split(sizes), strict=True
        ):
            all_factors = _arranged(source.view(len(group), -1), target.view(len(group), -1), *shape)
            for deltas, up, down in zip(group, *all_factors, strict=True):
                are_tame = all_tame or (_are_tame(up, shape[0]) and _are_tame(down, shape[0]))
                factors = Factors(up, down, tuple(map(chunks_of, deltas)), are_tame)
                self._packed[deltas[0]] = [ref(delta) for delta in deltas], factors

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


def _padded_shape(deltas: Sequence[LowRank]) -> Shape:
    out, into = len(deltas[0].up), deltas[0].down.shape[1]
    return sum(map(chunks_of, deltas)) * CHUNK, -(-out // _SIDE) * _SIDE, -(-into // _SIDE) * _SIDE


def _fill(buffer: Tensor, deltas: Sequence[LowRank], rank: int, out: int, into: int) -> None:
    """Copy the factors of a weight into a buffer of zeros, [out, rank] and then [rank, in]."""
    up, down = buffer[: rank * out].view(out, rank), buffer[rank * out :].view(rank, into)
    first = 0
    for delta in deltas:
        width = delta.up.shape[1]
        up[: len(delta.up), first : first + width].copy_(delta.up)
        down[first : first + width, : delta.down.shape[1]].copy_(delta.down)
        first += chunks_of(delta) * CHUNK


def _arranged(source: Tensor, target: Tensor, rank: int, out: int, into: int) -> tuple[Tensor, Tensor]:
    """Copy factors of many weights, as :func:`_fill` has them, into ``target`` as :class:`Factors` has them.

    Args:
        source, target: [weights, rank * (out + in)].
    """
    many, chunks = len(source), rank // CHUNK
    up = target[:, : rank * out].view(many, chunks, out // 16, 2, 8, 4, 2, 2, 2)
    rows = source[:, : rank * out].view(many, out // 16, 2, 8, chunks, 4, 2, 2, 2)
    up.copy_(rows.permute(0, 4, 1, 6, 3, 5, 7, 2, 8))
    down = target[:, rank * out :].view(many, chunks, into // _SIDE, 4, 8, CHUNK)
    columns = source[:, rank * out :].view(many, chunks, CHUNK, into // _SIDE, 8, 4)
    down.copy_(columns.permute(0, 1, 3, 5, 4, 2))
    return up, down
