"""How much GPU memory there is to spare: what the host has needed so far beyond its models, and what is left of it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch

_SHARE = 8
"""What is held between generations takes at most this part of what the models leave."""

_CAUTION = 2
"""How many times the most that the host has ever needed has to be left."""


@dataclass
class Need:
    """What a kind of work needs of the memory beyond the models, in bytes: what is known, and else a bound."""

    known: int | None = None
    at_most: int | None = None

    def see(self, size: int, *, is_exact: bool) -> None:
        """A generation of this kind has needed ``size``, or, if that is not exact, no more."""
        if is_exact:
            self.known = max(size, self.known or 0)
        elif self.at_most is None or size < self.at_most:
            self.at_most = size

    @property
    def most(self) -> int | None:
        """As much as it may be; None if nothing is known."""
        return self.at_most if self.known is None else self.known


class Headroom:
    """What is known of the memory of one GPU.

    torch counts the most that was ever in use, and others may have that count begin anew, so it is only read here:
    where it has not risen in a generation, it is a bound.

    Args:
        device: the GPU, or a CPU, of which nothing is known and which has room for all.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._needs: dict[Hashable, Need] = {}
        self._short: set[Hashable] = set()
        self._work: Hashable = None
        self._is_at_work = False
        self._models = 0
        self._peak = 0

    @property
    def _is_gpu(self) -> bool:
        return self._device.type == "cuda"

    def begin(self, work: Hashable, held: int) -> None:
        """Work of a kind begins: images of a size, and so many of them. So much of the memory is held by us."""
        self._work, self._is_at_work = work, True
        if self._is_gpu:
            self._models = torch.cuda.memory_allocated(self._device) - held
            self._peak = torch.cuda.max_memory_allocated(self._device)

    def end(self, held: int) -> None:
        """The work is done; so much of the memory was held by us at its end."""
        if self._is_gpu and self._is_at_work:
            peak = torch.cuda.max_memory_allocated(self._device)
            need = self._needs.setdefault(self._work, Need())
            need.see(max(peak - self._models - held, 0), is_exact=peak != self._peak)
        self._is_at_work = False

    def has_run_out(self) -> bool:
        """The work did not fit beside what we hold. Returns whether that is news."""
        is_news = self._work not in self._short
        self._short.add(self._work)
        return is_news

    @property
    def is_short(self) -> bool:
        """Whether work of this kind has not fitted beside what we hold."""
        return self._work in self._short

    def may_hold(self, size: int) -> bool:
        """Whether so many bytes can be held besides all that the host does: much more is left than it has ever needed
        for this work. What is not known yet is taken as not there."""
        if not self._is_gpu:
            return True
        need = self._needs.get(self._work)
        if need is None or need.most is None or self.is_short:
            return False
        free, _total = torch.cuda.mem_get_info(self._device)
        left = free + torch.cuda.memory_reserved(self._device) - self._models
        return size * _SHARE <= left and size + _CAUTION * need.most <= left
