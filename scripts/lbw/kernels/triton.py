"""The in-place update in Triton: one launch for all layers of a switch, and one pass over each weight.

What bounds it is memory: each weight's pristine value is read once and the weight is written once. The factors are
small beside that and stay in the L2 cache, and the tensor cores are idle most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from lbw.factors import CHUNK, Factors
from lbw.lean import ESCAPE, TILE_HEIGHT, TILE_WIDTH, Code

BLOCK_M, BLOCK_N = TILE_HEIGHT, TILE_WIDTH
"""A tile of the weight. Of the sizes and numbers of warps that were tried on an H100 these were the fastest."""
WARPS = 4


@dataclass(frozen=True)
class Pipeline:
    """``strip``: tiles side by side that one program works on; it looks up its part once, and loads one tile ahead.
    ``stages``: chunks of the factors that are on their way at a time."""

    strip: int
    stages: int


SHALLOW, DEEP = Pipeline(strip=8, stages=2), Pipeline(strip=4, stages=4)
"""For ranks of one chunk, and for more; the fastest of nine on an H100."""

LEAN_WARPS = 8

_DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}

@triton.jit
def _chunk(
    up, down, first, rank, m, n, width, inside_m, inside_n, sum_so_far, CHUNK: tl.constexpr,
):
    """``sum_so_far`` and ``up @ down`` of one chunk of the rank, for one tile, in float32."""
    k = first + tl.arange(0, CHUNK)
    left = tl.load(up + m[:, None] * rank + k[None, :], mask=inside_m, other=0.0)
    right = tl.load(down + k[:, None] * width + n[None, :], mask=inside_n, other=0.0)
    return tl.dot(left, right, sum_so_far)


@triton.jit
def _update(
    strips,
    weights,
    bases,
    heights,
    widths,
    first_chunks,
    ups,
    downs,
    ranks,
    coefficients,
    STRIP: tl.constexpr,
    ONE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """``weight = round(base + sum of coefficient * (up @ down))`` for a strip of tiles of one part.

    ``ONE``: no part has more than one delta, so all chunks of a part have the same coefficient.
    """
    part = tl.load(strips + 3 * tl.program_id(0))
    row = tl.load(strips + 3 * tl.program_id(0) + 1)
    column = tl.load(strips + 3 * tl.program_id(0) + 2)
    height = tl.load(heights + part)
    width = tl.load(widths + part)
    weight = tl.load(weights + part).to(tl.pointer_type(DTYPE))
    base = tl.load(bases + part).to(tl.pointer_type(DTYPE))
    up = tl.multiple_of(tl.load(ups + part).to(tl.pointer_type(DTYPE)), 16)
    down = tl.load(downs + part).to(tl.pointer_type(DTYPE))
    rank = tl.multiple_of(tl.load(ranks + part), CHUNK)
    coefficients += tl.load(first_chunks + part)
    if ALIGNED:
        width = tl.multiple_of(width, 8)
        weight = tl.multiple_of(weight, 16)
        base = tl.multiple_of(base, 16)
        down = tl.multiple_of(down, 16)
    m = row * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_m = (m < height)[:, None]
    begin = column * BLOCK_N
    end = tl.minimum(width, begin + STRIP * BLOCK_N)
    n = begin + tl.arange(0, BLOCK_N)
    # The bases and the weights are not needed again in this launch, the factors are: they shall keep the L2 cache.
    ahead = tl.load(
        base + m[:, None] * width + n[None, :],
        mask=inside_m & (n < end)[None, :],
        other=0.0,
        eviction_policy="evict_first",
    )
    for start in range(begin, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside_n = (n < end)[None, :]
        here = ahead
        total = here.to(tl.float32)
        # The next tile is on its way while this one is worked on.
        ahead = tl.load(
            base + m[:, None] * width + (n + BLOCK_N)[None, :],
            mask=inside_m & (n + BLOCK_N < end)[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        used = 0.0
        product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for first in range(0, rank, CHUNK):
            coefficient = tl.load(coefficients + first // CHUNK)
            if ONE:
                product = _chunk(up, down, first, rank, m, n, width, inside_m, inside_n, product, CHUNK)
                used = coefficient
            else:
                zero = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
                chunk = _chunk(up, down, first, rank, m, n, width, inside_m, inside_n, zero, CHUNK)
                total += tl.where(coefficient != 0.0, coefficient * chunk, 0.0)
                used += tl.abs(coefficient)
        if ONE:
            total += used * product
        # Adding 0 has turned a pristine -0.0 into 0.0.
        tl.store(
            weight + m[:, None] * width + n[None, :],
            tl.where(used != 0.0, total.to(DTYPE), here),
            mask=inside_m & inside_n,
            eviction_policy="evict_first",
        )


@triton.jit
def _update_lean(
    tiles,
    weights,
    heights,
    widths,
    first_chunks,
    ups,
    downs,
    ranks,
    coefficients,
    chunks,
    codes,
    escapes,
    first_escapes,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,
    ESCAPE: tl.constexpr,
):
    """The same, with the pristine tile recovered from the patched one, see :mod:`lbw.lean`.

    ``coefficients`` has those in force, and behind them, ``chunks`` later, those that are wanted.
    """
    part = tl.load(tiles + 2 * tl.program_id(0))
    tile = tl.load(tiles + 2 * tl.program_id(0) + 1)
    height = tl.load(heights + part)
    width = tl.load(widths + part)
    weight = tl.load(weights + part).to(tl.pointer_type(DTYPE))
    code = tl.load(codes + part).to(tl.pointer_type(tl.uint8))
    escape = tl.load(escapes + part).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        width = tl.multiple_of(width, 8)
        weight = tl.multiple_of(weight, 16)
    tiles_across = tl.cdiv(width, BLOCK_N)
    m = (tile // tiles_across) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tile % tiles_across) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_m = (m < height)[:, None]
    inside_n = (n < width)[None, :]
    offsets = m[:, None] * width + n[None, :]
    patched = tl.load(weight + offsets, mask=inside_m & inside_n, other=0.0)
    quads = tl.load(code + m[:, None] * tl.cdiv(width, 4) + n[None, :] // 4, mask=inside_m & inside_n, other=0)
    in_force = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    wanted = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    up = tl.multiple_of(tl.load(ups + part).to(tl.pointer_type(DTYPE)), 16)
    down = tl.load(downs + part).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        down = tl.multiple_of(down, 16)
    rank = tl.multiple_of(tl.load(ranks + part), CHUNK)
    coefficients += tl.load(first_chunks + part)
    for first in range(0, rank, CHUNK):
        old = tl.load(coefficients + first // CHUNK)
        new = tl.load(coefficients + chunks + first // CHUNK)
        zero = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        product = _chunk(up, down, first, rank, m, n, width, inside_m, inside_n, zero, CHUNK)
        in_force += tl.where(old != 0.0, old * product, 0.0)
        wanted += tl.where(new != 0.0, new * product, 0.0)
    near_bits = (patched.to(tl.float32) - in_force).to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32)
    near = tl.where(near_bits < 0, -32768 - near_bits, near_bits)
    known = (quads.to(tl.int32) >> ((n % 4) * 2)[None, :]) & 3
    ahead = (known - near + 3 * 32768) % 3
    number = near + tl.where(ahead == 2, -1, ahead)
    base_bits = tl.where(number < 0, -32768 - number, number)
    is_escape = (known == ESCAPE).to(tl.int32)
    in_row = tl.sum(is_escape, axis=1)
    rank_in_tile = (tl.cumsum(in_row, axis=0) - in_row)[:, None] + tl.cumsum(is_escape, axis=1) - is_escape
    escape += tl.load(first_escapes + tl.program_id(0))
    kept = tl.load(escape + rank_in_tile, mask=known == ESCAPE, other=0.0)
    base = tl.where(known == ESCAPE, kept, base_bits.to(tl.int16).to(DTYPE, bitcast=True))
    # Adding 0 would turn a pristine -0.0 into 0.0.
    result = tl.where(wanted == 0.0, base, (base.to(tl.float32) + wanted).to(DTYPE))
    tl.store(weight + offsets, result, mask=inside_m & inside_n, eviction_policy="evict_first")


@dataclass(frozen=True, eq=False)
class Part:
    """One weight, or some rows of one, with its pristine value and the factors of what may be added to it.

    ``weight`` and ``base`` are contiguous, [out, ...], 16-bit, and of one dtype with the factors. ``base`` may be
    ``weight`` itself, where the pristine value has been put there just before. Factors are as
    :class:`lbw.factors.FactorStore` packs them.
    """

    weight: Tensor
    base: Tensor
    factors: Factors | None


def supports(weight: Tensor) -> bool:
    """Whether a weight can be the weight of a :class:`Part`."""
    return weight.dtype in _DTYPES and weight.is_contiguous() and weight.numel() < 2**31 and _runs_on(weight)


def is_aligned(weight: Tensor) -> bool:
    """Whether every row begins where a thread can move 16 bytes at once; a weight that is not slows its launch down."""
    return _width(weight) % 8 == 0 and weight.data_ptr() % 16 == 0


def _width(weight: Tensor) -> int:
    return weight.numel() // weight.shape[0]


def _runs_on(weight: Tensor) -> bool:
    """On CUDA devices whose tensor cores Triton can use; on the CPU in Triton's interpreter."""
    if weight.device.type == "cuda":
        return torch.cuda.get_device_capability(weight.device) >= (8, 0)
    is_interpreted = not isinstance(_update, triton.JITFunction)
    return weight.device.type == "cpu" and is_interpreted and weight.dtype == torch.float16  # no bfloat16 product there


@dataclass(frozen=True, eq=False)
class LeanPart:
    """As :class:`Part`, with a code for the pristine value of the whole weight."""

    weight: Tensor
    code: Code
    factors: Factors | None


class _Launch:
    """The tables of one launch for many weights of one dtype and device.

    It holds the addresses of its parts: when one of them has moved, a new one has to be made.
    """

    def __init__(self, parts: Sequence[Part] | Sequence[LeanPart]) -> None:
        first = parts[0].weight
        self._device, self._dtype = first.device, _DTYPES[first.dtype]
        factors = [part.factors for part in parts]
        heights = np.array([part.weight.shape[0] for part in parts], np.int32)
        widths = np.array([_width(part.weight) for part in parts], np.int32)
        ranks = np.array([0 if each is None else each.rank for each in factors], np.int32)
        self._chunks = np.array([count for each in factors if each is not None for count in each.chunks], np.int64)
        self._is_one = all(each is None or len(each.chunks) == 1 for each in factors)
        self._is_aligned = all(is_aligned(part.weight) for part in parts)
        self._shapes = heights, widths
        self._pipeline = DEEP if ranks.max() > CHUNK else SHALLOW
        self._tables = {
            "weights": self._addresses([part.weight for part in parts]),
            "heights": self._upload(heights),
            "widths": self._upload(widths),
            "first_chunks": self._upload((np.cumsum(ranks) - ranks).astype(np.int32) // CHUNK),
            "ups": self._addresses([None if each is None else each.up for each in factors]),
            "downs": self._addresses([None if each is None else each.down for each in factors]),
            "ranks": self._upload(ranks),
        }
        self._kept_alive: list[Any] = [factors]

    def _upload(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)

    def _addresses(self, tensors: Sequence[Tensor | None]) -> Tensor:
        return self._upload(np.array([0 if each is None else each.data_ptr() for each in tensors], np.int64))

    def _by_chunk(self, coefficients: Sequence[float]) -> np.ndarray:
        """The coefficient of each chunk, from those of each delta."""
        return np.repeat(np.array(coefficients, np.float32), self._chunks)

    def _run(self, function: Any, grid: tuple[int], coefficients: np.ndarray, **options: Any) -> None:
        values = torch.from_numpy(coefficients)
        if self._device.type == "cuda":
            values = values.pin_memory()
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            function[grid](
                coefficients=values.to(self._device, non_blocking=True),
                **self._tables,
                **options,
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                CHUNK=CHUNK,
                ALIGNED=self._is_aligned,
                DTYPE=self._dtype,
                num_stages=self._pipeline.stages,
            )


class GroupedUpdate(_Launch):
    """Updates many weights in one launch, as often as wanted."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(parts)
        strips = _strips(*self._shapes, self._pipeline.strip)
        self._grid = (len(strips),)
        self._tables["strips"] = self._upload(strips)
        self._tables["bases"] = self._addresses([part.base for part in parts])
        self._kept_alive.append([part.base for part in parts])

    def __call__(self, coefficients: Sequence[float]) -> None:
        """Bring all weights to ``coefficients``: one for each of the parts' deltas, in their order."""
        by_chunk = self._by_chunk(coefficients)
        self._run(_update, self._grid, by_chunk, STRIP=self._pipeline.strip, ONE=self._is_one, num_warps=WARPS)


class GroupedLeanUpdate(_Launch):
    """Updates many weights in one launch, and recovers their pristine values on the way."""

    def __init__(self, parts: Sequence[LeanPart]) -> None:
        super().__init__(parts)
        tiles = _tiles(*self._shapes)
        self._grid = (len(tiles),)
        self._tables["tiles"] = self._upload(tiles)
        self._tables["codes"] = self._addresses([part.code.codes for part in parts])
        self._tables["escapes"] = self._addresses([part.code.escapes for part in parts])
        self._tables["first_escapes"] = torch.cat([part.code.starts for part in parts])
        self._kept_alive.append([part.code for part in parts])

    def __call__(self, in_force: Sequence[float], wanted: Sequence[float]) -> None:
        """Bring all weights from the coefficients ``in_force``, which have to be true, to those ``wanted``."""
        old, new = self._by_chunk(in_force), self._by_chunk(wanted)
        both = np.concatenate((old, new))
        self._run(_update_lean, self._grid, both, chunks=len(new), ESCAPE=ESCAPE, num_warps=LEAN_WARPS)


def _tiles(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """[tiles, 2] int32: the part that each tile belongs to, and the tile's number in it, row by row."""
    parts, numbers = _numbered(-(-heights // BLOCK_M) * -(-widths // BLOCK_N))
    return np.stack((parts, numbers), axis=1)


def _strips(heights: np.ndarray, widths: np.ndarray, strip: int) -> np.ndarray:
    """[strips, 3] int32: the part that each strip belongs to, its row of tiles, and its first column of tiles."""
    across = -(-widths // (BLOCK_N * strip))
    parts, numbers = _numbered(-(-heights // BLOCK_M) * across)
    return np.stack((parts, numbers // across[parts], numbers % across[parts] * strip), axis=1)


def _numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``counts[i]`` things of part i: the part of each, and its number in the part, both int32."""
    parts = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    starts = np.cumsum(counts) - counts
    return parts, np.arange(len(parts), dtype=np.int32) - starts[parts].astype(np.int32)
