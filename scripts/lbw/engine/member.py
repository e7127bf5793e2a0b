"""A weight as one of many that are written together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lbw.engine.biases import changes_bias
from lbw.engine.binding import BoundLayer, Value
from lbw.engine.deltas import LowRank
from lbw.engine.deltas.oft import Rotation
from lbw.engine.kernels import cuda
from lbw.engine.parameters import Slot, parameter_of, targets_of, weight_names
from lbw.engine.pieces import Kind, Piece, can_be_pieces, pieces_of

Place = tuple[BoundLayer, str]
"""A parameter of a layer."""


@dataclass(frozen=True, eq=False)
class Member:
    """A weight that is written with others: its layer and slot, and (network, piece) for all that is added."""

    bound: BoundLayer
    number: int
    slot: Slot
    pieces: tuple[tuple[int, Piece], ...]

    @property
    def weight(self) -> Tensor:
        """Wherever it is at this moment."""
        return self.slot.of(parameter_of(self.bound.layer, self.slot.parameter))

    @property
    def factors(self) -> list[LowRank]:
        """Those of all pieces, in their order."""
        return [factor for _network, piece in self.pieces for factor in piece.factors]

    @property
    def is_low_rank(self) -> bool:
        return all(piece.kind == Kind.LOW_RANK for _network, piece in self.pieces)

    def terms(self, value: Value) -> list[tuple[Piece, float]]:
        """(piece, coefficient) with the coefficients of a value."""
        return [(piece, value[self.number][network]) for network, piece in self.pieces]


def alike(members: Sequence[Member]) -> list[list[Member]]:
    """Split weights into those that one kernel takes: of one type, aligned or not, with deltas of one sort."""
    kinds: dict[Any, list[Member]] = {}
    for member in members:
        weight = member.weight
        kinds.setdefault((weight.dtype, cuda.is_aligned(weight), member.is_low_rank), []).append(member)
    return list(kinds.values())


def members_of(bound: BoundLayer, backups: Sequence[Any]) -> Iterator[Member]:
    """The weights of a layer that :func:`is_groupable`, and is pristine.

    Args:
        backups: they are as long there as the pristine weights are these.
    """
    stands_for = dict(zip(weight_names(bound.layer), backups, strict=True))
    for number, slot in enumerate(bound.slots):
        weight, of = slot.of(parameter_of(bound.layer, slot.parameter)).detach(), stands_for[slot.parameter]
        pieces = [
            (network, piece) for network, delta in bound.deltas_of(number) for piece in pieces_of(delta, weight, of)
        ]
        yield Member(bound, number, slot, tuple(pieces))


def is_groupable(bound: BoundLayer) -> bool:
    """Whether the kernels for many weights can take all of a layer, once it is on their device."""
    weights = [slot.of(parameter_of(bound.layer, slot.parameter)) for slot in bound.slots]
    return (
        len(targets_of(bound.slots)) == len(weights)
        and (len(weights) == 1 or not changes_bias(bound))
        and all(cuda.supports(weight) for weight in weights)
        and all(
            can_be_pieces([delta for _network, delta in bound.deltas_of(number)], weight.shape, weight.dtype)
            for number, weight in enumerate(weights)
        )
    )


def needs_copies(bound: BoundLayer) -> bool:
    """Whether a layer that :func:`is_groupable` is so only where its weights have copies on the device, too."""
    return any(isinstance(delta, Rotation) for _slot, _network, delta in bound.deltas)
