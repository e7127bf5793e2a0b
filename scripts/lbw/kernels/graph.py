"""The in-place update as CUDA graphs of torch's own matrix products: for GPUs where there is no Triton.

The library rounds a 16-bit product before it adds the base, so products are made in float32, a piece of a weight at a
time that stays in the cache, and added to the base with one rounding. Factors of 16 bits are exact in TF32, in which
tensor cores multiply. A graph has its numbers fixed, so it first brings the strengths into the factors ``down``. Where
``c * down`` is not exact in TF32 it is split into a high and a low summand. Strengths that are powers of two, which is
what switching on and off comes to, need no low summand, and have a graph of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from lbw.factors import CHUNK, Factors
from lbw.kernels.part import Part
from lbw.kernels.torch import exact_arithmetic

RECOVERS_BASES = False
"""Whether there is a ``GroupedLeanUpdate``."""

STREAMS = 3
"""Products that are under way side by side: one alone leaves much of the GPU idle."""

PIECE = 2**21
"""Weights that one product is for."""


def supports(weight: Tensor) -> bool:
    """Whether a weight can be the weight of a :class:`lbw.kernels.part.Part`."""
    return (
        weight.device.type == "cuda"
        and weight.dtype in (torch.float16, torch.bfloat16)
        and weight.is_contiguous()
    )


def is_aligned(_weight: Tensor) -> bool:
    """All weights of a device and type share a launch."""
    return True


class _Stack:
    """The factors ``down`` of some weights, all of one shape, and what their strengths make of them.

    ``plain`` is [weights, chunks, CHUNK * in], ``scaled`` float32 [2, weights, chunks, CHUNK * in]: the high and the
    low summands.
    """

    def __init__(self, all_factors: Sequence[Factors]) -> None:
        rank, width = all_factors[0].down.shape
        self.plain = torch.stack([factors.down for factors in all_factors]).view(-1, rank // CHUNK, CHUNK * width)
        self.scaled = torch.empty(2, *self.plain.shape, device=self.plain.device)

    def scale(self, strengths: Tensor, has_low: bool) -> None:
        """Write ``scaled``. ``strengths`` is float32 [weights, chunks]."""
        high, low = self.scaled
        torch.mul(self.plain, strengths.unsqueeze(2), out=low if has_low else high)
        if has_low:
            high.copy_(low.half())
            low.sub_(high)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A weight's factors in float32: ``up`` for good, those ``down`` with the strengths of the last switch."""

    up: Tensor
    stack: _Stack
    index: int

    @property
    def downs(self) -> Sequence[Tensor]:
        """The high and the low summand, [rank, in]."""
        return [summand[self.index].view(self.up.shape[1], -1) for summand in self.stack.scaled]


_prepared: WeakKeyDictionary[Factors, _Prepared] = WeakKeyDictionary()
"""Graphs with the same factors share them: each graph scales them before it reads them."""


def _prepare(all_factors: Sequence[Factors]) -> list[_Prepared]:
    by_shape: dict[tuple[int, ...], list[Factors]] = {}
    for factors in all_factors:
        if factors not in _prepared:
            by_shape.setdefault(tuple(factors.down.shape), []).append(factors)
    for alike in by_shape.values():
        stack = _Stack(alike)
        for index, factors in enumerate(alike):
            _prepared[factors] = _Prepared(factors.up.float(), stack, index)
    return [_prepared[factors] for factors in all_factors]


class GroupedUpdate:
    """Updates many weights by one graph, as often as wanted.

    It holds the addresses of its parts: when one of them has moved, a new one has to be made.

    Raises:
        torch.cuda.OutOfMemoryError: the factors do not fit in float32.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        factored = [(part, part.factors) for part in parts if part.factors is not None]
        self._rest = [part for part in parts if part.factors is None]
        self._parts = [part for part, _ in factored]
        self._kept_alive = [factors for _, factors in factored]
        if not factored:
            return
        self._prepared = _prepare(self._kept_alive)
        self._stacks = list({id(each.stack): each.stack for each in self._prepared}.values())
        self._sizes = [stack.plain.shape[0] * stack.plain.shape[1] for stack in self._stacks]
        firsts = dict(zip(map(id, self._stacks), np.cumsum([0, *self._sizes]), strict=False))
        ranks = [factors.rank // CHUNK for factors in self._kept_alive]
        self._places = np.concatenate([
            firsts[id(each.stack)] + each.index * chunks + np.arange(chunks)
            for each, chunks in zip(self._prepared, ranks, strict=True)
        ])
        self._chunks = [count for factors in self._kept_alive for count in factors.chunks]
        self._starts = np.cumsum([0, *ranks[:-1]])
        self._strengths = torch.zeros(sum(self._sizes), device=factored[0][0].weight.device)
        width = max(part.weight[0].numel() for part in self._parts)
        self._room = self._strengths.new_empty(STREAMS, max(PIECE, width))
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    def __call__(self, coefficients: Sequence[float]) -> None:
        """Bring all weights to ``coefficients``: one for each of the parts' deltas, in their order."""
        by_chunk = np.repeat(np.array(coefficients, np.float64), self._chunks) if self._parts else np.zeros(0)
        pristine = self._rest
        if by_chunk.any():
            strengths = np.zeros(len(self._strengths), np.float32)
            strengths[self._places] = by_chunk
            self._strengths.copy_(torch.from_numpy(strengths).pin_memory(), non_blocking=True)
            has_low = not np.isin(np.abs(np.frexp(by_chunk)[0]), (0.0, 0.5)).all()
            if has_low not in self._graphs:
                self._graphs[has_low] = self._capture(has_low)
            with torch.cuda.device(self._strengths.device):
                self._graphs[has_low].replay()
            is_used = np.logical_or.reduceat(by_chunk != 0, self._starts)
            # A product of 0 has turned a pristine -0.0 into 0.0.
            pristine = pristine + [part for part, used in zip(self._parts, is_used, strict=True) if not used]
        else:
            pristine = pristine + self._parts
        if pristine:
            torch._foreach_copy_([part.weight for part in pristine], [part.base for part in pristine])

    def _capture(self, has_low: bool) -> torch.cuda.CUDAGraph:
        graph, device = torch.cuda.CUDAGraph(), self._strengths.device
        current, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        streams = [stream, *(torch.cuda.Stream(device) for _ in range(STREAMS - 1))]
        stream.wait_stream(current)
        with torch.cuda.device(device), torch.cuda.stream(stream), exact_arithmetic():
            torch.backends.cuda.matmul.allow_tf32 = True
            up = self._prepared[0].up[:8]
            torch.mm(up, up.t())  # what the library sets up at first cannot be captured
            # Other threads of the host work on the GPU at the same time, for previews.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._work(streams, has_low)
            finally:
                graph.capture_end()
        current.wait_stream(stream)
        return graph

    def _work(self, streams: Sequence[torch.cuda.Stream], has_low: bool) -> None:
        """Bring the strengths into the factors, then update piece by piece."""
        for stack, strengths in zip(self._stacks, self._strengths.split(self._sizes), strict=True):
            stack.scale(strengths.view(len(stack.plain), -1), has_low)
        for side in streams[1:]:
            side.wait_stream(streams[0])
        turns = cycle(zip(streams, self._room, strict=True))
        for part, factors in zip(self._parts, self._prepared, strict=True):
            weight, base = part.weight.detach().flatten(1), part.base.detach().flatten(1)
            rows = max(PIECE // weight.shape[1], 1)
            for pieces in zip(weight.split(rows), base.split(rows), factors.up.split(rows), strict=True):
                stream, room = next(turns)
                with torch.cuda.stream(stream):
                    _update_piece(*pieces, factors.downs[: 1 + has_low], room)
        for side in streams[1:]:
            streams[0].wait_stream(side)


def _update_piece(weight: Tensor, base: Tensor, up: Tensor, downs: Sequence[Tensor], room: Tensor) -> None:
    product = room[: weight.numel()].view(weight.shape)
    torch.mm(up, downs[0], out=product)
    for down in downs[1:]:
        product.addmm_(up, down)
    torch.add(base, product, out=weight)
