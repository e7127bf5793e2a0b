"""DoRA: any delta, after which the weight's columns are brought to lengths of their own (Liu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lbw.deltas.kinds import Delta, UnsupportedModuleError, WeightDependent
from lbw.deltas.shapes import misfit, require_size


@dataclass(eq=False)
class Decomposed(WeightDependent):
    """``lengths * V / |V| - W`` with ``V = W + inner``; |V| is taken over each input channel, and ``lengths`` can be
    broadcast to the weight's shape.

    Files of today's trainers have a length for each output channel. The host, and so we, divide them by the norms of
    the input channels all the same.
    """

    inner: Delta
    lengths: Tensor

    def compute(self, weight: Tensor) -> Tensor:
        self.to(weight.device)
        moved = weight + self.inner.compute(weight)
        dims = [dim for dim in range(weight.dim()) if dim != 1]
        norms = torch.linalg.vector_norm(moved, dim=dims, keepdim=True)
        return moved * (self.lengths.to(weight.dtype) / norms) - weight


def decompose(inner: Delta, lengths: Tensor, shape: torch.Size) -> Decomposed:
    if len(shape) < 2:
        raise UnsupportedModuleError("DoRA fits linear layers and convolutions only")
    try:
        require_size(torch.broadcast_shapes(lengths.shape, shape), shape)
    except RuntimeError:
        raise misfit(lengths.shape, shape) from None
    return Decomposed(inner, lengths.detach(), bias=inner.bias)
