"""Layers that keep no copy of their pristine weight: it is recovered from the patched one, see ``lean.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lbw.engine import lean
from lbw.engine.kernels.torch import exact_arithmetic
from lbw.engine.lean import Code
from lbw.engine.ledger import Page
from lbw.engine.parameters import Slot
from lbw.engine.pieces import Piece, without
from lbw.engine.stand_ins import MissingBaseError, StandIn

Terms = Sequence[tuple[Piece, float]]
"""(piece, the coefficient that it was added with)."""

Source = Callable[[], tuple[Code, Terms]]
"""Brings the code of one part of a parameter, and what is in that part now."""


class Recoverable(StandIn):
    """A backup that recovers a pristine parameter from the patched one.

    Args:
        page, parameter: what it is the backup of.
        parts: the slots that make up the parameter, in order, each with what it is recovered from.
        device: where that is computed, if there is room.
    """

    def __init__(
        self, page: Page, parameter: str, parts: Sequence[tuple[Slot, Source]], device: torch.device
    ) -> None:
        super().__init__(page, parameter)
        self._shape, self._dtype = self.parameter.shape, self.parameter.dtype
        self._parts, self._device = parts, device

    def values(self) -> Tensor:
        if self._copy is not None:
            return self._copy
        if self.parameter.shape != self._shape:
            raise MissingBaseError(f"its {self._parameter} was {tuple(self._shape)}, {tuple(self.parameter.shape)} now")
        try:
            return self._values_on(self._device).to(self.parameter.device)
        except torch.cuda.OutOfMemoryError:
            return self._values_on(torch.device("cpu"))

    def _values_on(self, device: torch.device) -> Tensor:
        weight = self.parameter.to(device, self._dtype)  # another type now, which the host has made of it
        parts = []
        with exact_arithmetic():
            for slot, source in self._parts:
                code, terms = source()
                part = slot.of(weight)
                near = without(part.flatten(1), terms).to(weight.dtype)
                there = Code(*(each.to(device) for each in (code.codes, code.escapes, code.counts)))
                parts.append(lean.decode(near, there))
        return torch.cat(parts).view(weight.shape)
