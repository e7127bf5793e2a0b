"""GLoRA: ``W A + B`` with low-rank A and B (Chavan et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lbw.engine.deltas.derived import low_rank
from lbw.engine.deltas.kinds import LowRank, Memo, UnsupportedPartError, WeightDependent
from lbw.engine.deltas.shapes import misfit

_CPU = torch.device("cpu")


@dataclass(eq=False)
class GeneralLowRank(WeightDependent):
    """``scale * (W @ a_up @ a_down + b_up @ b_down)``: a is [in, rank] and [rank, in], b [out, rank] and [rank, in]."""

    a_up: Tensor
    a_down: Tensor
    b_up: Tensor
    b_down: Tensor
    scale: float

    _factors: Memo[tuple[Tensor, Tensor]] = field(default_factory=Memo, init=False)
    _packable: Memo[LowRank] = field(default_factory=Memo, init=False)

    def on_pristine(self, base: Tensor, of: Any) -> LowRank:
        """The delta on a pristine weight, for the type of which the factors are; on the CPU, and remembered.

        Args:
            of: stands for the weight, see :class:`Memo`.
        """
        return self._packable.get(of, _CPU, lambda: self._derive(base))

    def _derive(self, base: Tensor) -> LowRank:
        self.to(base.device)
        up, down = self._low_rank(base.double())
        derived = low_rank(up, down, self.scale, base.dtype)
        derived.up, derived.down = derived.up.cpu(), derived.down.cpu()
        self.to(_CPU)
        return derived

    def onto(self, base: Tensor, coefficient: float, dtype: torch.dtype, of: Any) -> Tensor:
        """On the pristine weight it is low-rank: ``scale * [W a_up, b_up] @ [a_down; b_down]``."""
        self.to(base.device)
        wide = base.to(dtype, copy=True)
        up, down = self._factors.get(of, base.device, lambda: self._low_rank(wide))
        return wide.addmm_(up, down, alpha=coefficient * self.scale)

    def _low_rank(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        a_up, a_down, b_up, b_down = (
            factor.to(weight.dtype) for factor in (self.a_up, self.a_down, self.b_up, self.b_down)
        )
        return torch.cat([weight @ a_up, b_up], dim=1), torch.cat([a_down, b_down])

    def compute(self, weight: Tensor) -> Tensor:
        self.to(weight.device)
        a_up, a_down, b_up, b_down = (
            factor.to(weight.dtype) for factor in (self.a_up, self.a_down, self.b_up, self.b_down)
        )
        return ((weight @ a_up) @ a_down).addmm_(b_up, b_down).mul_(self.scale)


def build(
    a_up: Tensor, a_down: Tensor, b_up: Tensor, b_down: Tensor, shape: torch.Size, *, scale: float
) -> GeneralLowRank:
    """As in the host, for linear layers."""
    if len(shape) != 2:
        raise UnsupportedPartError("GLoRA fits linear layers only")
    out, into = shape
    if (len(a_up), a_down.shape[1], len(b_up), b_down.shape[1]) != (into, into, out, into):
        raise misfit((len(b_up), b_down.shape[1]), shape)
    return GeneralLowRank(a_up.detach(), a_down.detach(), b_up.detach(), b_down.detach(), scale)
