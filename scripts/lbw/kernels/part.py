"""What a grouped kernel is given: weights, where their pristine values come from, and what may be added to them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lbw.factors import Factors
from lbw.lean import Code
from lbw.pieces import Piece


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


@dataclass(frozen=True, eq=False)
class PiecePart(Part):
    """As :class:`Part`, with deltas of any kind; ``factors`` are those of all pieces, in their order."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class LeanPart:
    """As :class:`Part`, with a code for the pristine value of the whole weight."""

    weight: Tensor
    code: Code
    factors: Factors | None
