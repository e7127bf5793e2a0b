"""The biases of layers whose weights are written together: a few operations for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lbw.engine import base_weights
from lbw.engine.binding import BoundLayer, Value, bias_fits
from lbw.engine.deltas import accumulation_dtype
from lbw.engine.parameters import bias_of


def changes_bias(bound: BoundLayer) -> bool:
    """Whether a network adds something to the layer's bias."""
    return any(delta.bias is not None and bias_fits(bound.layer, delta.bias) for _slot, _network, delta in bound.deltas)


class Biases:
    """The biases that networks change. Their pristine values stand on the layers' pages, for whoever restores them.

    Args:
        layers: those of which some have biases that :func:`changes_bias`; these have one slot each.
        device: where they are written.
    """

    def __init__(self, layers: Iterable[BoundLayer], device: torch.device) -> None:
        self._device = device
        self.layers = [bound for bound in layers if changes_bias(bound)]
        self._alike: list[_Alike] = []

    def load(self) -> None:
        """Bring to the device what is needed to write them; they are pristine, or have their copies."""
        kinds: dict[torch.dtype, list[BoundLayer]] = {}
        for bound in self.layers:
            kinds.setdefault(_bias(bound).dtype, []).append(bound)
        self._alike = [_Alike(layers, dtype, self._device) for dtype, layers in kinds.items()]

    def unload(self) -> None:
        """Give the device's memory back."""
        self._alike = []

    def write(self, values: Mapping[BoundLayer, Value]) -> None:
        """Bring those of some layers, which are on the device, to values."""
        for alike in self._alike:
            alike.write(values)


class _Alike:
    """Biases of one type, one behind the other in one buffer.

    Args:
        layers: whose biases they are.
    """

    def __init__(self, layers: Sequence[BoundLayer], dtype: torch.dtype, device: torch.device) -> None:
        self._layers, self._device = layers, device
        self._sizes = [_bias(bound).numel() for bound in layers]
        self._owners = torch.arange(len(layers)).repeat_interleave(torch.tensor(self._sizes)).to(device)
        wide = accumulation_dtype(dtype)

        def joined(parts: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
            # What was written one by one before may still have its deltas on the GPU.
            return torch.cat([part.detach().to("cpu", dtype).flatten() for part in parts]).to(device)

        self._base = joined((_origin(bound, is_changed=False) for bound in layers), dtype)
        self._origin = joined((_origin(bound, is_changed=True) for bound in layers), wide)
        networks = sorted({network for bound in layers for _slot, network, _delta in bound.deltas})
        self._deltas = {network: joined((_delta(bound, network) for bound in layers), wide) for network in networks}

    def write(self, values: Mapping[BoundLayer, Value]) -> None:
        chosen = [number for number, bound in enumerate(self._layers) if bound in values]
        if not chosen:
            return
        wanted = torch.zeros(len(self._layers), len(self._deltas), dtype=self._origin.dtype)
        for number in chosen:
            (value,) = values[self._layers[number]]
            wanted[number] = torch.tensor([value[network] for network in self._deltas], dtype=wanted.dtype)
        each = wanted.to(self._device)[self._owners]
        total, is_changed = self._origin, torch.zeros_like(self._owners, dtype=torch.bool)
        for coefficients, delta in zip(each.unbind(1), self._deltas.values(), strict=True):
            # A delta that is no number does no harm at strength 0.
            total = total + torch.where(coefficients != 0, coefficients * delta, 0)
            is_changed |= coefficients != 0
        # As bits: adding 0 would turn a pristine -0.0 into 0.0.
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[self._base.itemsize]
        written = torch.where(is_changed, total.to(self._base.dtype).view(bits), self._base.view(bits))
        results = written.split(self._sizes)
        torch._foreach_copy_(
            [_bias(self._layers[number]).detach().flatten().view(bits) for number in chosen],
            [results[number] for number in chosen],
        )
        for number in chosen:
            self._layers[number].record.bias_is_changed = bool(wanted[number].any())


def _bias(bound: BoundLayer) -> Tensor:
    bias = bias_of(bound.layer)
    assert bias is not None
    return bias


def _origin(bound: BoundLayer, *, is_changed: bool) -> Tensor:
    origin = base_weights.bias_origin(bound.page, is_changed=is_changed)
    assert origin is not None
    return origin


def _delta(bound: BoundLayer, network: int) -> Tensor:
    """What a network adds; zeros where it adds nothing."""
    found = [delta.bias for _slot, index, delta in bound.deltas if index == network and delta.bias is not None]
    return found[0] if found and bias_fits(bound.layer, found[0]) else torch.zeros(_bias(bound).shape)
