"""Pristine weights without a copy: recovered, bit for bit, from the patched weights and two bits for each.

A patched weight is ``W1 = round(W0 + d)``, and the delta ``d`` can be computed again. ``round(W1 - d)`` is ``W0`` or
one of its two neighbours, as long as the numbers near ``W1`` lie no further apart than twice those near ``W0``: then
the number of ``W0``, counted from zero and taken modulo 3, tells which. Weights for which that is not certain (those
that are small beside the largest delta that they may get) are escapes: they are kept as they are, tile by tile, and
marked with the code 3.

Codes and escapes depend on the pristine weights and on how large the deltas may get, not on their strengths in force:
they are written once, and a switch only reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TILE_HEIGHT, TILE_WIDTH = 64, 128
"""Escapes are kept in the order of these tiles, row by row of tiles, and in a tile row by row of weights."""

ESCAPE = 3


@dataclass(frozen=True)
class Format:
    """A 16-bit floating-point format: bits of the mantissa, bias and least exponent of the spacing of its numbers."""

    mantissa: int
    bias: int

    @property
    def least(self) -> int:
        return 1 - self.bias - self.mantissa


FORMATS = {torch.float16: Format(10, 15), torch.bfloat16: Format(7, 127)}


@dataclass(frozen=True, eq=False)
class Code:
    """``codes`` [rows, ceil(columns / 4)] uint8, four weights in a byte; ``escapes`` in the order of tiles; ``starts``
    int32, where those of each tile begin."""

    codes: Tensor
    escapes: Tensor
    starts: Tensor

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.escapes.nbytes + self.starts.nbytes


def ordinal(values: Tensor) -> Tensor:
    """The number of each 16-bit float, counted from zero: neighbours differ by 1. int32; both zeros have number 0."""
    bits = values.view(torch.int16).int()
    return torch.where(bits < 0, -32768 - bits, bits)


def from_ordinal(ordinals: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(ordinals < 0, -32768 - ordinals, ordinals).to(torch.int16).view(dtype)


def escapes_of(base: Tensor, spread: Tensor, error: Tensor) -> Tensor:
    """Where ``round(round(base + d) - d)`` may be further from ``base`` than its neighbours.

    Args:
        base: 16-bit weights.
        spread: float32, the largest ``|d|`` that each weight may get.
        error: float32, by how much the computed ``d`` may differ from one computation to the next.
    """
    form = FORMATS[base.dtype]
    magnitude = base.view(torch.int16).int() & 0x7FFF
    exponent = magnitude >> form.mantissa
    is_power = (magnitude & ((1 << form.mantissa) - 1)) == 0
    spacing = torch.where(
        exponent <= 1, form.least, exponent - form.bias - form.mantissa - (is_power & (exponent > 1)).int()
    )
    largest = base.abs().float() + spread
    _, above = torch.frexp(largest)
    spacing_above = (above - 1 - form.mantissa).clamp(min=form.least)
    inexact = 2 * error + largest * 2.0**-21
    one = torch.ones_like(largest)
    is_safe = 0.5 * torch.ldexp(one, spacing_above) + inexact <= 1.4 * torch.ldexp(one, spacing)
    is_minus_zero = base.view(torch.int16) == -32768
    return ~(is_safe & (largest < torch.finfo(base.dtype).max)) | is_minus_zero


def encode(base: Tensor, spread: Tensor, error: Tensor) -> Code:
    """What is kept of ``base`` [rows, columns], see :func:`escapes_of`."""
    is_escape = escapes_of(base, spread, error)
    codes = torch.where(is_escape, ESCAPE, (ordinal(base) + 3 * 32768) % 3)
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 4)).view(len(codes), -1, 4)
    packed = (padded << torch.tensor([0, 2, 4, 6], device=base.device)).sum(2).to(torch.uint8)
    flags = _tiled(is_escape)
    counts = flags.sum(1)
    # As integers, because padding may change the bits of a NaN.
    escapes = _tiled(base.view(torch.int16))[flags].view(base.dtype)
    return Code(packed, escapes, (counts.cumsum(0) - counts).int())


def decode(weight: Tensor, delta: Tensor, code: Code) -> Tensor:
    """The pristine weights. ``weight`` [rows, columns] has been patched with ``delta``, float32 of the same shape."""
    codes = ((code.codes.unsqueeze(2) >> torch.tensor([0, 2, 4, 6], device=weight.device)) & 3).flatten(1)
    codes = codes[:, : weight.shape[1]].int()
    near = ordinal((weight.float() - delta).to(weight.dtype))
    ahead = (codes - near + 3 * 32768) % 3
    values = from_ordinal(near + torch.where(ahead == 2, -1, ahead), weight.dtype)
    tiles, flags = _tiled(values.view(torch.int16)), _tiled(codes == ESCAPE)
    tiles[flags] = code.escapes.view(torch.int16)
    return _untiled(tiles, weight.shape).contiguous().view(weight.dtype)


def _tiled(matrix: Tensor) -> Tensor:
    """[tiles, weights of a tile], padded with zeros."""
    rows, columns = matrix.shape
    padded = torch.nn.functional.pad(matrix, (0, -columns % TILE_WIDTH, 0, -rows % TILE_HEIGHT))
    split = padded.view(-(-rows // TILE_HEIGHT), TILE_HEIGHT, -1, TILE_WIDTH)
    return split.permute(0, 2, 1, 3).reshape(-1, TILE_HEIGHT * TILE_WIDTH)


def _untiled(tiles: Tensor, shape: torch.Size) -> Tensor:
    rows, columns = shape
    split = tiles.view(-(-rows // TILE_HEIGHT), -1, TILE_HEIGHT, TILE_WIDTH)
    return split.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[:rows, :columns]
