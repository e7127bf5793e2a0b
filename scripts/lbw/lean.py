"""Pristine weights without a copy: recovered, bit for bit, from the patched weights and two bits for each.

A patched weight is ``W1 = round(W0 + d)``, and the delta ``d`` can be computed again. ``round(W1 - d)`` is ``W0`` or
one of its two neighbours, as long as the numbers near ``W1`` lie no further apart than twice those near ``W0``: then
the number of ``|W0|``, counted from zero and taken modulo 4, tells which. Weights for which that is not certain (those
that are small beside the largest delta that they may get, and those whose neighbours have another sign) are escapes:
they are kept as they are, strip by strip.

Codes and escapes depend on the pristine weights and on how large the deltas may get, not on their strengths in force:
they are written once, and a switch only reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TILE_HEIGHT, TILE_WIDTH, STRIP = 32, 128, 4
"""A strip is a column of ``STRIP`` tiles. A byte has the codes of those four weights of a strip that are at the same
place of their tiles, so that one load of bytes serves four tiles."""

STRIP_HEIGHT = STRIP * TILE_HEIGHT


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
    """``codes`` [rows / 4, columns] uint8, rows rounded up to whole strips and columns to eights; bits 2t and 2t + 1
    are for tile t.

    ``escapes`` int32, strip by strip, row by row of strips: ``position << 16 | bits of the weight``, where the position
    is ``row * TILE_WIDTH + column`` within the strip. ``starts`` int32 [strips + 1]: where those of each strip begin.
    """

    codes: Tensor
    escapes: Tensor
    starts: Tensor

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.escapes.nbytes + self.starts.nbytes


def _magnitude(values: Tensor) -> Tensor:
    """The number of ``|value|`` among the 16-bit floats, counted from zero; int32."""
    return values.view(torch.int16).int() & 0x7FFF


def escapes_of(base: Tensor, spread: Tensor, error: Tensor) -> Tensor:
    """Where ``round(round(base + d) - d)`` may be further from ``base`` than its neighbours.

    Args:
        base: 16-bit weights.
        spread: float32, the largest ``|d|`` that each weight may get.
        error: float32, by how much the computed ``d`` may differ from one computation to the next.
    """
    form = FORMATS[base.dtype]
    magnitude = _magnitude(base)
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
    return ~(is_safe & (largest < torch.finfo(base.dtype).max) & (magnitude > 1))


def can_encode(base: Tensor) -> bool:
    """Whether no weight is the one NaN that the kernel has for a place without an escape."""
    return not bool((base.view(torch.int16) == -1).any())


def encode(base: Tensor, spread: Tensor, error: Tensor) -> Code:
    """What is kept of ``base`` [rows, columns], see :func:`escapes_of`."""
    is_escape = escapes_of(base, spread, error)
    padded = torch.nn.functional.pad(_magnitude(base) & 3, (0, -base.shape[1] % 8, 0, -len(base) % STRIP_HEIGHT))
    quads = padded.view(-1, STRIP, TILE_HEIGHT, padded.shape[1])
    packed = (quads << _shifts(base.device)).sum(1).to(torch.uint8).flatten(0, 1)
    flags = _strips(is_escape)
    counts = torch.nn.functional.pad(flags.sum(1).cumsum(0), (1, 0))
    positions = torch.arange(flags.shape[1], device=base.device, dtype=torch.int32).expand(flags.shape)[flags]
    # As integers, because padding may change the bits of a NaN.
    bits = _strips(base.view(torch.int16))[flags].int() & 0xFFFF
    return Code(packed, positions << 16 | bits, counts.int())


def decode(weight: Tensor, delta: Tensor, code: Code) -> Tensor:
    """The pristine weights. ``weight`` [rows, columns] has been patched with ``delta``, float32 of the same shape."""
    quads = code.codes.view(-1, 1, TILE_HEIGHT, code.codes.shape[1])
    codes = ((quads >> _shifts(weight.device)) & 3).flatten(0, 2)[: len(weight), : weight.shape[1]].int()
    near = (weight.float() - delta).to(weight.dtype)
    magnitude = _magnitude(near)
    magnitude = magnitude - 1 + (codes - magnitude + 1 & 3)
    strips = _strips((near.view(torch.int16).int() & 0x8000 | magnitude).to(torch.int16))
    counts = code.starts.diff()
    owners = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    strips[owners, code.escapes >> 16 & 0xFFFF] = code.escapes.to(torch.int16)
    return _whole(strips, weight.shape).contiguous().view(weight.dtype)


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(0, 2 * STRIP, 2, device=device, dtype=torch.int32).view(STRIP, 1, 1)


def _strips(matrix: Tensor) -> Tensor:
    """[strips, weights of a strip], padded with zeros."""
    rows, columns = matrix.shape
    padded = torch.nn.functional.pad(matrix, (0, -columns % TILE_WIDTH, 0, -rows % STRIP_HEIGHT))
    split = padded.view(-(-rows // STRIP_HEIGHT), STRIP_HEIGHT, -1, TILE_WIDTH)
    return split.permute(0, 2, 1, 3).reshape(-1, STRIP_HEIGHT * TILE_WIDTH)


def _whole(strips: Tensor, shape: torch.Size) -> Tensor:
    """The matrix of which :func:`_strips` made ``strips``."""
    rows, columns = shape
    split = strips.view(-(-rows // STRIP_HEIGHT), -1, STRIP_HEIGHT, TILE_WIDTH)
    return split.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[:rows, :columns]
