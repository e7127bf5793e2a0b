"""OFT and BOFT: the weight's rows, rotated (Qiu et al. 2023; Liu et al. 2023)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lbw.engine.deltas.derived import halves
from lbw.engine.deltas.kinds import WeightDependent, accumulation_dtype
from lbw.engine.deltas.shapes import misfit

TILE = 32
"""Rows of a weight that the kernel for many weights works on at a time."""


@dataclass(eq=False)
class Turns:
    """A rotation as the kernel for many weights takes it: what is added to 32 rows is the product of a matrix with rows
    of the pristine weight, which begin with the first block that those are in.

    ``high + low``, float16 and [out, columns], times ``unit`` are the matrices, one below the other; ``block`` is the
    rows of a block. Columns are a multiple of 32. Other blocks' rows are multiplied by 0, so that a pristine weight
    that is no number may make none of weights of its column in the blocks beside its own.
    """

    high: Tensor
    low: Tensor
    unit: float
    block: int


class Rotation(WeightDependent):
    """A delta that is, block by block of the weight's rows, a product of a matrix with them."""

    @property
    @abstractmethod
    def block(self) -> int:
        """The rows of a block."""

    @abstractmethod
    def differences(self) -> Tensor:
        """The matrices of all blocks, one below the other: [out, block], float64."""

    def columns(self, rows: int) -> int:
        """How many columns :meth:`turns` have for so many rows."""
        return -(-(int(self._firsts(rows).max()) + self.block) // TILE) * TILE

    def _firsts(self, rows: int) -> Tensor:
        """The column of :meth:`turns` in which the block of each row begins."""
        numbers = torch.arange(rows)
        return numbers // self.block * self.block - numbers // TILE * TILE // self.block * self.block

    def turns(self) -> Turns:
        """What the kernel takes, made anew."""
        differences = self.differences().cpu()
        rows = len(differences)
        matrix = torch.zeros(rows, self.columns(rows), dtype=torch.float64)
        matrix.scatter_(1, self._firsts(rows)[:, None] + torch.arange(self.block), differences)
        return Turns(*halves(matrix), self.block)


@dataclass(eq=False)
class BlockRotation(Rotation):
    """``rescale * (R^T W) - W`` with a block-diagonal R: ``blocks`` is [blocks, size, size], ``rescale`` [out, 1]."""

    blocks: Tensor
    rescale: Tensor | None

    @property
    def block(self) -> int:
        return self.blocks.shape[-1]

    def differences(self) -> Tensor:
        turned = self.blocks.double().transpose(1, 2).flatten(0, 1)
        return _rescaled(turned, self.rescale) - torch.eye(self.block).to(turned).repeat(len(self.blocks), 1)

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
class Butterfly(Rotation):
    """``rescale * (R_m ... R_1 W) - W``: ``stages`` is [m, blocks, size, size], ``rescale`` [out, 1].

    Stage i rotates blocks of rows that are 2^i * size / 2 apart.
    """

    stages: Tensor
    rescale: Tensor | None

    @property
    def block(self) -> int:
        stages, count, size, _ = self.stages.shape
        # With an odd size the pairs of a stage go beyond its blocks.
        return 2 ** (stages - 1) * size if size % 2 == 0 else count * size

    def differences(self) -> Tensor:
        _, count, size, _ = self.stages.shape
        eye = torch.eye(self.block).to(self.stages.device, torch.float64).repeat(count * size // self.block, 1)
        return _rescaled(self._turned(eye), self.rescale) - eye

    def _turned(self, rows: Tensor) -> Tensor:
        _, count, size, _ = self.stages.shape
        for i, blocks in enumerate(self.stages.to(rows.dtype)):
            apart = 2**i * size // 2
            paired = rows.unflatten(0, (-1, 2, apart)).transpose(1, 2)
            rotated = (blocks @ paired.reshape(count, size, -1)).reshape(paired.shape)
            rows = rotated.transpose(1, 2).reshape(rows.shape)
        return rows

    def compute(self, weight: Tensor) -> Tensor:
        self.to(weight.device)
        return _difference(self._turned(weight.flatten(1)), self.rescale, weight)


def _rescaled(rows: Tensor, rescale: Tensor | None) -> Tensor:
    return rows if rescale is None else rows * rescale.to(rows)


def _difference(rotated: Tensor, rescale: Tensor | None, weight: Tensor) -> Tensor:
    return _rescaled(rotated.reshape(len(weight), -1), rescale).reshape(weight.shape) - weight


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
    delta = Butterfly(blocks, rescale) if blocks.dim() == 4 else BlockRotation(blocks, rescale)
    if shape[0] % delta.block != 0:
        raise misfit(blocks.shape, shape)
    return delta
