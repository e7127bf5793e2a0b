"""OFT and BOFT: the weight's rows, rotated (Qiu et al. 2023; Liu et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lbw.engine.deltas.kinds import WeightDependent, accumulation_dtype
from lbw.engine.deltas.shapes import misfit


@dataclass(eq=False)
class BlockRotation(WeightDependent):
    """``rescale * (R^T W) - W`` with a block-diagonal R: ``blocks`` is [blocks, size, size], ``rescale`` [out, 1]."""

    blocks: Tensor
    rescale: Tensor | None

    def onto(self, base: Tensor, coefficient: float, dtype: torch.dtype, of: Any) -> Tensor:
        """One rotation does it, if it is turned by a part of the way: ``(1 - c) I + c * rescale * R^T``."""
        self.to(base.device)
        count, size, _ = self.blocks.shape
        turned = self.blocks.to(dtype).transpose(1, 2)
        if self.rescale is not None:
            turned = turned * self.rescale.to(dtype).reshape(count, size, 1)
        part = torch.eye(size, dtype=dtype, device=base.device).lerp(turned, coefficient)
        return (part @ base.to(dtype).reshape(count, size, -1)).reshape(base.shape)

    def compute(self, weight: Tensor) -> Tensor:
        self.to(weight.device)
        count, size, _ = self.blocks.shape
        rows = weight.reshape(count, size, -1)
        rotated = self.blocks.to(weight.dtype).transpose(1, 2) @ rows
        return _difference(rotated, self.rescale, weight)


@dataclass(eq=False)
class Butterfly(WeightDependent):
    """``rescale * (R_m ... R_1 W) - W``: ``stages`` is [m, blocks, size, size], ``rescale`` [out, 1].

    Stage i rotates blocks of rows that are 2^i * size / 2 apart.
    """

    stages: Tensor
    rescale: Tensor | None

    def compute(self, weight: Tensor) -> Tensor:
        self.to(weight.device)
        _, count, size, _ = self.stages.shape
        rows = weight.flatten(1)
        for i, blocks in enumerate(self.stages.to(weight.dtype)):
            apart = 2**i * size // 2
            paired = rows.unflatten(0, (-1, 2, apart)).transpose(1, 2)
            rotated = (blocks @ paired.reshape(count, size, -1)).reshape(paired.shape)
            rows = rotated.transpose(1, 2).reshape(rows.shape)
        return _difference(rows, self.rescale, weight)


def _difference(rotated: Tensor, rescale: Tensor | None, weight: Tensor) -> Tensor:
    if rescale is not None:
        rotated = rotated.reshape(len(weight), -1) * rescale.to(weight.dtype)
    return rotated.reshape(weight.shape) - weight


def _rotations(skewed: Tensor, constraint: float) -> Tensor:
    """Orthogonal matrices from any square ones by Cayley's transform; ``constraint`` bounds how far they turn, 0 does
    not. The small addend is the host's, and kohya's."""
    q = skewed.double() - skewed.double().transpose(-1, -2)
    if constraint != 0:
        norm = q.norm()
        q = q * ((norm.clamp(max=constraint) + 1e-8) / (norm + 1e-8))
    eye = torch.eye(q.shape[-1]).to(q)
    return (eye + q) @ (eye - q).inverse()


def build(
    blocks: Tensor, rescale: Tensor | None, shape: torch.Size, dtype: torch.dtype, *, constraint: float | None
) -> WeightDependent:
    """OFT, or with four dimensions BOFT.

    Args:
        blocks: [..., blocks, size, size]: any square matrices, or the rotations themselves.
        constraint: how far the matrices may turn, 0 for no bound; None: they are rotations already.
    """
    blocks = blocks.detach()
    count, size, _ = blocks.shape[-3:]
    if count * size != shape[0] or blocks.shape[-1] != size:
        raise misfit(blocks.shape, shape)
    if constraint is not None:
        blocks = _rotations(blocks, constraint).to(accumulation_dtype(dtype))
    if rescale is not None:
        rescale = rescale.detach().reshape(-1, 1)
        if len(rescale) != shape[0]:
            raise misfit(rescale.shape, shape)
    return Butterfly(blocks, rescale) if blocks.dim() == 4 else BlockRotation(blocks, rescale)
