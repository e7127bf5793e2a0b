"""DoRA: any delta, after which the weight's columns or rows are brought to lengths of their own (Liu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lbw.engine.deltas.derived import low_rank
from lbw.engine.deltas.kinds import (
    Delta,
    LowRank,
    Memo,
    UnsupportedPartError,
    WeightDependent,
    accumulation_dtype,
    widened,
)
from lbw.engine.deltas.shapes import misfit, require_size

_CPU = torch.device("cpu")


@dataclass(eq=False)
class Decomposed(WeightDependent):
    """``lengths * V / |V| - W`` with ``V = W + inner``; |V| is taken over each input channel, or with ``of_outputs``
    each output channel, and ``lengths`` can be broadcast to the weight's shape.

    Files of today's trainers have a length for each output channel. AUTOMATIC1111 divides them by the norms of the
    input channels all the same, and so do we with the files that it reads.
    """

    inner: Delta
    lengths: Tensor
    of_outputs: bool = False
    _parts: Memo[tuple[Tensor, Tensor, Tensor]] = field(default_factory=Memo, init=False)
    _gains: Memo[tuple[Tensor, Tensor, LowRank]] = field(default_factory=Memo, init=False)

    @property
    def has_gains(self) -> bool:
        """Whether it is ``W * (g - 1) + g * inner`` with a low-rank ``inner`` and gains ``g`` = rows x columns."""
        return isinstance(self.inner, LowRank) and self.lengths.numel() == max(self.lengths.shape[:2])

    def gains(self, base: Tensor, of: Any) -> tuple[Tensor, Tensor, LowRank]:
        """What is remembered of a pristine weight, on the CPU.

        Args:
            of: stands for the weight, see :class:`Memo`.

        Returns:
            The gains of rows [out] and of columns [in * height * width], in float32, and ``g * inner``.
        """
        return self._gains.get(of, _CPU, lambda: self._derive_gains(base))

    def _derive_gains(self, base: Tensor) -> tuple[Tensor, Tensor, LowRank]:
        self.to(base.device)
        assert isinstance(self.inner, LowRank)
        inverse, up, down = self._split(self.inner, base.to(accumulation_dtype(base.dtype)))
        moved = low_rank(up.double(), down.double(), self.inner.scale, base.dtype)
        lengths, rows = self.lengths.float(), torch.ones(len(base), device=base.device)
        columns = torch.ones((1, *base.shape[1:]), device=base.device)
        for gains in (lengths, inverse):
            if gains.shape[1] == 1:
                rows = rows * gains.flatten()
            else:
                columns = columns * gains
        moved.up, moved.down = moved.up.cpu(), moved.down.cpu()
        self.to(_CPU)
        return rows.cpu(), columns.expand(1, *base.shape[1:]).float().flatten().cpu(), moved

    def onto(self, base: Tensor, coefficient: float, dtype: torch.dtype, of: Any) -> Tensor | None:
        """With a low-rank ``inner`` and gains ``g = lengths / |V|`` it is ``W * (1 - c + c g) + c g * inner``."""
        self.to(base.device)
        inner = self.inner
        if not self.has_gains or not isinstance(inner, LowRank):
            return None
        inverse, up, down = self._parts.get(of, base.device, lambda: self._split(inner, base.to(dtype)))
        gains = self.lengths.to(dtype) * inverse
        total = widened(base, dtype) * gains.mul_(coefficient).add_(1 - coefficient)
        total.flatten(1).addmm_(up, down, alpha=coefficient * inner.scale)
        return total

    def _split(self, inner: LowRank, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``1 / |V|`` and the factors of ``g * inner / scale``: what output channels have goes to ``up``."""
        inverse = 1 / self._norms(weight + inner.compute(weight))
        up, down = inner.up.to(weight.dtype), inner.down.to(weight.dtype).unflatten(1, weight.shape[1:])
        for gains in (inverse, self.lengths.to(weight.dtype)):
            if gains.shape[1] == 1:
                up = up * gains.flatten(1)
            else:
                down = down * gains
        return inverse, up, down.flatten(1)

    def _norms(self, weight: Tensor) -> Tensor:
        """The length of each channel, with all dimensions of the weight."""
        channels = 0 if self.of_outputs else 1
        others = [dim for dim in range(weight.dim()) if dim != channels]
        return torch.linalg.vector_norm(weight, dim=others, keepdim=True)

    def compute(self, weight: Tensor) -> Tensor:
        self.to(weight.device)
        moved = weight + self.inner.compute(weight)
        return moved * (self.lengths.to(weight.dtype) / self._norms(moved)) - weight


def decompose(inner: Delta, lengths: Tensor, shape: torch.Size, *, of_outputs: bool = False) -> Decomposed:
    """
    Args:
        lengths: of channels. In one dimension they are of output channels, as PEFT keeps them, or of input channels
            where only these are as many.
        of_outputs: whether the norms that they are divided by are of output channels, too.
    """
    if len(shape) < 2:
        raise UnsupportedPartError("DoRA fits linear layers and convolutions only")
    if lengths.dim() < 2:
        ones = [1] * (len(shape) - 2)
        if lengths.numel() == shape[0]:
            lengths, of_outputs = lengths.reshape(-1, 1, *ones), True
        elif lengths.numel() == shape[1]:
            lengths = lengths.reshape(1, -1, *ones)
        else:
            raise misfit(lengths.shape, shape)
    try:
        require_size(torch.broadcast_shapes(lengths.shape, shape), shape)
    except RuntimeError:
        raise misfit(lengths.shape, shape) from None
    return Decomposed(inner, lengths.detach(), of_outputs, bias=inner.bias)
