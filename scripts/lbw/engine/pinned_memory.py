"""Page-locked host memory, from which and to which a GPU copies fast."""

from __future__ import annotations

import torch
from torch import Tensor


class PinnedMemory:
    """Copies in page-locked host memory, taken in large pieces: the driver is slow to lock, and torch rounds each piece
    up to a power of two. Where nothing can be locked any more, other memory does."""

    PIECE = 2**28

    def __init__(self) -> None:
        self._piece = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def copy(self, tensor: Tensor, _device: torch.device | None = None) -> Tensor:
        """A copy with the shape, strides and bits of ``tensor``; under way until the device is synchronized."""
        size = -(-tensor.nbytes // 256) * 256
        if self._used + size > len(self._piece):
            self._piece = _page_locked(max(size, min(self.PIECE, 2 * len(self._piece) or 2**24)))
            self._used = 0
        room = self._piece[self._used : self._used + tensor.nbytes].view(tensor.dtype)
        self._used += size
        copied = room.as_strided(tensor.size(), tensor.stride())
        return copied.copy_(tensor.detach(), non_blocking=True)


def _page_locked(size: int) -> Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)
