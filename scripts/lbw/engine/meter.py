"""Measures networks: the norms of their deltas, from factors where a delta has them, and of the model's weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lbw.engine.base_weights import pristine_view
from lbw.engine.binding import BoundLayer, bind
from lbw.engine.deltas import Delta, InThird, Source, frobenius
from lbw.engine.ledger import Ledger, Page
from lbw.engine.parameters import Layer, Slot, device_of
from lbw.engine.parts import Network, Parts
from lbw.engine.stand_ins import MissingBaseError
from lbw.engine.strengths import Label, Norms, Part, Strengths
from lbw.tags.elements import element_of
from lbw.tags.families import Family, family_of_layers


class StrengthMeter:
    """Measures networks, and changes nothing. It keeps the norms of the model's weights."""

    def __init__(self, ledger: Ledger, parts: Parts) -> None:
        self._ledger, self._parts = ledger, parts
        self._weights: WeakKeyDictionary[Layer, dict[Slot, float]] = WeakKeyDictionary()

    def forget(self) -> None:
        """Other weights have been loaded into layers."""
        self._weights.clear()

    @torch.no_grad()
    def measure(self, net: Network, layers: Mapping[str, Layer]) -> Strengths:
        """The strengths of a network that need not be active. Layers are only read, and their pristine weights count.

        Args:
            net: the host's object for it.
            layers: {the host's layer name: layer} of the model.
        """
        family = family_of_layers(layers)
        parts, messages = self.parts_of(net, layers, family)
        return Strengths(net.name, blocks_of(layers, family), tuple(parts), tuple(messages))

    def parts_of(self, net: Network, layers: Mapping[str, Layer], family: Family) -> tuple[list[Part], list[str]]:
        """As :meth:`measure`, for some of the model's layers: what is in them, and what of it could not be used."""
        binding = bind(self, layers, [net], self._ledger, self._parts, self._float_delta, {})
        messages, parts = list(binding.messages), []
        for bound in binding.layers:
            block = family.block_of(bound.keys[0])
            try:
                parts += [Part(key, block, element_of(key), norms) for key, norms in self._norms(bound)]
            except MissingBaseError as error:
                messages.append(f"layer {bound.keys[0]}: {error}; reload the checkpoint")
        return parts, messages

    def _norms(self, bound: BoundLayer) -> list[tuple[str, Norms]]:
        """For each of the layer's parts that the network has: its key, and its norms."""
        found = []
        for index, _network, delta in bound.deltas:
            slot = bound.slots[index]
            norm = delta.norm(_source(bound.page, slot, delta))
            found.append((bound.keys[index], Norms(1, norm, self._weight(bound.page, slot))))
        return found

    def _weight(self, page: Page, slot: Slot) -> float:
        known = self._weights.setdefault(page.layer, {})
        if slot not in known:
            known[slot] = frobenius(slot.of(_pristine(page, slot)))
        return known[slot]

    def _float_delta(self, net: Network, part: Any, weight: Tensor) -> Delta:
        """The delta as it is on a float32 weight, for which no factor is split in two."""
        return self._parts.delta(net, part, weight.shape, torch.float32)


def blocks_of(layers: Iterable[str], family: Family) -> tuple[Label, ...]:
    """The blocks that layers are in, in their order."""
    existing = {*map(family.block_of, layers)}
    return tuple(label for label in (*family.labels, None) if label in existing)


def _pristine(page: Page, slot: Slot) -> Tensor:
    """The pristine weight, on the device where the layer works."""
    return pristine_view(page, slot.parameter).to(device_of(page.layer))


def _source(page: Page, slot: Slot, delta: Delta) -> Source:
    """What a delta is computed from."""
    return lambda: _pristine(page, slot) if isinstance(delta, InThird) else slot.of(_pristine(page, slot))
