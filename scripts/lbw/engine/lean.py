"""Pristine weights without a copy: recovered, bit for bit, from the patched weights and two bits for each.

A patched weight is ``W1 = round(W0 + d)``, and the delta ``d`` can be computed again. ``round(W1 - d)`` is ``W0`` or
one of its two neighbours, as long as the numbers near ``W1`` lie no further apart than twice those near ``W0``: then
the number of ``|W0|``, counted from zero and taken modulo 4, tells which. Weights for which that is not certain (those
that are small beside the largest delta that they may get, and those whose neighbours have another sign) are escapes:
they are kept as they are, strip by strip. With ``W1 = round(g * W0 + d)`` it is the same for ``(W1 - d) / g``, if the
gain ``g`` is not too small.

Codes and escapes depend on the pristine weights and on how large the deltas may get, not on their strengths in force:
they are written once, and a switch only reads them. ``kernels/encode.cu`` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

TILE_HEIGHT, TILE_WIDTH, STRIP = 32, 128, 4
"""A strip is a column of ``STRIP`` tiles. A byte has the codes of those four weights of a strip that are at the same
place of their tiles, so that one load of bytes serves four tiles."""

STRIP_HEIGHT = STRIP * TILE_HEIGHT


@dataclass(frozen=True, eq=False)
class Code:
    """What is kept of one weight.

    ``codes`` [rows / 4, columns] uint8, rows rounded up to whole strips and columns to eights; bits 2t and 2t + 1
    are for tile t.

    ``escapes`` int32, strip by strip, row by row of strips: ``position << 16 | bits of the weight``, where the position
    is ``row * TILE_WIDTH + column`` within the strip. ``counts`` int32 [strips]: how many each strip has.
    """

    codes: Tensor
    escapes: Tensor
    counts: Tensor


@dataclass(frozen=True, eq=False)
class Codes:
    """What is kept of many weights: ``codes`` and ``escapes`` as :class:`Code` has them, one weight behind the other.

    ``starts`` int32 [strips + 1]: where the escapes of each strip of all weights begin. ``firsts`` int64: where the
    codes of each weight begin. ``shapes``: (rows, columns) of each weight.
    """

    codes: Tensor
    escapes: Tensor
    starts: Tensor
    firsts: np.ndarray
    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def empty(cls, shapes: Sequence[tuple[int, int]], starts: Tensor, escapes: int) -> Codes:
        """Room for the codes of weights that have so many escapes."""
        sizes = [code_size(*shape) for shape in shapes]
        codes = torch.empty(sum(sizes), dtype=torch.uint8, device=starts.device)
        room = torch.empty(max(escapes, 1), dtype=torch.int32, device=starts.device)
        return cls(codes, room, starts, np.cumsum([0, *sizes])[:-1], tuple(shapes))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors)

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.codes, self.escapes, self.starts

    def of(self, number: int) -> Code:
        """Those of one weight."""
        rows, columns = self.shapes[number]
        ends = list(accumulate((_strips_of(*shape) for shape in self.shapes[: number + 1]), initial=0))
        starts = self.starts[ends[-2] : ends[-1] + 1]
        first = int(self.firsts[number])
        codes = self.codes[first : first + code_size(rows, columns)].view(_code_rows(rows), -1)
        return Code(codes, self.escapes[int(starts[0]) : int(starts[-1])], starts.diff())

    def copied(self, copy: Callable[[Tensor], Tensor]) -> Codes:
        """The same elsewhere."""
        codes, escapes, starts = map(copy, self._tensors)
        return Codes(codes, escapes, starts, self.firsts, self.shapes)


def code_size(rows: int, columns: int) -> int:
    """Bytes of the codes of a weight, without escapes."""
    return _code_rows(rows) * _code_columns(columns)


def _code_rows(rows: int) -> int:
    return -(-rows // STRIP_HEIGHT) * TILE_HEIGHT


def _code_columns(columns: int) -> int:
    return -(-columns // 8) * 8


def _strips_of(rows: int, columns: int) -> int:
    return -(-rows // STRIP_HEIGHT) * -(-columns // TILE_WIDTH)


def magnitude(values: Tensor) -> Tensor:
    """The number of ``|value|`` among the 16-bit floats, counted from zero; int32."""
    return values.view(torch.int16).int() & 0x7FFF


def decode(near: Tensor, code: Code) -> Tensor:
    """The pristine weights. ``near`` [rows, columns], of their type, is what is left of patched ones when the delta is
    taken away again."""
    rows, columns = near.shape
    quads = code.codes.view(-1, 1, TILE_HEIGHT, code.codes.shape[1])
    codes = ((quads >> shifts(near.device)) & 3).flatten(0, 2)[:rows, :columns].int()
    found = magnitude(near)
    found = found - 1 + (codes - found + 1 & 3)
    split = strips((near.view(torch.int16).int() & 0x8000 | found).to(torch.int16))
    owners = torch.repeat_interleave(torch.arange(len(code.counts), device=near.device), code.counts)
    split[owners, code.escapes >> 16 & 0xFFFF] = code.escapes.to(torch.int16)
    return _whole(split, near.shape).contiguous().view(near.dtype)


def shifts(device: torch.device) -> Tensor:
    """Where in a byte the codes of each tile of a strip are, [STRIP, 1, 1]."""
    return torch.arange(0, 2 * STRIP, 2, device=device, dtype=torch.int32).view(STRIP, 1, 1)


def strips(matrix: Tensor) -> Tensor:
    """[strips, weights of a strip], padded with zeros."""
    rows, columns = matrix.shape
    padded = torch.nn.functional.pad(matrix, (0, -columns % TILE_WIDTH, 0, -rows % STRIP_HEIGHT))
    split = padded.view(-(-rows // STRIP_HEIGHT), STRIP_HEIGHT, -1, TILE_WIDTH)
    return split.permute(0, 2, 1, 3).reshape(-1, STRIP_HEIGHT * TILE_WIDTH)


def _whole(split: Tensor, shape: torch.Size) -> Tensor:
    """The matrix of which :func:`strips` made ``split``."""
    rows, columns = shape
    tiles = split.view(-(-rows // STRIP_HEIGHT), -1, STRIP_HEIGHT, TILE_WIDTH)
    return tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[:rows, :columns]
