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

from lbw.factors import CHUNK
from lbw.kernels.part import LeanPart, Part
from lbw.lean import STRIP, STRIP_HEIGHT, TILE_HEIGHT, TILE_WIDTH

RECOVERS_BASES = hasattr(tl, "join")
"""Whether there is a ``GroupedLeanUpdate``: the first versions of Triton lack what it needs."""

BLOCK_M, BLOCK_N, BLOCK_N_BEFORE_HOPPER = 64, 128, 64
"""A tile of the weight. Of the sizes and numbers of warps that were tried on an H100 these were the fastest. Older GPUs
have the factors in registers too, which a tile of 128 columns does not leave enough of."""
WARPS = 4


@dataclass(frozen=True)
class Pipeline:
    """``strip``: tiles side by side that one program works on; it looks up its part once, and loads one tile ahead.
    ``stages``: chunks of the factors that are on their way at a time."""

    strip: int
    stages: int


SHALLOW, DEEP = Pipeline(strip=8, stages=2), Pipeline(strip=4, stages=4)
"""For ranks of one chunk, and for more; the fastest of nine on an H100."""

LEAN_STAGES = {SHALLOW: 2, DEEP: 3}
ESCAPES_AT_ONCE = 256

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
    SUM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """``weight = round(base + sum of coefficient * (up @ down))`` for a strip of tiles of one part.

    ``SUM`` says how the sum over a part's chunks is made. "one": they have the same coefficient. "nested": what there
    is so far is multiplied by the ratio of two coefficients before a chunk is added, so that one multiplication is left
    to the end, and the tensor cores do the additions. "any": each chunk is multiplied by its coefficient, which may be
    0.
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
            if SUM == "one":
                product = _chunk(up, down, first, rank, m, n, width, inside_m, inside_n, product, CHUNK)
                used = coefficient
            elif SUM == "nested":
                product *= tl.load(coefficients + tl.maximum(first // CHUNK - 1, 0)) / coefficient
                product = _chunk(up, down, first, rank, m, n, width, inside_m, inside_n, product, CHUNK)
                used = coefficient
            else:
                zero = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
                chunk = _chunk(up, down, first, rank, m, n, width, inside_m, inside_n, zero, CHUNK)
                total += coefficient * chunk
                used += tl.abs(coefficient)
        if SUM != "any":
            total += used * product
        # Adding 0 has turned a pristine -0.0 into 0.0.
        tl.store(
            weight + m[:, None] * width + n[None, :],
            tl.where(used != 0.0, total.to(DTYPE), here),
            mask=inside_m & inside_n,
            eviction_policy="evict_first",
        )


@triton.jit
def _paired(values):
    """16-bit [m, n] -> int32 [m, n / 2], with two neighbours in the halves of a number."""
    left, right = tl.split(tl.reshape(values.to(tl.int16, bitcast=True), (values.shape[0], values.shape[1] // 2, 2)))
    return (left.to(tl.int32) & 0xFFFF) | (right.to(tl.int32) << 16)


@triton.jit
def _recovered(patched, near, quads, tile):
    """The pristine weights, see :mod:`lbw.lean`: two in each number, so that one instruction works on both.

    ``patched`` are the weights as they are, ``near`` those without the delta in force.
    """
    known = (((quads >> (2 * tile)) & 0x0303) * 0x0101) & 0x00030003
    number = (near & 0x7FFF7FFF) + 0x00040004 - known
    # A multiplication and a shift divide the numbers that 16 bits can hold by 3.
    thirds = ((number & 0xFFFF) * 43691 >> 17) | (((number >> 16) & 0xFFFF) * 43691 >> 17 << 16)
    found = (thirds * 3 + known - 0x00030003) | (near & -0x7FFF8000)
    is_escape = (known & (known >> 1) & 0x00010001) * 0xFFFF
    return (patched & is_escape) | (found & ~is_escape)


@triton.jit
def _update_lean(
    strips,
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
    STRIP: tl.constexpr,
    ONE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,
    ESCAPES_AT_ONCE: tl.constexpr,
):
    """The same, with the pristine weights recovered from the patched ones, see :mod:`lbw.lean`, down a strip of tiles.

    ``coefficients`` has those in force, and behind them, ``chunks`` later, those that are wanted.
    """
    part = tl.load(strips + 3 * tl.program_id(0))
    first_row = tl.load(strips + 3 * tl.program_id(0) + 1) * STRIP * BLOCK_M
    first_column = tl.load(strips + 3 * tl.program_id(0) + 2) * BLOCK_N
    height = tl.load(heights + part)
    width = tl.load(widths + part)
    weight = tl.load(weights + part).to(tl.pointer_type(DTYPE))
    code = tl.load(codes + part).to(tl.pointer_type(tl.uint16))
    up = tl.multiple_of(tl.load(ups + part).to(tl.pointer_type(DTYPE)), 16)
    down = tl.load(downs + part).to(tl.pointer_type(DTYPE))
    rank = tl.multiple_of(tl.load(ranks + part), CHUNK)
    coefficients += tl.load(first_chunks + part)
    escape = tl.load(escapes + part).to(tl.pointer_type(tl.int32))
    if ALIGNED:
        width = tl.multiple_of(width, 8)
        weight = tl.multiple_of(weight, 16)
        code = tl.multiple_of(code, 16)
        down = tl.multiple_of(down, 16)
    n = first_column + tl.arange(0, BLOCK_N)
    inside_n = (n < width)[None, :]
    rows = tl.arange(0, BLOCK_M)
    pair = first_column // 2 + tl.arange(0, BLOCK_N // 2)
    pairs_across = tl.cdiv(width, 2)
    quads = tl.load(
        code + (first_row // STRIP + rows)[:, None] * pairs_across + pair[None, :],
        mask=(pair < pairs_across)[None, :] & (rows[:, None] >= 0),
        other=0,
        eviction_policy="evict_first",
    )
    # Escapes are put where they belong first, so that none has to be looked for when its tile is worked on.
    single = weight.to(tl.pointer_type(tl.int16)) + first_row * width + first_column
    end = tl.load(first_escapes + tl.program_id(0) + part + 1)
    for start in range(tl.load(first_escapes + tl.program_id(0) + part), end, ESCAPES_AT_ONCE):
        places = start + tl.arange(0, ESCAPES_AT_ONCE)
        word = tl.load(escape + places, mask=places < end, other=0)
        position = word >> 16
        tl.store(single + position // BLOCK_N * width + position % BLOCK_N, word.to(tl.int16), mask=places < end)
    tl.debug_barrier()
    ahead = tl.load(
        weight + (first_row + rows)[:, None] * width + n[None, :],
        mask=(first_row + rows < height)[:, None] & inside_n,
        other=0.0,
        eviction_policy="evict_first",
    )
    for tile in range(0, STRIP):
        m = first_row + tile * BLOCK_M + rows
        inside_m = (m < height)[:, None]
        here = ahead
        ahead = tl.load(
            weight + (m + BLOCK_M)[:, None] * width + n[None, :],
            mask=(m + BLOCK_M < tl.minimum(height, first_row + STRIP * BLOCK_M))[:, None] & inside_n,
            other=0.0,
            eviction_policy="evict_first",
        )
        in_force = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        wanted = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        old = 0.0
        new = 0.0
        used = 0.0
        for first in range(0, rank, CHUNK):
            old = tl.load(coefficients + first // CHUNK)
            new = tl.load(coefficients + chunks + first // CHUNK)
            if ONE:
                product = _chunk(up, down, first, rank, m, n, width, inside_m, inside_n, product, CHUNK)
            else:
                zero = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
                chunk = _chunk(up, down, first, rank, m, n, width, inside_m, inside_n, zero, CHUNK)
                in_force += old * chunk
                wanted += new * chunk
            used += tl.abs(new)
        if ONE:
            in_force = old * product
            wanted = new * product
        near = (here.to(tl.float32) - in_force).to(DTYPE)
        pairs = _recovered(_paired(here), _paired(near), quads.to(tl.int32), tile)
        both = tl.reshape(tl.join(pairs.to(tl.int16), (pairs >> 16).to(tl.int16)), (BLOCK_M, BLOCK_N))
        base = both.to(DTYPE, bitcast=True)
        # Adding 0 would turn a pristine -0.0 into 0.0.
        result = tl.where(used != 0.0, (base.to(tl.float32) + wanted).to(DTYPE), base)
        tl.store(
            weight + m[:, None] * width + n[None, :],
            result,
            mask=inside_m & inside_n,
            eviction_policy="evict_first",
        )


def supports(weight: Tensor) -> bool:
    """Whether a weight can be the weight of a :class:`lbw.kernels.part.Part`."""
    return weight.dtype in _DTYPES and weight.is_contiguous() and weight.numel() < 2**31 and _runs_on(weight)


def is_aligned(weight: Tensor) -> bool:
    """Whether every row begins where a thread can move 16 bytes at once; a weight that is not slows its launch down."""
    return _width(weight) % 8 == 0 and weight.data_ptr() % 16 == 0


def _width(weight: Tensor) -> int:
    return weight.numel() // weight.shape[0]


def _runs_on(weight: Tensor) -> bool:
    """On CUDA devices whose tensor cores Triton can use; on the CPU in Triton's interpreter."""
    if weight.device.type == "cuda":
        return _capability(weight.device) >= (8, 0)
    is_interpreted = not isinstance(_update, triton.JITFunction)
    return weight.device.type == "cpu" and is_interpreted and weight.dtype == torch.float16  # no bfloat16 product there


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


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
        chunks = [count for each in factors if each is not None for count in each.chunks]
        self._delta_of_chunk = np.repeat(np.arange(len(chunks)), chunks)
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
        return np.asarray(coefficients, np.float32)[self._delta_of_chunk]

    def _run(self, function: Any, grid: tuple[int], coefficients: np.ndarray, **options: Any) -> None:
        values = torch.from_numpy(coefficients)
        is_cuda = self._device.type == "cuda"
        if is_cuda:
            values = values.pin_memory()
        is_elsewhere = is_cuda and torch.cuda.current_device() != self._device.index
        with torch.cuda.device(self._device) if is_elsewhere else nullcontext():
            function[grid](
                coefficients=values.to(self._device, non_blocking=True),
                **self._tables,
                **options,
                CHUNK=CHUNK,
                ALIGNED=self._is_aligned,
                DTYPE=self._dtype,
            )


class GroupedUpdate(_Launch):
    """Updates many weights in one launch, as often as wanted."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(parts)
        self._block_n = BLOCK_N if _capability(self._device) >= (9, 0) else BLOCK_N_BEFORE_HOPPER
        strips = _strips(*self._shapes, self._pipeline.strip, self._block_n)
        self._grid = (len(strips),)
        self._tables["strips"] = self._upload(strips)
        self._tables["bases"] = self._addresses([part.base for part in parts])
        self._kept_alive.append([part.base for part in parts])

    def __call__(self, coefficients: Sequence[float]) -> None:
        """Bring all weights to ``coefficients``: one for each of the parts' deltas, in their order."""
        by_chunk = self._by_chunk(coefficients)
        self._run(
            _update,
            self._grid,
            by_chunk,
            STRIP=self._pipeline.strip,
            SUM="one" if self._is_one else "nested" if _have_ratios(by_chunk) else "any",
            BLOCK_M=BLOCK_M,
            BLOCK_N=self._block_n,
            num_warps=WARPS,
            num_stages=self._pipeline.stages,
        )


class GroupedLeanUpdate(_Launch):
    """Updates many weights in one launch, and recovers their pristine values on the way."""

    def __init__(self, parts: Sequence[LeanPart]) -> None:
        super().__init__(parts)
        strips = _strips_down(*self._shapes)
        self._grid = (len(strips),)
        self._tables["strips"] = self._upload(strips)
        self._tables["codes"] = self._addresses([part.code.codes for part in parts])
        self._tables["escapes"] = self._addresses([part.code.escapes for part in parts])
        self._tables["first_escapes"] = torch.cat([part.code.starts for part in parts])
        self._kept_alive.append([part.code for part in parts])

    def __call__(self, in_force: Sequence[float], wanted: Sequence[float]) -> None:
        """Bring all weights from the coefficients ``in_force``, which have to be true, to those ``wanted``."""
        old, new = self._by_chunk(in_force), self._by_chunk(wanted)
        both = np.concatenate((old, new))
        self._run(
            _update_lean,
            self._grid,
            both,
            chunks=len(new),
            STRIP=STRIP,
            ONE=self._is_one,
            BLOCK_M=TILE_HEIGHT,
            BLOCK_N=TILE_WIDTH,
            ESCAPES_AT_ONCE=ESCAPES_AT_ONCE,
            num_warps=WARPS,
            num_stages=LEAN_STAGES[self._pipeline],
        )


def _have_ratios(coefficients: np.ndarray) -> bool:
    """Whether all quotients of two coefficients are numbers, and far from the ends of float32's range."""
    sizes = np.abs(coefficients)
    return bool(0 < sizes.min() <= sizes.max() < 2.0**40 * sizes.min())


def _strips(heights: np.ndarray, widths: np.ndarray, strip: int, block_n: int) -> np.ndarray:
    """[strips, 3] int32: the part that each strip belongs to, its row of tiles, and its first column of tiles."""
    across = -(-widths // (block_n * strip))
    parts, numbers = _numbered(-(-heights // BLOCK_M) * across)
    return np.stack((parts, numbers // across[parts], numbers % across[parts] * strip), axis=1)


def _strips_down(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """[strips, 3] int32: as the escapes are ordered, the part of each strip, its row of strips, and its column."""
    across = -(-widths // TILE_WIDTH)
    parts, numbers = _numbered(-(-heights // STRIP_HEIGHT) * across)
    return np.stack((parts, numbers // across[parts], numbers % across[parts]), axis=1)


def _numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``counts[i]`` things of part i: the part of each, and its number in the part, both int32."""
    parts = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    starts = np.cumsum(counts) - counts
    return parts, np.arange(len(parts), dtype=np.int32) - starts[parts].astype(np.int32)
