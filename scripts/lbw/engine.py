"""The engine: brings the layer weights to a step's coefficients, in place, and keeps the host's name cache in step.

It is the only part with state, and the only one that writes weights. Its state is what is in the weights now. Every
weight is computed from the pristine one, so nothing drifts, however often a strength is switched.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lbw import base_weights
from lbw.base_weights import Layer, Policy
from lbw.batch import Batch, is_groupable
from lbw.binding import Binding, BoundLayer, Contents, Holding, Names, Record, Value, all_have, bind, contents
from lbw.cohort import Cohort, Job
from lbw.deltas import Delta, HostFormula, delta_of
from lbw.factors import FactorStore
from lbw.kernels import torch as kernel
from lbw.plan import Coefficients
from lbw.recoverable import make_recoverable
from lbw.single import write
from lbw.updates import Update

logger = logging.getLogger("lbw")

PRISTINE: Contents = ()

_BATCHES_KEPT = 8
"""Sets of layers that change together: as many as a pass with several schedules has, in turn."""

_UNFINISHED: Names = (("LoRA Block Weight: unfinished", 0.0, 0.0, None),)
_OURS: Names = (("LoRA Block Weight", 0.0, 0.0, None),)
"""Names that no network has: the host restores a layer that carries them."""


class LoraEngine:
    """Owns the weights of the host's layers while networks are in use.

    Args:
        policy: where pristine weights live; it may be changed between two updates.
        is_grouping: whether many layers may be written together.
    """

    def __init__(self, policy: Policy = Policy.AUTO, *, is_grouping: bool = True) -> None:
        self.policy = policy
        self.placement: Policy | None = None
        """Where the pristine weights of the last written layers are; None before the first write."""
        self.binding: Binding | None = None
        self._is_grouping = is_grouping
        self._records: WeakKeyDictionary[Layer, Record] = WeakKeyDictionary()
        self._deltas: WeakKeyDictionary[Any, dict[tuple[Any, ...], Delta]] = WeakKeyDictionary()
        self._factors = FactorStore()
        self._token: Names = ()
        self._sample: list[dict[str, Any]] = []
        self._to_sample: list[dict[str, Any]] = []
        self._is_short_of_memory = False
        self._cohorts: list[Cohort] = []
        self._cohorts_of: Mapping[str, int] | None = None
        self._batches: OrderedDict[tuple[Any, ...], Batch] = OrderedDict()
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
            self._to_sample = self.binding.sample()
        return self.binding

    def is_bound_to(self, model: Any, networks: Sequence[Any]) -> bool:
        """Whether the binding is for this very model and these very networks."""
        return self.binding is not None and self.binding.is_of(model, networks)

    def _unbind(self) -> None:
        self.binding = None
        self._is_short_of_memory = False
        self._cohorts, self._cohorts_of = [], None
        self._batches.clear()

    def _delta(self, net: Any, module: Any, weight: Tensor) -> Delta:
        known = self._deltas.setdefault(module, {})
        key = (weight.shape, weight.dtype, net.dyn_dim)
        if key not in known:
            known[key] = delta_of(module, weight.shape, weight.dtype)
            if isinstance(known[key], HostFormula):
                self._report(f"network {net.name}: {type(module).__name__} is computed by the host's own code, slowly")
        return known[key]

    def manual_lora_update(self, coefficients: Mapping[str, tuple[float, ...]], names: Names) -> Update:
        """Bring all bound layers to ``coefficients``, and tell the host that ``names`` are in them.

        Modifies the layers' parameters and the host's ``network_current_names`` in place. A layer that already holds
        what is wanted is not touched. A layer whose update fails is marked, so that the host restores and re-patches it
        at its next forward.

        Args:
            coefficients: {a network's key for a layer: one coefficient for each bound network}. Those of a plan are
                the fastest to compare with what is in the weights.
            names: what the host will compare with at the next forward.
        """
        assert self.binding is not None
        start = time.perf_counter()
        if not isinstance(coefficients, Coefficients):
            coefficients = Coefficients.of(coefficients)
        if self._token != names:
            self._token = tuple(list(names))
        values = coefficients.values_of_groups
        absent = (0.0,) * (len(values[0]) if values else 0)
        jobs, updated = [], 0
        for cohort in self._cohorts_for(coefficients.groups):
            value = tuple(absent if group is None else values[group] for group in cohort.groups)
            job = Job(cohort, self._stale(cohort, value), value)
            if job.layers:
                jobs.append(job)
            elif not cohort.is_joined:
                cohort.join(self._token, value)
        if jobs:
            updated = self._write_all(jobs)
        self._sample = self._to_sample
        return Update(updated, time.perf_counter() - start)

    def _stale(self, cohort: Cohort, value: Value) -> list[BoundLayer]:
        """The layers of a cohort that have to be written. The others get the names that the host will want."""
        if self._token != () and cohort.may_have(self._token):
            if cohort.holding.value != value:
                return cohort.layers  # whether all have the names is seen just before they are written
            if cohort.still_has(self._token):
                return []
        return self._stale_ones(cohort, value)

    def _stale_ones(self, cohort: Cohort, value: Value) -> list[BoundLayer]:
        """As :meth:`_stale`, layer by layer: each may have been patched by somebody else."""
        cohort.is_joined = False
        stale = []
        for bound in cohort.layers:
            if self._keep(bound.layer):
                held = self._contents(bound, bound.attributes.get("network_current_names", ()))
                if held is None:
                    self._forget_bias(bound)
                if held == contents(bound.deltas, value):
                    self._mark(bound, value)
                else:
                    stale.append(bound)
        return stale

    @staticmethod
    def _forget_bias(bound: BoundLayer) -> None:
        """Somebody else patched the layer, and nobody knows whether its bias too."""
        with torch.no_grad():
            base_weights.restore_bias(bound.layer)
        bound.record.bias_is_changed = False

    def _cohorts_for(self, groups: Mapping[str, int]) -> Sequence[Cohort]:
        assert self.binding is not None
        if self._cohorts_of is not groups:
            members: dict[tuple[int | None, ...], list[BoundLayer]] = {}
            for bound in self.binding.layers:
                members.setdefault(tuple(groups.get(key) for key in bound.keys), []).append(bound)
            known = {tuple(map(id, cohort.layers)): cohort for cohort in self._cohorts}
            self._cohorts, self._cohorts_of = [], groups
            for key, layers in members.items():
                cohort = known.get(tuple(map(id, layers))) or Cohort(key, layers, [each.attributes for each in layers])
                cohort.groups = key
                self._cohorts.append(cohort)
        return self._cohorts

    @staticmethod
    def _contents(bound: BoundLayer, names: Names) -> Contents | None:
        """What is known to be in a layer with these names; None if somebody else patched it."""
        if names == ():
            return PRISTINE
        return bound.record.contents if bound.record.token is names else None

    def _mark(self, bound: BoundLayer, value: Value) -> None:
        """Note that a layer holds ``value``, and tell the host that it holds what the host wants."""
        record = bound.record
        record.token, record.deltas, record.holding = self._token, bound.deltas, Holding(value)
        bound.attributes["network_current_names"] = self._token

    def _keep(self, layer: Layer) -> bool:
        """Whether the layer has backups, which the host wants wherever it sees names."""
        try:
            if self._token != () or layer.__dict__.get("network_current_names", ()) != ():
                base_weights.keep(layer)
            return True
        except base_weights.MissingBaseError as error:
            self._report(f"layer {getattr(layer, 'network_layer_name', '?')}: {error}; reload the checkpoint")
            return False

    def _write_all(self, jobs: Sequence[Job]) -> int:
        """Write layers. Returns how many succeeded."""
        with torch.no_grad():
            jobs, singles = self._launch(jobs)
            with kernel.exact_arithmetic() if singles else nullcontext():
                failed = sum(self._finish(job, singles) for job in jobs)
        return sum(len(job.layers) for job in jobs) - failed

    def _looked_at_again(self, jobs: Sequence[Job], doubtful: Sequence[Job]) -> list[Job]:
        """The jobs that are left when the layers of the ``doubtful`` ones are looked at one by one."""
        for job in doubtful:
            job.layers = self._stale_ones(job.cohort, job.value)
        return [job for job in jobs if job.layers]

    def _finish(self, job: Job, singles: set[BoundLayer]) -> int:
        """Note what was launched, and write the layers that are left. Returns how many failed."""
        if job.cohort.is_joined and (not singles or singles.isdisjoint(job.layers)):
            job.cohort.holding.value = job.value
            return 0
        job.cohort.is_joined = False
        failed = 0
        for bound in job.layers:
            if bound not in singles:
                self._mark(bound, job.value)
            elif not self._write_single(bound, job.value):
                failed += 1
        job.cohort.join(self._token, job.value)
        return failed

    def _launch(self, jobs: Sequence[Job]) -> tuple[Sequence[Job], set[BoundLayer]]:
        """Write what can be written together. Returns the jobs, and those of their layers that are left."""
        has_moved = False
        while jobs:
            try:
                values = [job.value for job in jobs]
                batch = self._known_batch(jobs, values)
                if batch is None:
                    doubtful = [job for job in jobs if job.cohort.is_joined and not job.cohort.still_has(self._token)]
                    if doubtful:
                        jobs = self._looked_at_again(jobs, doubtful)
                        continue
                    batch = self._new_batch(jobs)
                are_joined = all(job.cohort.is_joined for job in jobs)
                shared = [job.cohort.holding if are_joined else None for job in jobs]
                if batch.launch(values, shared, self._token if are_joined else None):
                    return jobs, batch.singles
                self._batches.clear()
                if has_moved:
                    raise RuntimeError("weights move while they are written")
                has_moved = True
                jobs = self._looked_at_again(jobs, jobs)
            except BaseException as error:
                for job in jobs:
                    job.cohort.is_joined = False
                    for bound in job.layers:
                        bound.attributes["network_current_names"] = _UNFINISHED
                if not isinstance(error, Exception):
                    raise
                if isinstance(error, torch.cuda.OutOfMemoryError) and self._make_room():
                    continue
                self._report(f"layers are updated more slowly from now on: {type(error).__name__}: {error}")
                self._batches.clear()
                if not self._is_grouping:
                    return jobs, {bound for job in jobs for bound in job.layers}
                self._is_grouping = False
        return jobs, set()

    def _key(self, jobs: Sequence[Job]) -> tuple[Any, ...]:
        return self._current_policy, *(id(job.layers) for job in jobs)

    @property
    def _current_policy(self) -> Policy:
        return Policy.RAM if self._is_short_of_memory else self.policy

    def _known_batch(self, jobs: Sequence[Job], values: Sequence[Value]) -> Batch | None:
        """The batch for these layers, if it is one of the last ones, and can do it."""
        key = self._key(jobs)
        batch = self._batches.pop(key, None)
        if batch is None or not batch.allows(values):
            return None
        self._batches[key] = batch
        return batch

    def _new_batch(self, jobs: Sequence[Job]) -> Batch:
        self.placement = self._place(jobs, self._current_policy)
        with kernel.exact_arithmetic():  # some factors are derived from the pristine weights
            batch = Batch([job.layers for job in jobs], self._factors, is_grouping=self._is_grouping)
        self._batches[self._key(jobs)] = batch
        if len(self._batches) > _BATCHES_KEPT:
            self._batches.popitem(last=False)
        return batch

    def _place(self, jobs: Sequence[Job], policy: Policy) -> Policy:
        """See to it that the pristine weights of layers survive what is about to be written. Returns where they are."""
        layers = [bound.layer for job in jobs for bound in job.layers]
        if policy is Policy.AUTO:
            policy = Policy.GPU if base_weights.fit(layers) else Policy.LEAN
        if policy is not Policy.LEAN:
            return base_weights.place(layers, policy)
        others = []
        for job in jobs:
            job.cohort.is_joined = False
            for bound in job.layers:
                if not (self._is_grouping and is_groupable(bound) and make_recoverable(bound, job.value)):
                    others.append(bound.layer)
        base_weights.place(others, Policy.RAM)
        return Policy.LEAN if len(others) < len(layers) else Policy.RAM

    def relieve(self) -> None:
        """A pass begins: make room for it, if the GPU is short of memory and the policy leaves it to us."""
        if self.binding is None or self.policy is not Policy.AUTO or self.placement is not Policy.GPU:
            return
        if base_weights.is_short(bound.layer for bound in self.binding.layers):
            self._make_room()

    def _make_room(self) -> bool:
        """The GPU's memory is short: free what can be made again. Returns whether there was anything to free."""
        if self._is_short_of_memory:
            return False
        assert self.binding is not None
        self._is_short_of_memory = True
        self._batches.clear()
        self._factors.clear()
        self.placement = base_weights.place([each.layer for each in self.binding.layers if each.deltas], Policy.RAM)
        self._report("the GPU's memory is short: pristine weights move to RAM, switches get slower")
        return True

    def _write_single(self, bound: BoundLayer, value: Value) -> bool:
        """Write one layer. If that fails it stays marked, and the host restores and re-patches it."""
        try:
            bound.attributes["network_current_names"] = _UNFINISHED
            write(bound, contents(bound.deltas, value))
            self._mark(bound, value)
            return True
        except torch.cuda.OutOfMemoryError as error:
            if self._make_room():
                return self._write_single(bound, value)
            self._report(f"layer {bound.keys[0]}: {error}; the host re-patches it")
            return False
        except Exception as error:
            self._report(f"layer {bound.keys[0]}: {type(error).__name__}: {error}; the host re-patches it")
            return False

    def holds(self, names: Names) -> bool:
        """Whether the weights are as the last update with ``names`` left them: a sample of layers is looked at."""
        return self._token == names and all_have(self._sample, self._token)

    def end_pass(self, *, names_are_true: bool) -> None:
        """Make the host's name cache true for those who do not know of block weights.

        During a pass the host is told that its own names are in the weights. Afterwards a layer whose contents are not
        what those names mean is marked with a name that no network has, so that the host restores it instead of taking
        it for its own.

        Args:
            names_are_true: whether the weights hold just what the host's names say, block weights and schedules apart.
        """
        self._sample = []
        if self.binding is None or names_are_true:
            return
        for bound in self.binding.layers:
            held = self._contents(bound, bound.attributes.get("network_current_names", ())) if bound.deltas else None
            if held is not None:
                bound.record.token = bound.attributes["network_current_names"] = _OURS if held != PRISTINE else ()

    def park(self, model: Any, layers: Iterable[Layer]) -> None:
        """``model`` with ``layers`` is in use now: the pristine copies of other models' layers leave the GPU."""
        if self.binding is not None and not self.binding.is_of_model(model):
            self._unbind()
        current = set(layers)
        for layer in list(self._records):
            if layer not in current:
                base_weights.park(layer)

    def release(self) -> None:
        """Leave every layer as if the engine had never run: pristine, without backup, nothing known of it."""
        for layer, record in list(self._records.items()):
            if layer.__dict__.get("network_current_names", ()) in ((), record.token):
                with torch.no_grad():
                    base_weights.restore(layer)
                base_weights.forget(layer)
        self._records.clear()
        self._unbind()

    def _report(self, message: str) -> None:
        """Say a thing once: the same problem comes back at every layer and step."""
        if message not in self._reported:
            self._reported.add(message)
            logger.warning("LoRA Block Weight: %s", message)
