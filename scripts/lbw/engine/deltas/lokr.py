"""LoKr: the Kronecker product of a small and a larger matrix, each of which may be given by factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lbw.engine.deltas.derived import MAX_RANK, low_rank
from lbw.engine.deltas.kinds import Source, StandAlone, accumulation_dtype, frobenius
from lbw.engine.deltas.lora import contract
from lbw.engine.deltas.shapes import misfit


def kron(a: Tensor, b: Tensor) -> Tensor:
    """The Kronecker product of two matrices. torch.kron cannot take every transposed one."""
    return (a[:, None, :, None] * b[None, :, None, :]).reshape(len(a) * len(b), -1)


@dataclass(eq=False)
class Kronecker(StandAlone):
    """``scale * kron(w1, w2)``: ``w1`` is [a, b]; ``w2`` [c, d], for a convolution [c, d * height * width]."""

    w1: Tensor
    w2: Tensor
    scale: float

    def materialize(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        self.to(device)
        return kron(self.w1.to(dtype), self.w2.to(dtype)).mul_(self.scale)

    def norm(self, weight: Source) -> float:
        return abs(self.scale) * frobenius(self.w1) * frobenius(self.w2)


Factors = tuple[Tensor, Tensor]


def _first(w1: Tensor | Factors) -> Factors:
    """``w1`` as ``up @ down``, with the shorter of its sides between them where it is given whole."""
    if not isinstance(w1, Tensor):
        return w1[0].detach().double(), w1[1].detach().double()
    w1 = w1.detach().double()
    rows, columns = w1.shape
    return (torch.eye(rows).to(w1), w1) if rows < columns else (w1, torch.eye(columns).to(w1))


def _second(w2: Tensor | Factors, core: Tensor | None) -> Tensor | Factors:
    """``w2`` [c, d * height * width], whole or as ``up @ down``."""
    if isinstance(w2, Tensor):
        return w2.detach().flatten(1)
    a, b = w2[0].detach().double(), w2[1].detach()
    return (a, b.double().flatten(1)) if core is None else (a.T, contract(core.detach(), b))


def build(
    w1: Tensor | Factors,
    w2: Tensor | Factors,
    core: Tensor | None,
    shape: torch.Size,
    dtype: torch.dtype,
    *,
    scale: float,
) -> StandAlone:
    """LowRank where it pays: ``kron(A B, C D) = kron(A, C) kron(B, D)``, whose rank is the product of the two ranks.
    It cannot pay with a ``w2`` that is given whole. The matrices are of the type to accumulate in, as the kernel wants
    them: a small part of a weight.

    Args:
        w1, w2: each whole, or as its two factors.
        core: a small kernel between the factors of ``w2``; None where there is none.
    """
    first, second = _first(w1), _second(w2, core)
    up1, down1 = first
    c, d = second.shape if isinstance(second, Tensor) else (len(second[0]), second[1].shape[1])
    rows, columns = len(up1) * c, down1.shape[1] * d
    if rows != shape[0] or rows * columns != shape.numel():
        raise misfit((rows, columns), shape)
    if not isinstance(second, Tensor):
        up2, down2 = second
        if up1.shape[1] * up2.shape[1] <= MAX_RANK:
            return low_rank(kron(up1, up2), kron(down1, down2), scale, dtype)
        second = up2 @ down2
    wide = accumulation_dtype(dtype)
    return Kronecker((up1 @ down1).to(wide), second.to(wide), scale)
