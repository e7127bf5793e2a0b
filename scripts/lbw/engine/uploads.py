"""Tensors on their way to the GPU: many of them in one buffer there, through a little page-locked memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    of these pieces, and copies from any other memory are slower. Several threads fill it, because one is slower than
    the way to the GPU.

    Args:
        device: where the tensors go.
    """

    PIECE = 2**23
    """Bytes."""
    PIECES = 4

    def __init__(self, device: torch.device) -> None:
        self._device = device
        is_cuda = device.type == "cuda"
        self._pieces = [torch.empty(self.PIECE, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(self.PIECES)]
        self._copied = [torch.cuda.Event() for _ in range(self.PIECES)] if is_cuda else []
        self._threads = ThreadPoolExecutor(self.PIECES, "lbw-staging")

    def fill(self, target: Tensor, tensors: Sequence[Tensor]) -> None:
        """Copy tensors into ``target``, one behind the other.

        Args:
            target: [elements], on the device.
            tensors: [any], of its dtype, as many elements in all; on the CPU or on the device.
        """
        loads = list(self._loads(target, tensors))
        for first in range(0, len(loads), self.PIECES):
            together = loads[first : first + self.PIECES]
            staged = [self._stage(place, part, sources) for place, (part, sources) in enumerate(together)]
            for place, (part, sources) in enumerate(together):
                ready = staged[place]
                if ready is None:
                    part.copy_(sources[0])
                    continue
                part.copy_(ready.result(), non_blocking=True)
                if self._copied:
                    self._copied[place].record(torch.cuda.current_stream(self._device))

    def _loads(self, target: Tensor, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """What goes to the device at a time: parts of the target, and what is in them."""
        room = self.PIECE // target.element_size()
        first, size = 0, 0
        load: list[Tensor] = []
        for tensor in tensors:
            if load and (size + tensor.numel() > room or _goes_alone(tensor, room) or _goes_alone(load[0], room)):
                yield target[first : first + size], load
                first, size, load = first + size, 0, []
            load.append(tensor)
            size += tensor.numel()
        if load:
            yield target[first : first + size], load

    def _stage(self, place: int, part: Tensor, sources: list[Tensor]) -> Future[Tensor] | None:
        """Fill a piece, in the background; None for a tensor that needs none, or does not fit."""
        if _goes_alone(sources[0], self.PIECE // part.element_size()):
            return None
        if self._copied:
            self._copied[place].synchronize()
        staged = self._pieces[place].view(part.dtype)[: part.numel()]
        return self._threads.submit(_joined, sources, staged)


def _joined(sources: list[Tensor], into: Tensor) -> Tensor:
    with torch.inference_mode():  # a mode of each thread by itself; the tensors may be of either
        return torch.cat(sources, out=into)


def _goes_alone(tensor: Tensor, room: int) -> bool:
    return tensor.device.type != "cpu" or tensor.numel() > room


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
