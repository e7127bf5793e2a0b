"""Tensors on their way to the GPU: many of them in one buffer there, through a little page-locked memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from threading import Lock

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes: what the kernels read at once."""

_making = Lock()


class Staging:
    """Page-locked memory that is used again and again: the driver is slow to lock memory, some milliseconds for each
    of these pieces, and copies from any other memory are slower.

    Args:
        device: where the tensors go.
    """

    PIECE = 2**24
    PIECES = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        is_cuda = device.type == "cuda"
        self._pieces = [torch.empty(self.PIECE, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(self.PIECES)]
        self._copied = [torch.cuda.Event() for _ in range(self.PIECES)] if is_cuda else []
        self._uploads = 0

    def fill(self, target: Tensor, tensors: Sequence[Tensor]) -> None:
        """Copy tensors into ``target``, one behind the other.

        Args:
            target: [elements], on the device.
            tensors: [any], of its dtype, as many elements in all; on the CPU or on the device.
        """
        room = self.PIECE // target.element_size()
        waiting: list[Tensor] = []
        done = size = 0
        for tensor in tensors:
            if tensor.device.type != "cpu" or tensor.numel() > room:
                done = self._send(target, done, waiting)
                waiting, size = [], 0
                target[done : done + tensor.numel()].copy_(tensor)
                done += tensor.numel()
                continue
            if size + tensor.numel() > room:
                done = self._send(target, done, waiting)
                waiting, size = [], 0
            waiting.append(tensor)
            size += tensor.numel()
        self._send(target, done, waiting)

    def _send(self, target: Tensor, first: int, tensors: Sequence[Tensor]) -> int:
        """Copy what fits into one piece. Returns where the next one begins."""
        if not tensors:
            return first
        size = sum(tensor.numel() for tensor in tensors)
        place = self._uploads % self.PIECES
        self._uploads += 1
        if self._copied:
            self._copied[place].synchronize()
        staged = self._pieces[place].view(target.dtype)[:size]
        torch.cat(list(tensors), out=staged)
        target[first : first + size].copy_(staged, non_blocking=True)
        if self._copied:
            self._copied[place].record(torch.cuda.current_stream(self._device))
        return first + size


def _padding(tensor: Tensor) -> Tensor:
    """What has to follow a tensor, so that the next one is aligned."""
    return torch.zeros(-tensor.numel() % (ALIGNMENT // tensor.dtype.itemsize), dtype=tensor.dtype)


@cache
def _staging(device: torch.device) -> Staging:
    return Staging(device)


def staging(device: torch.device) -> Staging:
    """The staging memory for a device, made once."""
    with _making:
        return _staging(device)


def upload(tensors: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """Copies of tensors on ``device``, all in one buffer, each at a multiple of ``ALIGNMENT`` bytes.

    Args:
        tensors: of any shapes and of one dtype.

    Raises:
        torch.cuda.OutOfMemoryError: they do not fit.
    """
    sources = [tensor.detach() for tensor in tensors]
    if not sources:
        return []
    dtype = sources[0].dtype
    flat: list[Tensor] = []
    for source in sources:
        flat += [source.reshape(-1), _padding(source)]
    ends = list(accumulate(tensor.numel() for tensor in flat))
    buffer = torch.empty(ends[-1], dtype=dtype, device=device)
    staging(device).fill(buffer, [tensor for tensor in flat if tensor.numel()])
    firsts = [0, *ends[1::2]]
    return [buffer[first:][: source.numel()].view(source.shape) for first, source in zip(firsts, sources, strict=False)]
