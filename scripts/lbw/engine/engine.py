"""The engine: brings the layer weights to a step's coefficients, in place, and keeps the ledger in step.

It is the only part with state, and the only one that writes weights. Its state is what is in the weights now. Every
weight is computed from the pristine one, so nothing drifts, however often a strength is switched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lbw.engine import base_weights
from lbw.engine.base_weights import Policy
from lbw.engine.batch import Residence
from lbw.engine.batches import dissolve, leave
from lbw.engine.binding import Binding, BoundLayer, Record, bind
from lbw.engine.deltas import Delta
from lbw.engine.headroom import Headroom
from lbw.engine.ledger import UNFINISHED, Ledger, Names, Page, Pages
from lbw.engine.parameters import Layer, is_on
from lbw.engine.partition import Partition, touched
from lbw.engine.parts import Network, Parts
from lbw.engine.reach import Reach
from lbw.engine.updates import Update
from lbw.plan.plan import Coefficients

logger = logging.getLogger("lbw")


class LoraEngine:
    """Owns the weights of the host's layers while networks are in use.

    Args:
        ledger: where it is noted what is in a layer.
        parts: where the parts of networks come from.
        policy: where pristine weights live; it counts when they are prepared the next time.
        device: where the model works. Layers that are elsewhere wait until they come there.
        is_grouping: whether many layers may be written together.
    """

    def __init__(
        self,
        ledger: Ledger,
        parts: Parts,
        policy: Policy = Policy.AUTO,
        *,
        device: torch.device | None = None,
        is_grouping: bool = True,
    ) -> None:
        self.policy = policy
        self.device = torch.device("cpu") if device is None else device
        self.binding: Binding | None = None
        self.headroom = Headroom(self.device)
        """What room the device has to spare."""
        self._ledger, self._parts, self._is_grouping = ledger, parts, is_grouping
        # Hosts with books of their own work in inference mode, and what is made there cannot be changed elsewhere.
        self._guard = torch.no_grad if ledger.is_shared else torch.inference_mode
        self._records: WeakKeyDictionary[Layer, Record] = WeakKeyDictionary()
        self._partition: Partition | None = None
        self._reach = Reach(0)
        self._token: Names = ()
        self._sample: Pages | None = None
        """Some layers that tell whether somebody else has patched layers; None: nothing is known."""
        self._reported: set[str] = set()

    def bind(self, model: Any, layers: Mapping[str, Layer], networks: Sequence[Network]) -> Binding:
        """Join a model's layers with the loaded networks; a repeated call with the same ones returns the same binding.

        Args:
            model: the model that the layers belong to; only its identity counts.
            layers: {the host's layer name: layer}.
            networks: the host's objects for them, each one once.
        """
        if not self.is_bound_to(model, networks):
            self.unbind()
            self.binding = bind(model, layers, networks, self._ledger, self._parts, self._delta, self._records)
            self._reach = Reach(len(networks))
        assert self.binding is not None
        return self.binding

    def keys_of(self, network: Network) -> Iterable[str]:
        """The keys of all parts of a network."""
        return self._parts.keys(network)

    def has_own_parts(self, network: Network) -> bool:
        """Whether some of them are known to us alone, so that the host cannot bring a layer to the whole network."""
        return self._parts.has_own(network)

    def has_broken_parts(self, network: Network) -> bool:
        """Whether some of them hold numbers that are none, and are left out, which the host would not do."""
        return self._parts.has_faults(network)

    def is_bound_to(self, model: Any, networks: Sequence[Any]) -> bool:
        """Whether the binding is for this very model and these very networks, as they are now."""
        return self.binding is not None and self.binding.is_of(model, networks, [*map(self._parts.form, networks)])

    def unbind(self) -> None:
        """Hold on to no model and no network. Layers are brought back to their pristine weights, or, where they are not
        on the device, remembered."""
        self.settle()
        self.binding = self._partition = None

    def _delta(self, net: Network, part: Any, weight: Tensor) -> Delta:
        return self._parts.delta(net, part, weight.shape, weight.dtype)

    @property
    def rests(self) -> bool:
        """Whether layers are brought back to their pristine weights when they are no longer at work."""
        return self.device.type == "cuda" or not self._ledger.is_shared

    def begin_pass(self, reach: Coefficients) -> None:
        """A pass begins: what its switches need is made when its layers are first brought to anything.

        Args:
            reach: {a network's key for a layer: the largest magnitude of each coefficient in the pass}.
        """
        assert self.binding is not None
        has_changed, partition = self._reach.set(reach), self._partition
        if (
            partition is None
            or not partition.is_as_wanted(is_short=self.headroom.is_short)
            or (has_changed and not self._reaches_as_far(partition))
        ):
            self._repartition()
        else:
            partition.place_singles(is_short=self.headroom.is_short)

    def _reaches_as_far(self, partition: Partition) -> bool:
        """Whether it was made for what the layers may get now."""
        assert self.binding is not None
        return touched(self.binding.layers, self._reach) <= partition.touched and partition.batches.reach_as_far()

    def _repartition(self) -> Partition:
        """Say anew which layers are written together."""
        assert self.binding is not None
        self.settle()
        is_short = self.headroom.is_short
        self._is_grouping = self._is_grouping and not (self._partition and self._partition.batches.has_failed)
        self._partition = Partition(
            self.binding.layers, self._reach, self.device,
            is_grouping=self._is_grouping, is_short=is_short, guard=self._guard,
            residence=self._residence, report=self._report,
        )  # fmt: skip
        self._partition.place_singles(is_short=is_short)
        return self._partition

    def _residence(self, size: int) -> Residence:
        """What is kept of weights of so many bytes."""
        if self.policy is Policy.AUTO:
            return Residence.COPIES if self.headroom.may_hold(size) else Residence.CODES
        return {Policy.GPU: Residence.COPIES, Policy.LEAN: Residence.CODES, Policy.RAM: Residence.RAM}[self.policy]

    def manual_lora_update(
        self, coefficients: Mapping[str, tuple[float, ...]], names: Names, *, encodes: bool = True, samples: bool = True
    ) -> Update:
        """Bring all bound layers to ``coefficients``, and tell the host that ``names`` are in them.

        Modifies the layers' parameters and their pages in the ledger in place. A layer that already holds what is
        wanted is not touched. One that is not on the device is left as it is, see ``waiting``. A layer whose update
        fails is marked, so that a host that shares the ledger restores and re-patches it at its next forward; for
        others, see ``failed``.

        Args:
            coefficients: {a network's key for a layer: one coefficient for each bound network}. Those of a plan are
                the fastest to compare with what is in the weights.
            names: what the host will compare with at the next forward.
            encodes: whether the text encoder is at work; if not, its layers wait.
            samples: the same for all other layers.
        """
        assert self.binding is not None
        start = time.perf_counter()
        if not isinstance(coefficients, Coefficients):
            coefficients = Coefficients.of(coefficients)
        if self._token != names:
            self._token = tuple(list(names))
        partition = self._partition
        if not self._reach.cover(coefficients) or partition is None or partition.is_broken:
            partition = self._repartition()

        def is_asleep(bound: BoundLayer) -> bool:
            return not (encodes if bound.is_text_encoder else samples)

        count = partition.bring(coefficients, self._token, is_asleep)
        self._sample = partition.sample()
        return Update(count, time.perf_counter() - start)

    def unwritable(self, layers: Mapping[str, Layer]) -> dict[str, Layer]:
        """Those of the layers that are not among the bound ones, as their weights cannot be written."""
        assert self.binding is not None
        bound = {each.layer for each in self.binding.layers}
        return {name: layer for name, layer in layers.items() if layer not in bound}

    @property
    def waiting(self) -> list[BoundLayer]:
        """Layers that the last update has left until they are on the device, or at work."""
        return [] if self._partition is None else self._partition.waiting

    @property
    def failed(self) -> list[BoundLayer]:
        """Layers that could not be written and that nobody else brings to anything: they are as without networks."""
        return [] if self._partition is None else list(self._partition.failed)

    def write_where_they_are(self, keys: Collection[str]) -> bool:
        """Have waiting layers with these keys written on the CPU, where they are, from the next update on. Returns
        whether there are any."""
        return self._partition is not None and self._partition.write_where_they_are(keys)

    @property
    def works_elsewhere(self) -> bool:
        """Whether layers that may be changed, but for the text encoder's, are not on the device."""
        layers = () if self._partition is None else self._partition.touched
        return any(not bound.is_text_encoder and not is_on(self.device, bound.layer) for bound in layers)

    def holds(self, names: Names) -> bool:
        """Whether the weights are as the last update with ``names`` left them: a sample of layers is looked at."""
        return self._sample is not None and self._token == names and self._sample.have(self._token)

    def settle(self, *, of_text_encoder: bool | None = None) -> None:
        """Bring layers that are written together back to their pristine weights, and give the device's memory back.

        Layers that are not on the device stay as they are, and those that are written one by one on a CPU, if the host
        restores them itself.

        Args:
            of_text_encoder: only those of the text encoder, or only the others.
        """
        if self._partition is not None:
            self._partition.settle(of_text_encoder=of_text_encoder)
            self._sample = None

    @property
    def held(self) -> int:
        """Bytes of the device's memory that are held."""
        return 0 if self._partition is None else self._partition.nbytes

    @property
    def placement(self) -> Policy | None:
        """Where the pristine weights of patched layers are; None if no layer is patched."""
        return None if self._partition is None else self._partition.placement

    def end_pass(self, *, names_are_true: bool) -> None:
        """Make the host's name cache true for those who do not know of block weights.

        During a pass the host is told that its own names are in the weights. Afterwards a layer whose contents are not
        what those names mean is marked with a name that no network has, so that the host restores it instead of taking
        it for its own.

        Args:
            names_are_true: whether the weights hold just what the host's names say, block weights and schedules apart.
        """
        self._sample = None
        if self._partition is not None and not names_are_true:
            self._partition.disown()

    def park(self, model: Any, layers: Iterable[Layer]) -> None:
        """``model`` with ``layers`` is in use now: what is kept of other models' layers leaves the device."""
        if self.binding is not None and not self.binding.is_of_model(model):
            self.unbind()
        current = set(layers)
        others = [(layer, record) for layer, record in self._records.items() if layer not in current]
        with self._guard():
            for batch in {record.batch for _layer, record in others if record.batch is not None}:
                leave(batch, self._report)
            for layer, record in others:
                if record.batch is None:
                    base_weights.park(Page(layer, self._ledger))

    def release(self) -> None:
        """Leave every layer as if the engine had never run: pristine, without backup, nothing known of it."""
        with self._guard():
            self.settle()
            records = list(self._records.items())
            for batch in {record.batch for _layer, record in records if record.batch is not None}:
                dissolve(batch, self._report)
            for layer, record in records:
                page = Page(layer, self._ledger)
                if page.names in ((), record.token) or (page.names == UNFINISHED and record.batch is None):
                    try:
                        base_weights.restore(page)
                    except Exception as error:
                        page.names = UNFINISHED
                        self._report(f"a layer cannot be restored: {type(error).__name__}: {error}")
                        continue
                    page.clear()
                if page.names == () or record.batch is None:
                    del self._records[layer]
        self.binding = self._partition = None

    def _report(self, message: str) -> None:
        """Say a thing once: the same problem comes back at every layer and step."""
        if message not in self._reported:
            self._reported.add(message)
            logger.warning("LoRA Block Weight: %s", message)
