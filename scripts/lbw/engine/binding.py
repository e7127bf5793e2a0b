"""A model's layers, joined with the loaded networks: which delta of which network goes into which part of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import is_, itemgetter
from typing import Any
from weakref import ref

from torch import Tensor, nn

from lbw.engine.base_weights import Layer, bias_of, parameter_of
from lbw.engine.deltas import Delta, InThird, UnsupportedModuleError
from lbw.tags.blocks import is_text_encoder

Names = tuple[Any, ...]
"""What is in a layer, as the host notes it: its ``network_current_names``."""

UNFINISHED: Names = (("LoRA Block Weight: unfinished", 0.0, 0.0, None),)
"""A name that no network has: the host restores a layer that carries it."""

_names_of = itemgetter("network_current_names")

Value = tuple[tuple[float, ...], ...]
"""For each of a layer's keys, one coefficient for each network."""

Contents = tuple[tuple[int, Delta, float], ...]
"""What is in a layer beyond its pristine weights: (slot, delta, coefficient) for each coefficient that is not 0."""


@dataclass(frozen=True)
class Slot:
    """A part of a layer that one module of a network patches: a parameter, or one of the three parts of its rows."""

    suffix: str
    parameter: str
    third: int | None = None

    def of(self, tensor: Tensor) -> Tensor:
        return tensor if self.third is None else tensor.chunk(3, 0)[self.third]


_WHOLE_WEIGHT = (Slot("", "weight"),)
_ATTENTION_PROJECTIONS = (
    Slot("_q_proj", "in_proj_weight", 0),
    Slot("_k_proj", "in_proj_weight", 1),
    Slot("_v_proj", "in_proj_weight", 2),
    Slot("_out_proj", "out_proj.weight"),
)
_JOINT_PROJECTIONS = (
    *_WHOLE_WEIGHT,
    Slot("_q_proj", "weight", 0),
    Slot("_k_proj", "weight", 1),
    Slot("_v_proj", "weight", 2),
)


def slots_of(layer: Layer) -> tuple[Slot, ...]:
    """The slots of a layer: MultiheadAttention and SD3's QkvLinear hold q, k and v in the rows of one weight.

    For the latter the host takes a network's part for the whole weight too.
    """
    if isinstance(layer, nn.MultiheadAttention):
        return _ATTENTION_PROJECTIONS
    return _JOINT_PROJECTIONS if type(layer).__name__ == "QkvLinear" else _WHOLE_WEIGHT


def targets_of(layer: Layer) -> tuple[tuple[Slot, tuple[int, ...]], ...]:
    """(what is written at once, the slots whose deltas go into it): slots that overlap are written together."""
    slots = slots_of(layer)
    if slots is _JOINT_PROJECTIONS:
        return ((slots[0], tuple(range(len(slots)))),)
    return tuple((slot, (index,)) for index, slot in enumerate(slots))


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
    """What was last written into a layer. It holds while the layer's ``network_current_names`` is this ``token``.

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

    ``keys`` are the networks' names for the slots; ``attributes`` are the layer's own, without torch's detour.
    """

    layer: Layer
    keys: tuple[str, ...]
    deltas: Deltas
    record: Record
    attributes: dict[str, Any]

    @property
    def is_text_encoder(self) -> bool:
        return is_text_encoder(self.keys[0])


class Binding:
    """The layers of one model and the networks that are loaded.

    Args:
        layers: every layer that the host would back up, bound.
        messages: what of the networks could not be used, one line each.
    """

    def __init__(
        self, model: Any, networks: Sequence[Any], layers: Sequence[BoundLayer], messages: Sequence[str]
    ) -> None:
        self._model = ref(model)
        self._networks = [ref(net) for net in networks]
        self.layers = tuple(layers)
        self.messages = tuple(messages)

    def is_of(self, model: Any, networks: Sequence[Any]) -> bool:
        """Whether it joins this very model with these very networks."""
        return (
            self._model() is model
            and len(self._networks) == len(networks)
            and all(bound() is net for bound, net in zip(self._networks, networks, strict=True))
        )

    def is_of_model(self, model: Any) -> bool:
        return self._model() is model


def bind(
    model: Any,
    layers: Mapping[str, Layer],
    networks: Sequence[Any],
    delta_of: Callable[[Any, Any, Tensor], Delta],
    records: MutableMapping[Layer, Record],
) -> Binding:
    """Find the deltas for every layer.

    Args:
        layers: {the host's layer name: layer}.
        networks: the host's ``Network`` objects, each one once.
        delta_of: (network, module, the slot's weight) -> delta; raises UnsupportedModuleError.
        records: what is known of layers; new layers get a record.
    """
    bound: list[BoundLayer] = []
    misfits: dict[str, list[str]] = {}
    for name, layer in layers.items():
        slots = slots_of(layer)
        keys = tuple(name + slot.suffix for slot in slots)
        deltas = _deltas(layer, slots, keys, networks, delta_of, misfits)
        record = records.get(layer)
        if record is None:
            record = records[layer] = Record()
        bound.append(BoundLayer(layer, keys, deltas, record, layer.__dict__))
    messages = [
        f"<lora:{network}>: {len(reasons)} parts do not fit this model and are left out, first {reasons[0]}"
        for network, reasons in misfits.items()
    ]
    return Binding(model, networks, bound, messages)


def _deltas(
    layer: Layer,
    slots: Sequence[Slot],
    keys: Sequence[str],
    networks: Sequence[Any],
    delta_of: Callable[[Any, Any, Tensor], Delta],
    misfits: dict[str, list[str]],
) -> Deltas:
    """The deltas for one layer; what does not fit goes to ``misfits``, {network: reasons}."""
    found: list[tuple[int, int, Delta]] = []
    for network, net in enumerate(networks):
        wanted = [index for index, key in enumerate(keys) if key in net.modules]
        if slots is _JOINT_PROJECTIONS and 0 in wanted:  # the host asks for it before it asks for the projections
            wanted = [0]
        elif len(wanted) < len(slots) - (slots is _JOINT_PROJECTIONS):
            continue
        try:
            deltas = [_delta(layer, slots[index], net, net.modules[keys[index]], delta_of) for index in wanted]
        except UnsupportedModuleError as error:
            misfits.setdefault(net.name, []).append(f"{keys[0]}: {error}")
            continue
        found += [(slot, network, delta) for slot, delta in zip(wanted, deltas, strict=True)]
        if any(not bias_fits(layer, delta.bias) for delta in deltas):
            misfits.setdefault(net.name, []).append(f"{keys[0]}: its bias does not fit the layer's")
    return tuple(found)


def _delta(
    layer: Layer, slot: Slot, net: Any, module: Any, delta_of: Callable[[Any, Any, Tensor], Delta]
) -> Delta:
    delta = delta_of(net, module, slot.of(parameter_of(layer, slot.parameter)))
    return InThird(delta, slot.third) if slot.parameter == "weight" and slot.third is not None else delta


def bias_fits(layer: Layer, bias: Tensor | None) -> bool:
    """Whether there is nothing to add to the layer's bias, or it can be added.

    The host raises at the next forward where a network gives a bias to a layer that has none.
    """
    own = bias_of(layer)
    return bias is None or (own is not None and own.numel() == bias.numel())


def all_have(attributes: Iterable[dict[str, Any]], names: Names) -> bool:
    """Whether every layer, of which these are the attributes, has these very ``names``."""
    try:
        return all(map(is_, map(_names_of, attributes), repeat(names)))
    except KeyError:
        return False
