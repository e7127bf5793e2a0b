"""LoHa: the elementwise product of two low-rank matrices (Hyeon-Woo et al. 2021, FedPara)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lbw.engine.deltas.derived import MAX_RANK, low_rank
from lbw.engine.deltas.kinds import LowRank, StandAlone
from lbw.engine.deltas.lora import contract
from lbw.engine.deltas.shapes import pad_channels, require_factors, trained_shape


@dataclass(eq=False)
class Hadamard(StandAlone):
    """``scale * left * right``, element by element."""

    left: LowRank
    right: LowRank
    scale: float

    def materialize(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        return self.left.materialize(device, dtype).mul_(self.right.materialize(device, dtype)).mul_(self.scale)


Matrix = tuple[Tensor, Tensor, Tensor | None]
"""(a, b, core) of one of the two matrices ``a b``; with a core, which is a small kernel, ``a`` is [rank, out]."""


def _factors(matrix: Matrix) -> tuple[Tensor, Tensor]:
    """(up, down)."""
    a, b, core = matrix
    if core is None:
        return a.detach().flatten(1), b.detach().flatten(1)
    return a.detach().T, contract(core.detach(), b.detach())


def build(
    first: Matrix, second: Matrix, shape: torch.Size, dtype: torch.dtype, *, scale: float
) -> StandAlone:
    """LowRank where it pays: ``(A B) * (C D)`` is ``up @ down`` with ``up[o, pq] = A[o,p] C[o,q]`` and
    ``down[pq, i] = B[p,i] D[q,i]`` (the Khatri-Rao products).
    """
    (up1, down1), (up2, down2) = _factors(first), _factors(second)
    trained = shape if first[2] is None else trained_shape(shape)  # the host pads tensors of four dimensions only
    for up, down in ((up1, down1), (up2, down2)):
        require_factors(up, down, trained)
    down1, down2 = pad_channels(down1, shape), pad_channels(down2, shape)
    if up1.shape[1] * up2.shape[1] > MAX_RANK:
        return Hadamard(_side(up1, down1, dtype), _side(up2, down2, dtype), scale)
    up = torch.einsum("op,oq->opq", up1.double(), up2.double()).flatten(1)
    down = torch.einsum("pi,qi->pqi", down1.double(), down2.double()).flatten(0, 1)
    return low_rank(up, down, scale, dtype)


def _side(up: Tensor, down: Tensor, dtype: torch.dtype) -> LowRank:
    """``up @ down`` for weights of ``dtype``: as it is where the file has that type, too."""
    if up.dtype == down.dtype == dtype:
        return LowRank(up, down, 1.0)
    return low_rank(up.double(), down.double(), 1.0, dtype)
