"""Measures networks: the norms of their deltas, from factors where a delta has them, and of the model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lbw.engine.base_weights import Layer, MissingBaseError, device_of, pristine_view
from lbw.engine.binding import BoundLayer, Slot, bind, slots_of
from lbw.engine.deltas import Delta, InThird, Source, delta_of, frobenius
from lbw.engine.strengths import Norms, Part, Strengths
from lbw.tags.blocks import block_of, family_of_layers, labels_of
from lbw.tags.elements import element_of


class StrengthMeter:
    """Measures networks, and changes nothing. It keeps the norms of the model's weights."""

    def __init__(self) -> None:
        self._weights: WeakKeyDictionary[Layer, dict[Slot, float]] = WeakKeyDictionary()

    def forget(self) -> None:
        """Other weights have been loaded into layers."""
        self._weights.clear()

    @torch.no_grad()
    def measure(self, net: Any, layers: Mapping[str, Layer]) -> Strengths:
        """The strengths of a network that need not be active. Layers are only read, and their pristine weights count.

        Args:
            net: the host's ``Network``.
            layers: {the host's layer name: layer} of the model.
        """
        family = family_of_layers(layers)
        binding = bind(self, layers, [net], lambda _net, module, weight: _float_delta(module, weight), {})
        messages, parts = list(binding.messages), []
        for bound in binding.layers:
            block = block_of(bound.keys[0], family)
            try:
                parts += [Part(key, block, element_of(key), norms) for key, norms in self._norms(bound)]
            except MissingBaseError as error:
                messages.append(f"layer {bound.keys[0]}: {error}; reload the checkpoint")
        existing = {block_of(layer, family) for layer in layers}
        blocks = tuple(label for label in (*labels_of(family), None) if label in existing)
        return Strengths(net.name, blocks, tuple(parts), tuple(messages))

    def _norms(self, bound: BoundLayer) -> list[tuple[str, Norms]]:
        """For each of the layer's parts that the network has: its key, and its norms."""
        slots, found = slots_of(bound.layer), []
        for index, _network, delta in bound.deltas:
            slot = slots[index]
            norm = delta.norm(_source(bound.layer, slot, delta))
            found.append((bound.keys[index], Norms(1, norm, self._weight(bound.layer, slot))))
        return found

    def _weight(self, layer: Layer, slot: Slot) -> float:
        known = self._weights.setdefault(layer, {})
        if slot not in known:
            known[slot] = frobenius(slot.of(_pristine(layer, slot)))
        return known[slot]


def _float_delta(module: Any, weight: Tensor) -> Delta:
    """The delta as it is on a float32 weight, for which no factor is split in two."""
    return delta_of(module, weight.shape, torch.float32)


def _pristine(layer: Layer, slot: Slot) -> Tensor:
    """The pristine weight, on the device where the layer works."""
    return pristine_view(layer, slot.parameter).to(device_of(layer))


def _source(layer: Layer, slot: Slot, delta: Delta) -> Source:
    """What a delta is computed from."""
    return lambda: _pristine(layer, slot) if isinstance(delta, InThird) else slot.of(_pristine(layer, slot))
