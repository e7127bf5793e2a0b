"""What the grouped kernel can add to a weight beside low-rank deltas: every delta as one or two of its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lbw.engine.deltas import Delta, LowRank
from lbw.engine.deltas.dora import Decomposed
from lbw.engine.deltas.glora import GeneralLowRank
from lbw.engine.deltas.ia3 import ChannelScale
from lbw.engine.deltas.kinds import Dense
from lbw.engine.deltas.loha import Hadamard
from lbw.engine.deltas.lokr import Kronecker, kron
from lbw.engine.deltas.oft import Rotation
from lbw.engine.factors import packed_rows
from lbw.engine.uploads import upload


class Kind(IntEnum):
    """How a piece is computed, by its number in ``update.cu``."""

    LOW_RANK = 0
    HADAMARD = 1
    KRONECKER = 2
    FULL = 3
    WIDE = 4
    GAINS = 5
    ROTATION = 6


@dataclass(frozen=True, eq=False)
class Piece:
    """What is added to a weight [out, in], times ``scale`` and the coefficient of its network.

    * ``LOW_RANK``: ``factors[0]``. ``HADAMARD``: the elementwise product of ``factors[0]`` and ``factors[1]``. Their
      own scales do not count.
    * ``KRONECKER``: the product of ``left`` and ``right``, which are matrices in float32.
    * ``FULL``: ``left`` [out, in] in the weight's own type. ``WIDE``: ``left`` in float32.
    * ``GAINS``: ``W0 * (left[:, None] * right - shift)``, where W0 is the pristine weight; float32.
    * ``ROTATION``: the product of :class:`lbw.engine.deltas.oft.Turns` with blocks of ``block`` rows of W0, of which
      there has to be a copy. ``left`` are ``high`` and ``low``, packed: [2, chunks, ...].
    """

    kind: Kind
    scale: float = 1.0
    factors: tuple[LowRank, ...] = ()
    left: Tensor | None = None
    right: Tensor | None = None
    shift: float = 0.0
    block: int = 0

    @property
    def matrices(self) -> list[Tensor]:
        """``left`` and ``right``, as far as there are any."""
        return [matrix for matrix in (self.left, self.right) if matrix is not None]


def can_be_pieces(deltas: Sequence[Delta], shape: torch.Size, dtype: torch.dtype) -> bool:
    """Whether the kernel can add ``deltas``, which are those of one weight, in the host's order.

    One that depends on the weight sees it as the networks before it left it, so it has to be the first. A norm's weight
    of one dimension is a row to the kernel, and no deltas are made for rows but those that are stored as they are.
    """
    if len(shape) < 2 and not all(isinstance(delta, Dense) for delta in deltas):
        return False
    return all(
        _stands_alone(delta, dtype) or (index == 0 and _can_see_pristine(delta, shape, dtype))
        for index, delta in enumerate(deltas)
    )


def _stands_alone(delta: Delta, dtype: torch.dtype) -> bool:
    if isinstance(delta, LowRank):
        return _is_packable(delta, dtype)
    if isinstance(delta, Hadamard):
        return _is_packable(delta.left, dtype) and _is_packable(delta.right, dtype)
    if isinstance(delta, Dense):
        return delta.value.dtype in (dtype, torch.float32)
    return isinstance(delta, Kronecker)


def _can_see_pristine(delta: Delta, shape: torch.Size, dtype: torch.dtype) -> bool:
    if isinstance(delta, ChannelScale):
        return len(shape) == 2
    # Factors that are derived in float32 can be packed for float16 only, see low_rank.
    return dtype == torch.float16 and (
        isinstance(delta, GeneralLowRank)
        or (isinstance(delta, Decomposed) and delta.has_gains)
        or (isinstance(delta, Rotation) and 2 * delta.columns(shape[0]) <= shape[1:].numel())  # no more than the weight
    )


def _is_packable(delta: LowRank, dtype: torch.dtype) -> bool:
    return delta.up.dtype == delta.down.dtype == dtype


def pieces_of(delta: Delta, weight: Tensor, of: Any) -> tuple[Piece, ...]:
    """A delta's pieces, whose tensors are where the delta's are.

    Args:
        delta: one of those that :func:`can_be_pieces`.
        weight: what it is added to, pristine.
        of: stands for the weight in what is remembered of it, see :class:`lbw.engine.deltas.kinds.Memo`.
    """
    if isinstance(delta, LowRank):
        return (Piece(Kind.LOW_RANK, delta.scale, (delta,)),)
    if isinstance(delta, Hadamard):
        scale = delta.scale * delta.left.scale * delta.right.scale
        return (Piece(Kind.HADAMARD, scale, (delta.left, delta.right)),)
    if isinstance(delta, GeneralLowRank):
        derived = delta.on_pristine(weight, of)
        return (Piece(Kind.LOW_RANK, derived.scale, (derived,)),)
    if isinstance(delta, Decomposed):
        rows, columns, moved = delta.gains(weight, of)
        return (Piece(Kind.GAINS, left=rows, right=columns, shift=1.0), Piece(Kind.LOW_RANK, moved.scale, (moved,)))
    if isinstance(delta, Kronecker):
        return (Piece(Kind.KRONECKER, delta.scale, left=delta.w1, right=delta.w2),)
    if isinstance(delta, Dense):
        return (Piece(Kind.FULL if delta.value.dtype == weight.dtype else Kind.WIDE, left=delta.value),)
    if isinstance(delta, Rotation):
        turns = delta.turns()
        left = torch.stack([packed_rows(turns.high), packed_rows(turns.low)])
        return (Piece(Kind.ROTATION, turns.unit, left=left, block=turns.block),)
    assert isinstance(delta, ChannelScale)
    factors = delta.factors.float().expand(weight.shape)
    is_by_row = delta.factors.shape[-1] == 1
    ones = torch.ones_like(factors[0] if is_by_row else factors[:, 0])
    rows, columns = (factors[:, 0], ones) if is_by_row else (ones, factors[0])
    return (Piece(Kind.GAINS, left=rows, right=columns),)


def on_device(pieces: Sequence[Sequence[Piece]], device: torch.device) -> list[tuple[Piece, ...]]:
    """The pieces of many weights with their matrices on ``device``, as the kernels read them; factors stay.

    Raises:
        torch.cuda.OutOfMemoryError: they do not fit.
    """
    places: dict[torch.dtype, list[Tensor]] = {}
    for piece in chain.from_iterable(pieces):
        for matrix in piece.matrices:
            places.setdefault(matrix.dtype, []).append(matrix)
    if not places:
        return [tuple(of_weight) for of_weight in pieces]
    uploaded = {dtype: iter(upload(matrices, device)) for dtype, matrices in places.items()}

    def there(matrix: Tensor | None) -> Tensor | None:
        return None if matrix is None else next(uploaded[matrix.dtype])

    return [
        tuple(replace(piece, left=there(piece.left), right=there(piece.right)) for piece in of_weight)
        for of_weight in pieces
    ]


def without(weight: Tensor, terms: Sequence[tuple[Piece, float]]) -> Tensor:
    """What a weight was before pieces were added to it, to float32's precision; on the weight's device.

    Args:
        weight: [out, in], 16-bit.
        terms: (piece, the coefficient that it was added with).
    """
    total, gains = weight.float(), None
    for piece, coefficient in terms:
        strength = coefficient * piece.scale
        if piece.kind == Kind.GAINS:
            assert piece.left is not None and piece.right is not None
            left, right = piece.left.to(weight.device), piece.right.to(weight.device)
            gains = 1 + strength * (left.flatten()[:, None] * right.flatten() - piece.shift)
        else:
            total = total - strength * _value(piece, weight)
    return total if gains is None else total / gains


def _value(piece: Piece, weight: Tensor) -> Tensor:
    """A piece that does not depend on the weight, as a matrix in float32."""
    assert piece.kind != Kind.ROTATION, "there is a copy of the weight"
    if piece.kind in (Kind.LOW_RANK, Kind.HADAMARD):
        products = [
            factor.up.to(weight.device).float() @ factor.down.to(weight.device).float() for factor in piece.factors
        ]
        return products[0] if len(products) == 1 else products[0] * products[1]
    assert piece.left is not None
    left = piece.left.to(weight.device).float()
    if piece.kind == Kind.KRONECKER:
        assert piece.right is not None
        left = kron(left, piece.right.to(weight.device).float())
    return left.reshape(weight.shape)


def error_of(piece: Piece) -> float:
    """By how much a value of a piece may differ from one computation to the next, in parts of the sum of the magnitudes
    that it is made of."""
    return (sum(factor.rank for factor in piece.factors) + 4) * 2.0**-23
