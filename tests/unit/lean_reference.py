"""What lean keeps of a weight, in torch: the reference for the kernel, and codes for deltas that need no network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lbw.engine.lean import STRIP, STRIP_HEIGHT, TILE_HEIGHT, Code, magnitude, shifts, strips


@dataclass(frozen=True)
class Format:
    """A 16-bit floating-point format: bits of the mantissa, bias and least exponent of the spacing of its numbers."""

    mantissa: int
    bias: int

    @property
    def least(self) -> int:
        return 1 - self.bias - self.mantissa


FORMATS = {torch.float16: Format(10, 15), torch.bfloat16: Format(7, 127)}


def escapes_of(base: Tensor, spread: Tensor, error: Tensor) -> Tensor:
    """Where ``round(round(base + d) - d)`` may be further from ``base`` than its neighbours.

    Args:
        base: 16-bit weights.
        spread: float32, the largest ``|d|`` that each weight may get.
        error: float32, by how much the computed ``d`` may differ from one computation to the next.
    """
    form = FORMATS[base.dtype]
    number = magnitude(base)
    exponent = number >> form.mantissa
    is_power = (number & ((1 << form.mantissa) - 1)) == 0
    spacing = torch.where(
        exponent <= 1, form.least, exponent - form.bias - form.mantissa - (is_power & (exponent > 1)).int()
    )
    largest = base.abs().float() + spread
    _, above = torch.frexp(largest)
    spacing_above = (above - 1 - form.mantissa).clamp(min=form.least)
    inexact = 2 * error + largest * 2.0**-21
    one = torch.ones_like(largest)
    is_safe = 0.5 * torch.ldexp(one, spacing_above) + inexact <= 1.4 * torch.ldexp(one, spacing)
    return ~(is_safe & (largest < torch.finfo(base.dtype).max) & (number > 1))


def encode(base: Tensor, spread: Tensor, error: Tensor) -> Code:
    """What is kept of ``base`` [rows, columns], see :func:`escapes_of`."""
    is_escape = escapes_of(base, spread, error)
    padded = torch.nn.functional.pad(magnitude(base) & 3, (0, -base.shape[1] % 8, 0, -len(base) % STRIP_HEIGHT))
    quads = padded.view(-1, STRIP, TILE_HEIGHT, padded.shape[1])
    packed = (quads << shifts(base.device)).sum(1).to(torch.uint8).flatten(0, 1)
    flags = strips(is_escape)
    positions = torch.arange(flags.shape[1], device=base.device, dtype=torch.int32).expand(flags.shape)[flags]
    # As integers, because padding may change the bits of a NaN.
    bits = strips(base.view(torch.int16))[flags].int() & 0xFFFF
    return Code(packed, positions << 16 | bits, flags.sum(1).int())
