"""What the grouped kernel can add to a weight beside low-rank deltas: every delta as one or two of its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from lbw.deltas import Delta, LowRank, Source
from lbw.deltas.dora import Decomposed
from lbw.deltas.glora import GeneralLowRank
from lbw.deltas.ia3 import ChannelScale
from lbw.deltas.kinds import Dense
from lbw.deltas.loha import Hadamard
from lbw.deltas.lokr import Kronecker


class Kind(IntEnum):
    """How a piece is computed, by its number in ``update.cu``."""

    LOW_RANK = 0
    HADAMARD = 1
    KRONECKER = 2
    FULL = 3
    WIDE = 4
    GAINS = 5


@dataclass(frozen=True, eq=False)
class Piece:
    """What is added to a weight [out, in], times ``scale`` and the coefficient of its network.

    * ``LOW_RANK``: ``factors[0]``. ``HADAMARD``: the elementwise product of ``factors[0]`` and ``factors[1]``. Their
      own scales do not count.
    * ``KRONECKER``: the product of ``left`` and ``right``, which are matrices in float32.
    * ``FULL``: ``left`` [out, in] in the weight's own type. ``WIDE``: ``left`` in float32.
    * ``GAINS``: ``W0 * (left[:, None] * right - shift)``, where W0 is the pristine weight; float32.
    """

    kind: Kind
    scale: float = 1.0
    factors: tuple[LowRank, ...] = ()
    left: Tensor | None = None
    right: Tensor | None = None
    shift: float = 0.0


def can_be_pieces(deltas: Sequence[Delta], shape: torch.Size, dtype: torch.dtype) -> bool:
    """Whether the kernel can add ``deltas``, which are those of one weight, in the host's order.

    One that depends on the weight sees it as the networks before it left it, so it has to be the first.
    """
    return all(
        delta.bias is None and (_stands_alone(delta, dtype) or (index == 0 and _can_see_pristine(delta, shape, dtype)))
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
        isinstance(delta, GeneralLowRank) or (isinstance(delta, Decomposed) and delta.has_gains)
    )


def _is_packable(delta: LowRank, dtype: torch.dtype) -> bool:
    return delta.up.dtype == delta.down.dtype == dtype


def pieces_of(delta: Delta, weight: Tensor, base: Source) -> tuple[Piece, ...]:
    """A delta's pieces, on the device of ``weight``.

    Args:
        delta: one of those that :func:`can_be_pieces`.
        weight: what it is added to.
        base: brings its pristine value, on any device, to those that are derived from it; the same tensor each time,
            as what is derived is remembered.
    """
    if isinstance(delta, LowRank):
        return (Piece(Kind.LOW_RANK, delta.scale, (delta,)),)
    if isinstance(delta, Hadamard):
        scale = delta.scale * delta.left.scale * delta.right.scale
        return (Piece(Kind.HADAMARD, scale, (delta.left, delta.right)),)
    if isinstance(delta, GeneralLowRank):
        derived = delta.on_pristine(base(), weight.device)
        return (Piece(Kind.LOW_RANK, derived.scale, (derived,)),)
    if isinstance(delta, Decomposed):
        rows, columns, moved = delta.gains(base(), weight.device)
        gains = Piece(Kind.GAINS, left=_aligned(rows), right=_aligned(columns), shift=1.0)
        return (gains, Piece(Kind.LOW_RANK, moved.scale, (moved,)))
    delta.to(weight.device)
    if isinstance(delta, Kronecker):
        return (Piece(Kind.KRONECKER, delta.scale, left=_aligned(delta.w1), right=_aligned(delta.w2)),)
    if isinstance(delta, Dense):
        kind = Kind.FULL if delta.value.dtype == weight.dtype else Kind.WIDE
        return (Piece(kind, left=_aligned(delta.value)),)
    assert isinstance(delta, ChannelScale)
    factors = delta.factors.float().expand(weight.shape)
    is_by_row = delta.factors.shape[-1] == 1
    ones = torch.ones_like(factors[0] if is_by_row else factors[:, 0])
    rows, columns = (factors[:, 0], ones) if is_by_row else (ones, factors[0])
    return (Piece(Kind.GAINS, left=_aligned(rows), right=_aligned(columns)),)


def _aligned(values: Tensor) -> Tensor:
    values = values.contiguous()
    return values if values.data_ptr() % 16 == 0 else values.clone()
