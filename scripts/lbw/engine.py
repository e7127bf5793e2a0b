"""The engine: brings the layer weights to a step's coefficients, in place, and keeps the host's name cache in step.

It is the only part with state, and the only one that writes weights. Its state is what is in the weights now. Every
weight is computed from the pristine one, so nothing drifts, however often a strength is switched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lbw import base_weights
from lbw.base_weights import Layer
from lbw.deltas import Delta, HostFormula, UnsupportedModuleError, delta_of, third_of
from lbw.kernels import torch as kernel

logger = logging.getLogger("lbw")

Names = tuple[Any, ...]
Contents = tuple[tuple[int, Delta, float], ...]
"""What is in a layer beyond its pristine weights: (slot, delta, coefficient) for each coefficient that is not 0."""

PRISTINE: Contents = ()


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


_JOINT_PROJECTIONS = (Slot("_q_proj", "weight", 0), Slot("_k_proj", "weight", 1), Slot("_v_proj", "weight", 2))


def slots_of(layer: Layer) -> tuple[Slot, ...]:
    """The slots of a layer: MultiheadAttention and SD3's QkvLinear hold q, k and v in the rows of one weight."""
    if isinstance(layer, nn.MultiheadAttention):
        return _ATTENTION_PROJECTIONS
    return _JOINT_PROJECTIONS if type(layer).__name__ == "QkvLinear" else _WHOLE_WEIGHT


@dataclass
class BoundLayer:
    """A layer, and for each slot and network the delta that the network has for it."""

    name: str
    layer: Layer
    deltas: list[tuple[int, str, int, Delta]] = field(default_factory=list)
    """(slot, the network's key for it, index of the network, delta), in the host's order."""

    def contents(self, coefficients: Mapping[str, tuple[float, ...]]) -> Contents:
        values = ((slot, delta, coefficients[key][network]) for slot, key, network, delta in self.deltas)
        return tuple(value for value in values if value[2] != 0.0)


@dataclass(frozen=True)
class Binding:
    """The layers of a model, joined with the networks that are loaded.

    ``messages`` tells what of the networks could not be used, one line each.
    """

    model: object
    networks: tuple[Any, ...]
    touched: tuple[BoundLayer, ...]
    untouched: tuple[tuple[str, Layer], ...]
    messages: tuple[str, ...]


@dataclass(frozen=True)
class Update:
    """What one call of :meth:`LoraEngine.manual_lora_update` did."""

    layers_updated: int = 0
    seconds: float = 0.0


class LoraEngine:
    """Owns the weights of the host's layers while networks are in use."""

    def __init__(self) -> None:
        self._contents: WeakKeyDictionary[Layer, tuple[Names, Contents]] = WeakKeyDictionary()
        self._deltas: WeakKeyDictionary[Any, dict[tuple[Any, ...], Delta]] = WeakKeyDictionary()
        self._reported: set[str] = set()
        self.binding: Binding | None = None

    def bind(self, model: object, layers: Mapping[str, Layer], networks: Sequence[Any]) -> Binding:
        """Join a model's layers with the loaded networks; a repeated call with the same ones returns the same binding.

        Args:
            model: the model that the layers belong to; only its identity counts.
            layers: {the host's layer name: layer}.
            networks: the host's ``Network`` objects, each one once.
        """
        if self.is_bound_to(model, networks):
            assert self.binding is not None
            return self.binding
        touched, untouched = [], []
        misfits: dict[str, list[str]] = {}
        for name, layer in layers.items():
            bound = self._bind_layer(name, layer, networks, misfits)
            if bound.deltas:
                touched.append(bound)
            else:
                untouched.append((name, layer))
        messages = [
            f"<lora:{network}>: {len(reasons)} parts do not fit this model and are left out, first {reasons[0]}"
            for network, reasons in misfits.items()
        ]
        self.binding = Binding(model, tuple(networks), tuple(touched), tuple(untouched), tuple(messages))
        return self.binding

    def is_bound_to(self, model: object, networks: Sequence[Any]) -> bool:
        """Whether the binding is for this very model and these very networks."""
        binding = self.binding
        return (
            binding is not None
            and binding.model is model
            and len(binding.networks) == len(networks)
            and all(bound is net for bound, net in zip(binding.networks, networks, strict=True))
        )

    def _bind_layer(
        self, name: str, layer: Layer, networks: Sequence[Any], misfits: dict[str, list[str]]
    ) -> BoundLayer:
        """Find the deltas for a layer; what does not fit goes to ``misfits``, {network: reasons}."""
        bound = BoundLayer(name, layer)
        for network, net in enumerate(networks):
            try:
                deltas = self._deltas_of(net, name, layer)
            except UnsupportedModuleError as error:
                misfits.setdefault(net.name, []).append(f"{name}: {error}")
                continue
            for index, key, delta in deltas:
                bound.deltas.append((index, key, network, delta))
                if delta.bias is not None and not _bias_fits(layer, delta.bias):
                    misfits.setdefault(net.name, []).append(f"{name}: its bias does not fit the layer's")
        return bound

    def _deltas_of(self, net: Any, name: str, layer: Layer) -> list[tuple[int, str, Delta]]:
        """(slot, the network's key, delta) of all parts that a network has for a layer, or none of them.

        Raises:
            UnsupportedModuleError: a part does not fit.
        """
        slots = slots_of(layer)
        weights = [slot.of(_parameter(layer, slot.parameter)) for slot in slots]
        whole = net.modules.get(name)
        if whole is not None and slots is _JOINT_PROJECTIONS:  # the host asks for it before it asks for the projections
            return [(i, name, self._delta(net, whole, layer.weight, i)) for i in range(len(slots))]
        modules = [net.modules.get(name + slot.suffix) for slot in slots]
        if any(module is None for module in modules):
            return []
        return [
            (i, name + slot.suffix, self._delta(net, module, weight))
            for i, (slot, module, weight) in enumerate(zip(slots, modules, weights, strict=True))
        ]

    def _delta(self, net: Any, module: Any, weight: Tensor, third: int | None = None) -> Delta:
        known = self._deltas.setdefault(module, {})
        key = (weight.shape, weight.dtype, net.dyn_dim, third)
        if key not in known:
            delta = delta_of(module, weight.shape, weight.dtype)
            known[key] = delta if third is None else third_of(delta, third, weight.dtype)
            if isinstance(delta, HostFormula):
                self._report(f"network {net.name}: {type(module).__name__} is computed by the host's own code, slowly")
        return known[key]

    def manual_lora_update(self, coefficients: Mapping[str, tuple[float, ...]], names: Names) -> Update:
        """Bring all bound layers to ``coefficients``, and tell the host that ``names`` are in them.

        Modifies the layers' parameters and the host's ``network_current_names`` in place. A layer that already holds
        what is wanted is not touched. A layer whose update fails is marked, so that the host restores and re-patches it
        at its next forward.

        Args:
            coefficients: {a network's key for a layer: one coefficient for each bound network}.
            names: what the host will compare with at the next forward.
        """
        assert self.binding is not None
        start = time.perf_counter()
        if names != () and not self.holds(names):
            self._place_backups(self.binding.touched)
        token: Names = (*names,)
        with kernel.exact_arithmetic():
            updated = sum(
                self._bring(bound.name, bound.layer, bound.contents(coefficients), token)
                for bound in self.binding.touched
            )
            updated += sum(self._bring(name, layer, PRISTINE, token) for name, layer in self.binding.untouched)
        return Update(updated, time.perf_counter() - start)

    def _bring(self, name: str, layer: Layer, wanted: Contents, token: Names) -> bool:
        """Make a layer hold ``wanted`` under the name ``token``. Returns whether its weights were written."""
        if token != () and not self._keep(layer, torch.device("cpu")):  # else the host makes it, and restores the layer
            return False
        if self.contents_of(layer) == wanted:
            self._mark(layer, token, wanted)
            return False
        written = self._update_layer(name, layer, wanted)
        if written:
            self._mark(layer, token, wanted)
        return written

    def contents_of(self, layer: Layer) -> Contents | None:
        """What is known to be in a layer; None if somebody else patched it."""
        names = layer.__dict__.get("network_current_names", ())
        if names == ():
            return PRISTINE
        known = self._contents.get(layer)
        return known[1] if known is not None and known[0] is names else None

    def holds(self, names: Names) -> bool:
        """Whether the weights are as the last update with ``names`` left them: a sample of layers is looked at."""
        if self.binding is None:
            return False
        touched, untouched = self.binding.touched, self.binding.untouched
        sample = [bound.layer for bound in touched[:1] + touched[-1:]] + [layer for _name, layer in untouched[:1]]
        for layer in sample:
            known = self._contents.get(layer)
            if known is None or layer.__dict__.get("network_current_names") is not known[0] or known[0] != names:
                return False
        return True

    def end_pass(self, *, names_are_true: bool) -> None:
        """Let go of the model, and make the host's name cache true for those who do not know of block weights.

        During a pass the host is told that its own names are in the weights. Afterwards a layer whose contents are not
        what those names mean is marked with a name that no network has, so that the host restores it instead of taking
        it for its own.

        Args:
            names_are_true: whether the weights hold just what the host's names say, block weights and schedules apart.
        """
        binding, self.binding = self.binding, None
        if binding is None or names_are_true:
            return
        token: Names = (("LoRA Block Weight", 0.0, 0.0, None),)
        for bound in binding.touched:
            contents = self.contents_of(bound.layer)
            if contents == PRISTINE:
                bound.layer.network_current_names = ()
            elif contents is not None:
                self._mark(bound.layer, token, contents)

    def park(self, layers: Iterable[Layer]) -> None:
        """A model with ``layers`` takes the place of the one in use, the backups of whose layers leave the GPU."""
        current = set(layers)
        for layer in list(self._contents):
            if layer not in current:
                base_weights.move(layer, torch.device("cpu"))

    def release(self) -> None:
        """Leave every layer as if the engine had never run: pristine, without backup, nothing known of it."""
        for layer, (token, _contents) in list(self._contents.items()):
            if getattr(layer, "network_current_names", ()) in ((), token):
                with torch.no_grad():
                    base_weights.restore(layer)
                base_weights.forget(layer)
        self._contents.clear()
        self.binding = None

    def _place_backups(self, touched: Sequence[BoundLayer]) -> None:
        """Put the backups of touched layers on the layers' own device, if there is room for all of them."""
        layers = [bound.layer for bound in touched]
        if not layers or not base_weights.fits(layers, _device(layers[0])):
            return
        with torch.no_grad():
            for layer in layers:
                if self._keep(layer, _device(layer)):
                    base_weights.move(layer, _device(layer))

    def _keep(self, layer: Layer, device: torch.device) -> bool:
        """Whether the layer has a backup, which is made on ``device`` if need be."""
        try:
            base_weights.keep(layer, device)
            return True
        except base_weights.MissingBaseError as error:
            self._report(f"layer {getattr(layer, 'network_layer_name', '?')}: {error}; reload the checkpoint")
            return False

    def _update_layer(self, name: str, layer: Layer, wanted: Contents) -> bool:
        """Bring one layer to ``wanted``. While the write is under way the layer counts as broken, for whoever looks."""
        try:
            self._contents.pop(layer, None)
            layer.network_current_names = (("LoRA Block Weight: unfinished", 0.0, 0.0, None),)
            self._write(layer, wanted)
            return True
        except Exception as error:
            self._report(f"layer {name}: {type(error).__name__}: {error}; the host re-patches it")
            return False

    @staticmethod
    def _write(layer: Layer, wanted: Contents) -> None:
        added: Tensor | None = None
        for index, slot in enumerate(slots_of(layer)):
            terms = [(delta, coefficient) for where, delta, coefficient in wanted if where == index]
            weight = slot.of(_parameter(layer, slot.parameter))
            bias = kernel.update_weight(weight, slot.of(base_weights.origin(layer, slot.parameter, terms != [])), terms)
            if bias is not None and slot.third is None and _bias_fits(layer, bias):  # the host has none for q, k and v
                added = bias
        base = base_weights.bias_origin(layer, added is not None)
        if base is not None:
            base_weights.bias_owner(layer).bias.copy_(base if added is None else base.to(added) + added)

    def _mark(self, layer: Layer, token: Names, contents: Contents) -> None:
        layer.network_current_names = token
        self._contents[layer] = (token, contents)

    def _report(self, message: str) -> None:
        """Say a thing once: the same problem comes back at every layer and step."""
        if message not in self._reported:
            self._reported.add(message)
            logger.warning("LoRA Block Weight: %s", message)


def _parameter(layer: Layer, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    parameter: Tensor = getattr(layer.get_submodule(owner), name)
    return parameter


def _bias_fits(layer: Layer, bias: Tensor) -> bool:
    """The host raises at the next forward where a network gives a bias to a layer that has none."""
    own = getattr(base_weights.bias_owner(layer), "bias", None)
    return own is not None and own.numel() == bias.numel()


def _device(layer: Layer) -> torch.device:
    return _parameter(layer, slots_of(layer)[0].parameter).device
