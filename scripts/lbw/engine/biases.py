"""The biases of layers whose weights are written together: a few operations for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lbw.engine import base_weights
from lbw.engine.binding import BoundLayer, Value, bias_fits
from lbw.engine.deltas import accumulation_dtype
from lbw.engine.parameters import bias_of

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def changes_bias(bound: BoundLayer) -> bool:
    """Whether a network adds something to the layer's bias."""
    return any(delta.bias is not None and bias_fits(bound.layer, delta.bias) for _slot, _network, delta in bound.deltas)


class Biases:
    """The biases that networks change. Their pristine values stand on the layers' pages, for whoever restores them.

    Args:
        layers: of which those count whose biases networks change; they have one slot each.
        device: where they are written.
    """

    def __init__(self, layers: Iterable[BoundLayer], device: torch.device) -> None:
        self._device = device
        self.layers = [bound for bound in layers if changes_bias(bound)]
        self._alike: list[_Alike] = []

    def load(self) -> None:
        """Bring to the device what is needed to write them. The first time, and after :meth:`forget`, they have to be
        pristine, or to have copies on their pages."""
        if not self._alike:
            kinds: dict[torch.dtype, list[BoundLayer]] = {}
            for bound in self.layers:
                kinds.setdefault(_bias(bound).dtype, []).append(bound)
            self._alike = [_Alike(layers, dtype) for dtype, layers in kinds.items()]
        for alike in self._alike:
            alike.load(self._device)

    def unload(self) -> None:
        """Give the device's memory back."""
        for alike in self._alike:
            alike.unload()

    def forget(self) -> None:
        """The layers are pristine again."""
        self._alike = []

    def brought_to(self, values: Mapping[BoundLayer, Value]) -> list[tuple[BoundLayer, Tensor, bool]]:
        """What those of some layers are to be: (layer, the bits of its bias, whether it is changed).

        Raises:
            torch.cuda.OutOfMemoryError: it does not fit.
        """
        return [each for alike in self._alike for each in alike.brought_to(values)]

    @staticmethod
    def write(brought: Sequence[tuple[BoundLayer, Tensor, bool]]) -> None:
        """Write what :meth:`brought_to` has returned into layers that are on the device."""
        for bits in {each.dtype for _bound, each, _is_changed in brought}:
            pairs = [(_bias(bound), each) for bound, each, _is_changed in brought if each.dtype == bits]
            torch._foreach_copy_([bias.detach().flatten().view(bits) for bias, _ in pairs], [each for _, each in pairs])
        for bound, _each, is_changed in brought:
            bound.record.bias_is_changed = is_changed

    @property
    def nbytes(self) -> int:
        """What is held of the device's memory."""
        return sum(alike.nbytes for alike in self._alike)


class _Alike:
    """Biases of one type, one behind the other in one buffer.

    Args:
        layers: whose biases they are.
        dtype: theirs.
    """

    def __init__(self, layers: Sequence[BoundLayer], dtype: torch.dtype) -> None:
        self._layers, self._device = layers, torch.device("cpu")
        self._sizes = [_bias(bound).numel() for bound in layers]
        self._networks = sorted({network for bound in layers for _slot, network, _delta in bound.deltas})
        deltas = [[_delta(bound, network) for bound in layers] for network in self._networks]
        self._has_delta = np.array([[delta is not None for delta in row] for row in deltas]).T
        wide = accumulation_dtype(dtype)
        self._in_ram = [
            torch.arange(len(layers)).repeat_interleave(torch.tensor(self._sizes)),
            _joined([_origin(bound, is_changed=False) for bound in layers], dtype),
            _joined([_origin(bound, is_changed=True) for bound in layers], wide),
            *(_joined([
                torch.zeros(size) if delta is None else delta for delta, size in zip(row, self._sizes, strict=True)
            ], wide) for row in deltas),
        ]  # fmt: skip
        self._on_device: list[Tensor] = []

    def load(self, device: torch.device) -> None:
        self._device = device
        self._on_device = [each.to(device) for each in self._in_ram]

    def unload(self) -> None:
        self._on_device = []

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self._on_device)

    def brought_to(self, values: Mapping[BoundLayer, Value]) -> list[tuple[BoundLayer, Tensor, bool]]:
        chosen = [number for number, bound in enumerate(self._layers) if bound in values]
        if not chosen:
            return []
        owners, base, total, *deltas = self._on_device
        # The layers have one slot each. A network that adds nothing to a bias does not change it, however strong.
        rows = np.array([values[self._layers[number]][0] for number in chosen], np.float64)
        wanted = np.zeros((len(self._layers), len(self._networks)))
        wanted[chosen] = rows[:, self._networks] * self._has_delta[chosen]
        each = torch.from_numpy(wanted).to(self._device, total.dtype)[owners]
        is_changed = torch.zeros_like(owners, dtype=torch.bool)
        for coefficients, delta in zip(each.unbind(1), deltas, strict=True):
            # A delta that is no number does no harm at strength 0.
            total = total + torch.where(coefficients != 0, coefficients * delta, 0)
            is_changed |= coefficients != 0
        # As bits: adding 0 would turn a pristine -0.0 into 0.0.
        bits = _BITS[base.itemsize]
        found = torch.where(is_changed, total.to(base.dtype).view(bits), base.view(bits)).split(self._sizes)
        are_changed = wanted.any(axis=1).tolist()
        return [(self._layers[number], found[number], are_changed[number]) for number in chosen]


def _joined(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Some of them may be on a GPU: those of layers that were written one by one before."""
    return torch.cat([part.detach().to("cpu", dtype).flatten() for part in parts])


def _bias(bound: BoundLayer) -> Tensor:
    bias = bias_of(bound.layer)
    assert bias is not None
    return bias


def _origin(bound: BoundLayer, *, is_changed: bool) -> Tensor:
    origin = base_weights.bias_origin(bound.page, is_changed=is_changed)
    assert origin is not None
    return origin


def _delta(bound: BoundLayer, network: int) -> Tensor | None:
    """What a network adds."""
    found = [delta.bias for _slot, index, delta in bound.deltas if index == network and delta.bias is not None]
    return found[0] if found and bias_fits(bound.layer, found[0]) else None
