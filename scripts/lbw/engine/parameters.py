"""The parameters of a layer that networks change: which they are, and where they are at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

Layer = Any
"""A torch module, with or without what a host has hung on it."""


@dataclass(frozen=True)
class Slot:
    """A part of a layer that one part of a network patches: a parameter, or one of the three parts of its rows.

    ``suffix`` is what the part's key has behind the layer's.
    """

    suffix: str
    parameter: str
    third: int | None = None

    def of(self, tensor: Tensor) -> Tensor:
        return tensor if self.third is None else tensor.chunk(3, 0)[self.third]


@cache
def targets_of(slots: tuple[Slot, ...]) -> tuple[tuple[Slot, tuple[int, ...]], ...]:
    """(what is written at once, the slots whose deltas go into it): a whole weight goes with its thirds."""
    whole = {slot.parameter: slot for slot in slots if slot.third is None}
    members: dict[Slot, list[int]] = {}
    for index, slot in enumerate(slots):
        members.setdefault(whole.get(slot.parameter, slot), []).append(index)
    return tuple((slot, tuple(indices)) for slot, indices in members.items())


def parameter_of(layer: Layer, path: str) -> Tensor:
    """The parameter ``weight``, ``out_proj.weight`` and so on of a layer."""
    owner, _, name = path.rpartition(".")
    module = layer.get_submodule(owner) if owner else layer
    parameter: Tensor | None = module._parameters.get(name)  # as an attribute it takes torch a microsecond to find
    return getattr(module, name) if parameter is None else parameter


def weight_names(layer: Layer) -> tuple[str, ...]:
    """The parameters of a layer that networks change, but for the bias."""
    return ("in_proj_weight", "out_proj.weight") if isinstance(layer, nn.MultiheadAttention) else ("weight",)


Layout = tuple[tuple[torch.Size, torch.dtype], ...]


def layout_of(layer: Layer) -> Layout:
    """The shape and type of each of :func:`weight_names`, at this moment."""
    return tuple((weight.shape, weight.dtype) for weight in (parameter_of(layer, name) for name in weight_names(layer)))


def bias_name(layer: Layer) -> str:
    """The bias that goes with the layer's weight."""
    return "out_proj.bias" if isinstance(layer, nn.MultiheadAttention) else "bias"


def bias_of(layer: Layer) -> Tensor | None:
    """The bias that goes with the layer's weight, if it has one."""
    owner = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer
    bias: Tensor | None = getattr(owner, "bias", None)
    return bias


def device_of(layer: Layer) -> torch.device:
    """The device of the layer's weight, at this moment."""
    return parameter_of(layer, weight_names(layer)[0]).device


def is_on(device: torch.device, layer: Layer) -> bool:
    """Whether the layer's weight is on such a device, at this moment."""
    return device_of(layer).type == device.type


def size_of(layer: Layer) -> int:
    """Bytes of the layer's weights."""
    return sum(parameter_of(layer, name).nbytes for name in weight_names(layer))
