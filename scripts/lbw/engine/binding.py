"""A model's layers, joined with the loaded networks: which delta of which network goes into which part of a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import ref

from torch import Tensor

from lbw.engine.deltas import Delta, InThird, UnsupportedPartError
from lbw.engine.ledger import Ledger, Names, Page
from lbw.engine.parameters import Layer, Layout, Slot, bias_of, layout_of, parameter_of, targets_of
from lbw.engine.parts import Network, Parts
from lbw.tags.families import is_text_encoder

Value = tuple[tuple[float, ...], ...]
"""For each of a layer's keys, one coefficient for each network."""

Contents = tuple[tuple[int, Delta, float], ...]
"""What is in a layer beyond its pristine weights: (slot, delta, coefficient) for each coefficient that is not 0."""


Deltas = tuple[tuple[int, int, Delta], ...]
"""(slot, index of the network, delta), network by network in the host's order."""


def contents(deltas: Deltas, value: Value) -> Contents:
    """What ``deltas`` with the coefficients of ``value`` come to."""
    terms = ((slot, delta, value[slot][network]) for slot, network, delta in deltas)
    return tuple(term for term in terms if term[2] != 0.0)


@dataclass(eq=False)
class Holding:
    """The coefficients that one layer, or several that change together, were last brought to."""

    value: Value = ()


@dataclass(eq=False)
class Record:
    """What was last written into a layer. It holds while the names on the layer's page are this ``token``.

    ``batch`` is the one of ``batch.py`` that its pristine weight can be had from; None while it is pristine, or has a
    copy of its own.
    """

    token: Names | None = None
    deltas: Deltas = ()
    holding: Holding = field(default_factory=Holding)
    bias_is_changed: bool = False
    batch: Any = None

    @property
    def contents(self) -> Contents:
        return contents(self.deltas, self.holding.value)


@dataclass(eq=False)
class BoundLayer:
    """A layer, and the delta that each network has for each of its slots. A layer that none touches has none.

    ``keys`` are the networks' names for the slots.
    """

    page: Page
    slots: tuple[Slot, ...]
    keys: tuple[str, ...]
    deltas: Deltas
    record: Record
    layout: Layout
    """For which the deltas are made."""

    @property
    def layer(self) -> Layer:
        return self.page.layer

    def deltas_of(self, slot: int) -> list[tuple[int, Delta]]:
        """(index of the network, delta) for one of its slots."""
        return [(network, delta) for index, network, delta in self.deltas if index == slot]

    @property
    def is_text_encoder(self) -> bool:
        return is_text_encoder(self.keys[0])


class Binding:
    """The layers of one model and the networks that are loaded.

    Args:
        layers: every layer that the host would back up, and that can be written, bound.
        misfits: {name of a network: what of it could not be used, with the reason}.
        counts: {name of a network: how many parts of its file layers get: in text encoders, elsewhere}.
    """

    def __init__(
        self,
        model: Any,
        networks: Sequence[Any],
        forms: Sequence[Any],
        layers: Sequence[BoundLayer],
        misfits: Mapping[str, Sequence[str]],
        counts: Mapping[str, Sequence[int]],
    ) -> None:
        self._model = ref(model)
        self._networks = [ref(net) for net in networks]
        self._forms = tuple(forms)
        self.layers = tuple(layers)
        self.misfits, self.counts = misfits, counts

    @property
    def messages(self) -> tuple[str, ...]:
        """What of the networks could not be used, one line for each."""
        return tuple(f"<lora:{network}>: {misfits_told(reasons)}" for network, reasons in self.misfits.items())

    def is_of(self, model: Any, networks: Sequence[Any], forms: Sequence[Any]) -> bool:
        """Whether it joins this very model with these very networks, in the form that they had."""
        return (
            self.is_of_model(model)
            and self._forms == tuple(forms)
            and len(self._networks) == len(networks)
            and all(bound() is net for bound, net in zip(self._networks, networks, strict=True))
        )

    def is_of_model(self, model: Any) -> bool:
        return model is not None and self._model() is model


def misfits_told(reasons: Sequence[str]) -> str:
    count = len(reasons)
    what = "part cannot be used and is" if count == 1 else "parts cannot be used and are"
    return f"{count} {what} left out, first {reasons[0]}"


DeltaOf = Callable[[Network, Any, Tensor], Delta]
"""(network, part, the slot's weight) -> delta; raises UnsupportedPartError."""


def bind(
    model: Any,
    layers: Mapping[str, Layer],
    networks: Sequence[Network],
    ledger: Ledger,
    parts: Parts,
    delta_of: DeltaOf,
    records: MutableMapping[Layer, Record],
) -> Binding:
    """Find the deltas for every layer.

    Args:
        layers: {the host's layer name: layer}.
        networks: each one once.
        records: what is known of layers; new layers get a record.
    """
    bound: list[BoundLayer] = []
    misfits: dict[str, list[str]] = {}
    counts = {net.name: [0, 0] for net in networks}
    for name, layer in layers.items():
        slots = parts.slots(layer)
        if not slots:  # what the networks have is added in the layer's forward
            for net in networks:
                for _index, part in parts.of(net, (), (name,)):
                    fault = parts.fault(net, part)
                    if fault is None:
                        counts[net.name][not is_text_encoder(name)] += parts.count(part)
                    else:
                        misfits.setdefault(net.name, []).append(f"{name}: {fault}")
            continue
        keys = tuple(name + slot.suffix for slot in slots)
        record = records.get(layer)
        if record is None:
            record = records[layer] = Record()
        each = BoundLayer(Page(layer, ledger), slots, keys, (), record, layout_of(layer))
        each.deltas = _deltas(each, networks, parts, delta_of, misfits, counts)
        bound.append(each)
    return Binding(model, networks, tuple(map(parts.form, networks)), bound, misfits, counts)


def _deltas(
    bound: BoundLayer,
    networks: Sequence[Network],
    parts: Parts,
    delta_of: DeltaOf,
    misfits: dict[str, list[str]],
    counts: dict[str, list[int]],
) -> Deltas:
    """The deltas for one layer; what cannot be used goes to ``misfits``, the others are added to ``counts``."""
    found: list[tuple[int, int, Delta]] = []
    targets = {index: target for target, members in targets_of(bound.slots) for index in members}
    for network, net in enumerate(networks):
        members = parts.of(net, bound.slots, bound.keys)
        try:
            _require_faultless(net, members, parts)
            deltas = [
                (index, _delta(bound, index, targets[index], partial(delta_of, net, part))) for index, part in members
            ]
        except UnsupportedPartError as error:
            misfits.setdefault(net.name, []).extend([f"{bound.keys[0]}: {error}"] * len(members))
            continue
        found += [(index, network, delta) for index, delta in deltas]
        counts[net.name][not bound.is_text_encoder] += sum(parts.count(part) for _index, part in members)
        if any(not bias_fits(bound.layer, delta.bias) for _index, delta in deltas):
            misfits.setdefault(net.name, []).append(f"{bound.keys[0]}: its bias does not fit the layer's")
    return tuple(found)


def _require_faultless(net: Network, members: Sequence[tuple[int, Any]], parts: Parts) -> None:
    """Raises:
    UnsupportedPartError: one of the parts for a layer must not be used, so that none of them is.
    """
    for _index, part in members:
        fault = parts.fault(net, part)
        if fault is not None:
            raise UnsupportedPartError(fault)


def _delta(bound: BoundLayer, index: int, target: Slot, delta_of: Callable[[Tensor], Delta]) -> Delta:
    slot = bound.slots[index]
    delta = delta_of(slot.of(parameter_of(bound.layer, slot.parameter)))
    return delta if slot.third is None or target is slot else InThird(delta, slot.third)


def bias_fits(layer: Layer, bias: Tensor | None) -> bool:
    """Whether there is nothing to add to the layer's bias, or it can be added.

    The host raises at the next forward where a network gives a bias to a layer that has none.
    """
    own = bias_of(layer)
    return bias is None or (own is not None and own.numel() == bias.numel())
