"""The in-place update in Triton: one launch for all layers of a switch, and one pass over each weight.

What bounds it is memory: each weight's pristine value is read once and the weight is written once. The factors are
small beside that and stay in the L2 cache, and the tensor cores are idle most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from lbw.factors import RANK_MULTIPLE, Factors

BLOCK_M, BLOCK_N = 64, 128
"""A tile of the weight. 8 warps hold it, and its product, in 118 registers a thread, so that two tiles share a
multiprocessor and one loads while the other multiplies."""
WARPS = 8

_DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}

@triton.jit
def _update(
    tiles,
    weights,
    bases,
    heights,
    widths,
    first_terms,
    ups,
    downs,
    ranks,
    coefficients,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """``weight = round(base + sum of coefficient * (up @ down))`` for one tile of one part."""
    part = tl.load(tiles + 2 * tl.program_id(0))
    tile = tl.load(tiles + 2 * tl.program_id(0) + 1)
    height = tl.load(heights + part)
    width = tl.load(widths + part)
    weight = tl.load(weights + part).to(tl.pointer_type(DTYPE))
    base = tl.load(bases + part).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        width = tl.multiple_of(width, 8)
        weight = tl.multiple_of(weight, 16)
        base = tl.multiple_of(base, 16)
    tiles_across = tl.cdiv(width, BLOCK_N)
    m = (tile // tiles_across) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tile % tiles_across) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_m = (m < height)[:, None]
    inside_n = (n < width)[None, :]
    offsets = m[:, None] * width + n[None, :]
    # Neither the base nor the weight is needed again in this launch, the factors are: they shall keep the L2 cache.
    total = tl.load(base + offsets, mask=inside_m & inside_n, other=0.0, eviction_policy="evict_first").to(tl.float32)
    for term in range(tl.load(first_terms + part), tl.load(first_terms + part + 1)):
        coefficient = tl.load(coefficients + term)
        # Adding 0 would turn a pristine -0.0 into 0.0.
        if coefficient != 0.0:
            rank = tl.multiple_of(tl.load(ranks + term), 16)
            up = tl.multiple_of(tl.load(ups + term).to(tl.pointer_type(DTYPE)), 16)
            down = tl.load(downs + term).to(tl.pointer_type(DTYPE))
            if ALIGNED:
                down = tl.multiple_of(down, 16)
            product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
            for first in range(0, rank, BLOCK_K):
                k = first + tl.arange(0, BLOCK_K)
                left = tl.load(up + m[:, None] * rank + k[None, :], mask=inside_m, other=0.0)
                right = tl.load(down + k[:, None] * width + n[None, :], mask=inside_n, other=0.0)
                product = tl.dot(left, right, product)
            total += coefficient * product
    tl.store(weight + offsets, total.to(DTYPE), mask=inside_m & inside_n, eviction_policy="evict_first")


@dataclass(frozen=True, eq=False)
class Part:
    """One weight, or some rows of one, with its pristine value and the factors of what may be added to it.

    ``weight`` and ``base`` are contiguous, [out, ...], 16-bit, and of one dtype with the factors. ``base`` may be
    ``weight`` itself, where the pristine value has been put there just before. Factors are as
    :class:`lbw.factors.FactorStore` packs them.
    """

    weight: Tensor
    base: Tensor
    factors: tuple[Factors, ...]


def supports(weight: Tensor) -> bool:
    """Whether a weight can be the weight of a :class:`Part`."""
    return weight.dtype in _DTYPES and weight.is_contiguous() and weight.numel() < 2**31 and _runs_on(weight)


def _runs_on(weight: Tensor) -> bool:
    """On CUDA devices whose tensor cores Triton can use; on the CPU in Triton's interpreter."""
    if weight.device.type == "cuda":
        return torch.cuda.get_device_capability(weight.device) >= (8, 0)
    is_interpreted = not isinstance(_update, triton.JITFunction)
    return weight.device.type == "cpu" and is_interpreted and weight.dtype == torch.float16  # no bfloat16 product there


class GroupedUpdate:
    """Updates many weights of one dtype and device in one launch, as often as wanted.

    It holds the addresses of its parts: when one of them has moved, a new one has to be made.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        first = parts[0].weight
        self._device, self._dtype = first.device, _DTYPES[first.dtype]
        factors = [each for part in parts for each in part.factors]
        heights = np.array([part.weight.shape[0] for part in parts], np.int32)
        widths = np.array([part.weight.numel() // part.weight.shape[0] for part in parts], np.int32)
        ranks = np.array([each.rank for each in factors], np.int32)
        addresses = [
            np.array([part.weight.data_ptr() for part in parts], np.int64),
            np.array([part.base.data_ptr() for part in parts], np.int64),
            np.array([each.up.data_ptr() for each in factors], np.int64),
            np.array([each.down.data_ptr() for each in factors], np.int64),
        ]
        self._aligned = not (widths % 8).any() and not any((address % 16).any() for address in addresses)
        self._block_k = _largest_block(ranks)
        self._weights, self._bases, self._ups, self._downs = (self._upload(address) for address in addresses)
        self._heights, self._widths, self._ranks = (self._upload(values) for values in (heights, widths, ranks))
        counts = [len(part.factors) for part in parts]
        self._first_terms = self._upload(np.concatenate(([0], np.cumsum(counts))).astype(np.int32))
        tiles = _tiles(heights, widths)
        self._grid = (len(tiles),)
        self._tiles = self._upload(tiles)
        self._kept_alive = factors

    def _upload(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)

    def __call__(self, coefficients: Sequence[float]) -> None:
        """Bring all weights to ``coefficients``: one for each of the parts' factors, in their order."""
        values = torch.tensor(coefficients, dtype=torch.float32, pin_memory=self._device.type == "cuda")
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            _update[self._grid](
                self._tiles,
                self._weights,
                self._bases,
                self._heights,
                self._widths,
                self._first_terms,
                self._ups,
                self._downs,
                self._ranks,
                values.to(self._device, non_blocking=True),
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                BLOCK_K=self._block_k,
                ALIGNED=self._aligned,
                DTYPE=self._dtype,
                num_warps=WARPS,
                num_stages=1,
            )


def _largest_block(ranks: np.ndarray) -> int:
    """The largest power of two, up to 32, that divides all ranks."""
    return next(size for size in (32, RANK_MULTIPLE) if not (ranks % size).any())


def _tiles(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """[tiles, 2] int32: the part that each tile belongs to, and the tile's number in it, row by row."""
    counts = -(-heights // BLOCK_M) * -(-widths // BLOCK_N)
    parts = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    starts = np.cumsum(counts) - counts
    numbers = np.arange(len(parts), dtype=np.int32) - starts[parts].astype(np.int32)
    return np.stack((parts, numbers), axis=1)
