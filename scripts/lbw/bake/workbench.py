"""The networks that something is baked of, joined with the model that is in use, some layers at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lbw.bake.forms import Share
from lbw.bake.host import Host
from lbw.bake.sources import Named, Source, size_of
from lbw.engine.binding import BoundLayer, bind
from lbw.engine.deltas import Delta
from lbw.engine.meter import blocks_of
from lbw.engine.parameters import Layer
from lbw.engine.parts import Network
from lbw.files.layer_names import ModelLayers
from lbw.tags.families import family_of_layers

_MOST_AT_ONCE = 8_000_000
"""Numbers of parts that are in memory together, but for one layer that has more."""


@dataclass(frozen=True)
class Ingredient:
    """A network of which something is baked, in the host's order.

    ``coefficients`` are {the host's name of a layer: what its part counts there}. ``dyn_dim`` is the rank up to which
    its tag wants it.
    """

    source: Source
    coefficients: Mapping[str, float]
    dyn_dim: int | None = None


@dataclass(frozen=True)
class Joined:
    """Some layers of the model, with what the ingredients have for them.

    ``bound`` are those that have weights, ``others`` {layer: indices of the ingredients that have something sound} of
    those that cannot be written, ``misfits`` what cannot be used of each ingredient: the host's key, and why.
    """

    bound: Sequence[BoundLayer]
    others: Mapping[str, Sequence[int]]
    misfits: Sequence[Sequence[str]]


class Workbench:
    """
    Raises:
        BakeError: the host cannot read a file.
    """

    def __init__(self, host: Host, ingredients: Sequence[Ingredient]) -> None:
        self.host, self.ingredients = host, tuple(ingredients)
        with host.turn() as layers:
            self.family = family_of_layers(layers)
            self.blocks = blocks_of(layers, self.family)
            self.layer_of = {key: name for name, layer in layers.items() for key in self._keys(name, layer)}
            self.names = ModelLayers(self.layer_of)
            found = [self._by_key(each) for each in self.ingredients]
        self.pieces = tuple(by_key for by_key, _strange in found)
        """Of each ingredient, {the host's key of a layer: what its file has for it}."""
        self.strange = tuple(strange for _by_key, strange in found)
        """Of each ingredient, the parts that are for no layer of the model."""

    def _keys(self, name: str, layer: Layer) -> list[str]:
        return [name + slot.suffix for slot in self.host.parts.slots(layer)] or [name]

    def _by_key(self, ingredient: Ingredient) -> tuple[dict[str, list[Named]], list[Named]]:
        found, others = ingredient.source.by_key(self.names)
        strange = []
        for each, key in zip(others, self._keys_by_host(ingredient, others), strict=True):
            if key in self.layer_of:
                found.setdefault(key, []).append(each)
            else:
                strange.append(each)
        return found, strange

    def _keys_by_host(self, ingredient: Ingredient, others: Sequence[Named]) -> list[str]:
        """The host's keys of parts whose names only it knows; empty for those of no layer."""
        if not others or not self._keys_of(ingredient, others):
            return [""] * len(others)
        return [next(iter(self._keys_of(ingredient, [each])), "") for each in others]

    def _keys_of(self, ingredient: Ingredient, parts: Collection[Named]) -> list[str]:
        return list(self.host.parts.keys(self._network(ingredient, parts)))

    def _network(self, ingredient: Ingredient, parts: Collection[Named]) -> Network:
        names = chain.from_iterable(part.tensors.values() for part in parts)
        return self.host.network_of(
            ingredient.source.file, ingredient.source.tensors(names), ingredient.dyn_dim
        )

    def layers(self) -> list[str]:
        """The host's names of the layers for which an ingredient has something that counts."""
        return [
            name for name in dict.fromkeys(self.layer_of[key] for key in chain.from_iterable(self.pieces))
            if any(each.coefficients.get(name) for each in self.ingredients)
        ]

    def portions(self, layers: Sequence[str], made: Mapping[str, int] | None = None) -> Iterator[list[str]]:
        """Layers as many at a time as memory shall hold the parts of.

        Args:
            made: {layer: how many numbers are made of its parts}, where that is known.
        """
        keys: dict[str, list[str]] = {}
        for key, name in self.layer_of.items():
            keys.setdefault(name, []).append(key)
        portion: list[str] = []
        size = 0
        for name in layers:
            more = sum(
                size_of(each.source, pieces.get(key, ()))
                for each, pieces in zip(self.ingredients, self.pieces, strict=True) for key in keys[name]
            )
            more = max(more, (made or {}).get(name, 0))
            if portion and size + more > _MOST_AT_ONCE:
                yield portion
                portion, size = [], 0
            portion.append(name)
            size += more
        if portion:
            yield portion

    @contextmanager
    def turn(self, portion: Collection[str]) -> Iterator[Joined]:
        """Join layers with the ingredients. While the block runs no image is made."""
        wanted = {*portion}
        with self.host.turn() as layers, torch.no_grad():
            networks = [
                self._network(each, self._parts_for(index, wanted)) for index, each in enumerate(self.ingredients)
            ]
            chosen = {name: layers[name] for name in portion}
            binding = bind(self, chosen, networks, self.host.ledger, self.host.parts, self._delta, {})
            others = {
                name: [index for index, network in enumerate(networks) if self._is_sound(network, name)]
                for name, layer in chosen.items() if not self.host.parts.slots(layer)
            }
            misfits = [binding.misfits.get(network.name, ()) for network in networks]
            yield Joined(binding.layers, others, misfits)

    def coefficient(self, index: int, layer: str) -> float:
        """What an ingredient's part for a layer counts."""
        return self.ingredients[index].coefficients.get(layer, 0.0)

    def shares(self, bound: BoundLayer) -> Iterator[tuple[int, int, Share]]:
        """(slot, index of the ingredient, what counts of it) for each part for a layer of which something counts."""
        for slot, index, delta in bound.deltas:
            coefficient = self.coefficient(index, self.layer_of[bound.keys[slot]])
            if coefficient:
                yield slot, index, Share(delta, coefficient)

    def _parts_for(self, index: int, layers: Collection[str]) -> list[Named]:
        return [
            part for key, parts in self.pieces[index].items() if self.layer_of[key] in layers for part in parts
        ]

    def _is_sound(self, network: Network, name: str) -> bool:
        parts = self.host.parts.of(network, (), (name,))
        return bool(parts) and all(self.host.parts.fault(network, part) is None for _index, part in parts)

    def _delta(self, network: Network, part: Any, weight: Tensor) -> Delta:
        """The delta as it is on a float32 weight, for which no factor is split in two."""
        return self.host.parts.delta(network, part, weight.shape, torch.float32)
