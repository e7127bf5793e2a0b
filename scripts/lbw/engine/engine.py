"""The engine: brings the layer weights to a step's coefficients, in place, and keeps the host's name cache in step.

It is the only part with state, and the only one that writes weights. Its state is what is in the weights now. Every
weight is computed from the pristine one, so nothing drifts, however often a strength is switched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lbw.engine import base_weights
from lbw.engine.base_weights import Layer, Policy
from lbw.engine.batch import Residence, is_groupable
from lbw.engine.batches import Batches
from lbw.engine.binding import UNFINISHED, Binding, BoundLayer, Names, Record, all_have, bind
from lbw.engine.deltas import Delta, HostFormula, delta_of
from lbw.engine.headroom import Headroom
from lbw.engine.kernels import compiled
from lbw.engine.reach import Reach
from lbw.engine.singles import PRISTINE, Singles, contents_of
from lbw.engine.updates import Update
from lbw.plan.plan import Coefficients

logger = logging.getLogger("lbw")

_OURS: Names = (("LoRA Block Weight", 0.0, 0.0, None),)
"""A name that no network has: the host restores a layer that carries it."""


class LoraEngine:
    """Owns the weights of the host's layers while networks are in use.

    Args:
        policy: where pristine weights live; it counts when they are prepared the next time.
        device: where the model works. Layers that are elsewhere wait until they come there.
        is_grouping: whether many layers may be written together.
    """

    def __init__(
        self, policy: Policy = Policy.AUTO, *, device: torch.device | None = None, is_grouping: bool = True
    ) -> None:
        self.policy = policy
        self.device = torch.device("cpu") if device is None else device
        self.binding: Binding | None = None
        self.waiting: list[BoundLayer] = []
        """Layers that the last update has left until they are on the device, or at work."""
        self.headroom = Headroom(self.device)
        """What room the device has to spare."""
        self._is_grouping = is_grouping
        self._records: WeakKeyDictionary[Layer, Record] = WeakKeyDictionary()
        self._deltas: WeakKeyDictionary[Any, dict[tuple[Any, ...], Delta]] = WeakKeyDictionary()
        self._batches: Batches | None = None
        self._singles: Singles | None = None
        self._reach = Reach(0)
        self._touched: set[BoundLayer] = set()
        self._token: Names = ()
        self._sample: list[dict[str, Any]] | None = None
        """Attributes of some layers that tell whether somebody else has patched layers; None: nothing is known."""
        self._reported: set[str] = set()

    def bind(self, model: Any, layers: Mapping[str, Layer], networks: Sequence[Any]) -> Binding:
        """Join a model's layers with the loaded networks; a repeated call with the same ones returns the same binding.

        Args:
            model: the model that the layers belong to; only its identity counts.
            layers: {the host's layer name: layer}.
            networks: the host's ``Network`` objects, each one once.
        """
        if self.binding is None or not self.binding.is_of(model, networks):
            self._unbind()
            self.binding = bind(model, layers, networks, self._delta, self._records)
            self._reach = Reach(len(networks))
        return self.binding

    def is_bound_to(self, model: Any, networks: Sequence[Any]) -> bool:
        """Whether the binding is for this very model and these very networks."""
        return self.binding is not None and self.binding.is_of(model, networks)

    def _unbind(self) -> None:
        """Layers are brought back to their pristine weights, or, where they are not on the device, remembered."""
        self.settle()
        self.binding, self._batches, self._singles, self.waiting = None, None, None, []

    def _delta(self, net: Any, module: Any, weight: Tensor) -> Delta:
        known = self._deltas.setdefault(module, {})
        key = (weight.shape, weight.dtype, net.dyn_dim)
        if key not in known:
            known[key] = delta_of(module, weight.shape, weight.dtype)
            if isinstance(known[key], HostFormula):
                self._report(f"network {net.name}: {type(module).__name__} is computed by the host's own code, slowly")
        return known[key]

    @property
    def rests(self) -> bool:
        """Whether layers are brought back to their pristine weights when they are no longer at work: on a GPU."""
        return self.device.type == "cuda"

    def begin_pass(self, reach: Coefficients) -> None:
        """A pass begins: what its switches need is made when its layers are first brought to anything.

        Args:
            reach: {a network's key for a layer: the largest magnitude of each coefficient in the pass}.
        """
        assert self.binding is not None
        is_news = self._reach.set(reach)
        if (
            self._batches is None
            or self._batches.is_short != self.headroom.is_short
            or not self._batches.are_in_place()
            or (is_news and not (self._touched_now() <= self._touched and self._batches.reach_as_far()))
        ):
            self._partition()
        self._place_singles()

    def _partition(self) -> None:
        """Say anew which layers are written together."""
        assert self.binding is not None
        self.settle()
        self._touched = self._touched_now()
        can_group = self._is_grouping and compiled.runs_on(self.device)
        together: list[BoundLayer] = []
        others: list[BoundLayer] = []
        for bound in self.binding.layers:
            (together if can_group and bound in self._touched and is_groupable(bound) else others).append(bound)
        self._batches = Batches(together, self._reach, self.device, self._residence, self._report)
        self._batches.is_short = self.headroom.is_short
        self._singles = Singles(others, self.device, self._batches.dissolve, self._report)
        self._place_singles()

    def _place_singles(self) -> None:
        """Say where copies of weights go that are written one by one."""
        assert self._singles is not None
        size = sum(base_weights.size_of(bound.layer) for bound in self._singles.layers if bound in self._touched)
        has_room = not self.headroom.is_short and self._residence(size) is Residence.COPIES
        self._singles.keeps_copies_in_ram = self.device.type == "cuda" and not has_room

    def _touched_now(self) -> set[BoundLayer]:
        """The layers that may get a coefficient other than 0."""
        assert self.binding is not None
        return {bound for bound in self.binding.layers if bound.deltas and self._reach.touches(bound)}

    def _residence(self, size: int) -> Residence:
        """What is kept of weights of so many bytes."""
        if self.policy is Policy.AUTO:
            return Residence.COPIES if self.headroom.may_hold(size) else Residence.CODES
        return {Policy.GPU: Residence.COPIES, Policy.LEAN: Residence.CODES, Policy.RAM: Residence.RAM}[self.policy]

    def manual_lora_update(
        self, coefficients: Mapping[str, tuple[float, ...]], names: Names, *, encodes: bool = True
    ) -> Update:
        """Bring all bound layers to ``coefficients``, and tell the host that ``names`` are in them.

        Modifies the layers' parameters and the host's ``network_current_names`` in place. A layer that already holds
        what is wanted is not touched. One that is not on the device is left as it is, see ``waiting``. A layer whose
        update fails is marked, so that the host restores and re-patches it at its next forward.

        Args:
            coefficients: {a network's key for a layer: one coefficient for each bound network}. Those of a plan are
                the fastest to compare with what is in the weights.
            names: what the host will compare with at the next forward.
            encodes: whether the text encoder is at work; if not, its layers wait.
        """
        assert self.binding is not None
        start = time.perf_counter()
        if not isinstance(coefficients, Coefficients):
            coefficients = Coefficients.of(coefficients)
        if self._token != names:
            self._token = tuple(list(names))
        if not self._reach.cover(coefficients) or self._batches is None:
            self._partition()
        assert self._batches is not None and self._singles is not None

        def is_asleep(bound: BoundLayer) -> bool:
            return not encodes and bound.is_text_encoder

        try:
            with torch.no_grad():
                count, waiting = self._batches.bring(coefficients, self._token, is_asleep)
                if self._batches.refused:
                    self._singles.add(self._batches.refused)
                    self._batches.refused = []
                    self._is_grouping = self._is_grouping and not self._batches.has_failed
                others, also_waiting = self._singles.bring(coefficients, self._token, is_asleep)
        except BaseException:
            for bound in self._touched:
                if bound.attributes.get("network_current_names", ()) != ():
                    bound.attributes["network_current_names"] = UNFINISHED
            raise
        self.waiting = waiting + also_waiting
        self._take_sample()
        return Update(count + others, time.perf_counter() - start)

    def _take_sample(self) -> None:
        """Choose some layers that tell whether somebody else has patched layers: written ones, and one that is not."""
        assert self._batches is not None and self._singles is not None
        waiting = set(self.waiting)
        groups = [batch.layers for batch in self._batches] + [self._singles.layers]
        chosen = [layers[index] for layers in groups if layers for index in (0, -1)]
        self._sample = [bound.attributes for bound in chosen if bound not in waiting]

    def holds(self, names: Names) -> bool:
        """Whether the weights are as the last update with ``names`` left them: a sample of layers is looked at."""
        return self._sample is not None and self._token == names and all_have(self._sample, self._token)

    def settle(self, *, of_text_encoder: bool | None = None) -> None:
        """Bring layers that are written together back to their pristine weights, and give the device's memory back.

        Layers that are not on the device, or are written one by one on a CPU, stay as they are.

        Args:
            of_text_encoder: only those of the text encoder, or only the others.
        """
        if self._batches is None or self._singles is None:
            return
        with torch.no_grad():
            self._batches.settle(of_text_encoder=of_text_encoder)
            if of_text_encoder is not True:
                self._singles.settle()
        self._sample = None

    @property
    def held(self) -> int:
        """Bytes of the device's memory that are held."""
        parts = [each for each in (self._batches, self._singles) if each is not None]
        return sum(each.nbytes for each in parts)

    @property
    def placement(self) -> Policy | None:
        """Where the pristine weights of patched layers are; None if no layer is patched."""
        found = {batch.residence for batch in self._batches or ()}
        if Residence.CODES in found:
            return Policy.LEAN
        if Residence.RAM in found:
            return Policy.RAM
        if Residence.COPIES in found:
            return Policy.GPU
        return None if self._singles is None else self._singles.placement

    def end_pass(self, *, names_are_true: bool) -> None:
        """Make the host's name cache true for those who do not know of block weights.

        During a pass the host is told that its own names are in the weights. Afterwards a layer whose contents are not
        what those names mean is marked with a name that no network has, so that the host restores it instead of taking
        it for its own.

        Args:
            names_are_true: whether the weights hold just what the host's names say, block weights and schedules apart.
        """
        self._sample = None
        if self._batches is None or self._singles is None or names_are_true:
            return
        for batch in self._batches:
            batch.disown(_OURS)
        for bound in self._singles.layers:
            held = contents_of(bound, bound.attributes.get("network_current_names", ())) if bound.deltas else None
            if held is not None:
                bound.record.token = bound.attributes["network_current_names"] = _OURS if held != PRISTINE else ()

    def park(self, model: Any, layers: Iterable[Layer]) -> None:
        """``model`` with ``layers`` is in use now: what is kept of other models' layers leaves the device."""
        if self.binding is not None and not self.binding.is_of_model(model):
            self._unbind()
        current = set(layers)
        others = [(layer, record) for layer, record in self._records.items() if layer not in current]
        with torch.no_grad():
            for batch in {record.batch for _layer, record in others if record.batch is not None}:
                batch.leave()
            for layer, record in others:
                if record.batch is None:
                    base_weights.park(layer)

    def release(self) -> None:
        """Leave every layer as if the engine had never run: pristine, without backup, nothing known of it."""
        with torch.no_grad():
            self.settle()
            records = list(self._records.items())
            for batch in {record.batch for _layer, record in records if record.batch is not None}:
                batch.recover()
            for layer, record in records:
                if layer.__dict__.get("network_current_names", ()) in ((), record.token):
                    base_weights.restore(layer)
                    base_weights.forget(layer)
        self._records.clear()
        self.binding, self._batches, self._singles, self.waiting = None, None, None, []

    def _report(self, message: str) -> None:
        """Say a thing once: the same problem comes back at every layer and step."""
        if message not in self._reported:
            self._reported.add(message)
            logger.warning("LoRA Block Weight: %s", message)
