"""Tensors of patches, kept on the GPU: patches that are added in each forward would go there each time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Residents:
    """Copies of tensors on a device, each once. Patches without them are used as they are."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}
        """{id: (tensor, its copy)}"""

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory that are held."""
        return sum(copied.nbytes for _tensor, copied in self._copies.values())

    def hold(self, values: Iterable[Any], device: torch.device, may_hold: Callable[[int], bool]) -> None:
        """Have the tensors of just these values on the device, if there is room for all of them."""
        tensors = {id(tensor): tensor for each in values for tensor in _tensors(each) if tensor.device != device}
        known = {key: pair for key, pair in self._copies.items() if key in tensors}
        missing = [tensor for key, tensor in tensors.items() if key not in known]
        size = sum(tensor.nbytes for tensor in tensors.values())
        self._copies = {}
        if not tensors or not may_hold(size):
            return
        try:
            self._copies = {**known, **{id(tensor): (tensor, tensor.to(device)) for tensor in missing}}
        except torch.cuda.OutOfMemoryError:
            return

    def of(self, values: Any) -> Any:
        """The values with those of their tensors that have a copy replaced by it."""
        if isinstance(values, Tensor):
            return self._copies.get(id(values), (values, values))[1]
        if isinstance(values, (tuple, list)):
            return type(values)(map(self.of, values))
        if hasattr(values, "weights"):
            twin = copy.copy(values)
            twin.weights = self.of(values.weights)
            return twin
        return values


def _tensors(values: Any) -> Iterable[Tensor]:
    """All tensors of values but single numbers, which hosts read on the CPU."""
    if isinstance(values, Tensor):
        return [values] if values.dim() else []
    parts = values if isinstance(values, (tuple, list)) else getattr(values, "weights", ())
    return [tensor for part in parts for tensor in _tensors(part)] if not isinstance(parts, str) else []
