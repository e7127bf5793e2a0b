"""Layers that are written one by one, by torch: what ``batch.py`` does for many, for every device and delta."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from lbw.engine import base_weights
from lbw.engine.base_weights import Policy
from lbw.engine.binding import BoundLayer, Contents, Holding, Value, bias_fits, contents
from lbw.engine.cohort import Cohort, cohorts_of
from lbw.engine.kernels import torch as kernel
from lbw.engine.ledger import UNFINISHED, Names, Page
from lbw.engine.parameters import bias_of, device_of, is_on, parameter_of, targets_of
from lbw.engine.pinned_memory import PinnedMemory
from lbw.engine.stand_ins import MissingBaseError
from lbw.plan.plan import Coefficients

PRISTINE: Contents = ()

_CPU = torch.device("cpu")


class Singles:
    """Layers of a binding that no kernel for many weights takes, or that nothing changes.

    Args:
        device: where the model works.
        dissolve: has a batch that an earlier binding has left bring its layers back to their pristine weights.
        report: says a thing once.
    """

    def __init__(
        self,
        layers: Sequence[BoundLayer],
        device: torch.device,
        dissolve: Callable[[Any], None],
        report: Callable[[str], None],
    ) -> None:
        self.layers = list(layers)
        self.keeps_copies_in_ram = False
        """Whether copies of weights that are on a GPU go to RAM; else they stand beside the weights."""
        self._device, self._dissolve, self._report = device, dissolve, report
        self.failed: set[BoundLayer] = set()
        """Layers that could not be written the last time, and are as without networks."""
        self._told: set[str] = set()
        """How layers could not be written."""
        self._anywhere: set[BoundLayer] = set()
        self._memory = PinnedMemory()
        self._cohorts: list[Cohort] = []
        self._groups: Mapping[str, int] | None = None

    def add(self, layers: Sequence[BoundLayer]) -> None:
        """Layers that a batch has refused."""
        self.layers += layers
        self._groups = None

    def write_anywhere(self, layers: Sequence[BoundLayer]) -> None:
        """Layers that are written where they are, whether that is the device or not."""
        self._anywhere.update(layers)
        known = set(self.layers)
        self.add([bound for bound in layers if bound not in known])

    def bring(
        self, coefficients: Coefficients, token: Names, is_asleep: Callable[[BoundLayer], bool]
    ) -> tuple[int, list[BoundLayer]]:
        """Bring the layers to coefficients, and tell the host of it.

        Args:
            token: what the host is told.
            is_asleep: whether a layer is not at work, and can wait.

        Returns:
            How many have been written, and those that are waiting until they are on the device.
        """
        if self._groups is not coefficients.groups:
            self._groups = coefficients.groups
            self._cohorts = cohorts_of(self.layers, self._groups, self._cohorts)
        waiting: list[BoundLayer] = []
        count = 0
        for cohort in self._cohorts:
            value = cohort.wanted(coefficients)
            if cohort.is_joined and cohort.holding.value == value and cohort.still_has(token):
                continue
            cohort.part()
            late = {bound for bound in cohort.layers if self._is_left_in_batch(bound, is_asleep)}
            stale = [bound for bound in cohort.layers if bound not in late and self._is_stale(bound, value, token)]
            late |= {bound for bound in stale if is_asleep(bound) or not self._can_be_written(bound, value)}
            self._restore_those_that_left(late)
            waiting += late
            written = self._write([bound for bound in stale if bound not in late], value, token)
            count += written
            if written == len(stale) and not late:
                cohort.join(token, value)
        return count, waiting

    def _restore_those_that_left(self, late: Iterable[BoundLayer]) -> None:
        """A host that keeps no book of layers takes those that have left the device for pristine ones, and adds there
        in their forwards what networks have."""
        for bound in late:
            if not (bound.page.ledger.is_shared or bound.record.batch or is_on(self._device, bound.layer)):
                self._restore(bound)

    def _is_left_in_batch(self, bound: BoundLayer, is_asleep: Callable[[BoundLayer], bool]) -> bool:
        """Whether a layer waits in a batch of an earlier binding, from which alone its pristine weight can be had."""
        if bound.record.batch is not None and is_on(self._device, bound.layer) and not is_asleep(bound):
            self._dissolve(bound.record.batch)
        return bound.record.batch is not None

    def _can_be_written(self, bound: BoundLayer, value: Value) -> bool:
        """A layer that waits for its turn on the GPU is left alone, unless it only has to be restored."""
        is_here = bound in self._anywhere or is_on(self._device, bound.layer)
        return is_here or not contents(bound.deltas, value)

    def _is_stale(self, bound: BoundLayer, value: Value, token: Names) -> bool:
        """Whether a layer has to be written. If not, the host is told."""
        if token != () or bound.page.names != ():
            try:
                base_weights.keep(bound.page)
            except MissingBaseError as error:
                self._report(f"layer {bound.keys[0]}: {error}; reload the checkpoint")
                return False
        held = contents_of(bound)
        if held is None:  # somebody else patched the layer, and nobody knows whether its bias too
            with torch.no_grad():
                base_weights.restore_bias(bound.page)
            bound.record.bias_is_changed = False
        if held == contents(bound.deltas, value):
            mark(bound, value, token)
            return False
        return True

    def _write(self, layers: Sequence[BoundLayer], value: Value, token: Names) -> int:
        """Write layers. Returns how many succeeded; the others stay marked, so that a host that shares the ledger
        restores and re-patches them."""
        if not layers:
            return 0
        succeeded = 0
        with kernel.exact_arithmetic():
            self._place([bound.page for bound in layers if contents(bound.deltas, value)])
            for bound in layers:
                bound.page.names = UNFINISHED
                try:
                    self._write_one(bound, contents(bound.deltas, value))
                except Exception as error:
                    is_shared = bound.page.ledger.is_shared
                    then = "it is restored before use" if is_shared else "it is written once more"
                    self._report_failure(bound, f"{type(error).__name__}: {error}; {then}")
                    if is_shared:
                        continue
                    if not self._write_again(bound, contents(bound.deltas, value)):
                        self.failed.add(bound)
                        continue
                mark(bound, value, token)
                self.failed.discard(bound)
                succeeded += 1
        return succeeded

    def _report_failure(self, bound: BoundLayer, message: str) -> None:
        """For the first of the layers that fail in the same way: there may be hundreds."""
        if message not in self._told:
            self._told.add(message)
            self._report(f"layer {bound.keys[0]}, and maybe more: {message}")

    def _write_again(self, bound: BoundLayer, wanted: Contents) -> bool:
        """Where nobody else restores a layer that could not be written: try once more, and leave it pristine then.
        Returns whether that succeeded."""
        try:
            self._write_one(bound, wanted)
            return True
        except Exception:
            self._restore(bound)
            return False

    def _restore(self, bound: BoundLayer) -> None:
        base_weights.restore(bound.page)
        bound.record.bias_is_changed = False
        bound.record.token, bound.record.holding = (), Holding()
        bound.page.names = ()
        base_weights.drop_copies(bound.page)

    def _place(self, pages: Sequence[Page]) -> None:
        """Have copies of weights where they should be."""
        try:
            base_weights.place(pages, _CPU if self.keeps_copies_in_ram else None, self._memory)
        except torch.cuda.OutOfMemoryError:
            self.keeps_copies_in_ram = True
            base_weights.place(pages, _CPU, self._memory)

    def _write_one(self, bound: BoundLayer, wanted: Contents) -> None:
        """Where the GPU has no room for it, the CPU computes it."""
        try:
            write(bound, wanted)
        except torch.cuda.OutOfMemoryError as error:
            self._report(f"the CPU computes some layers, slowly, as the GPU's memory is short: {error}")
            self.keeps_copies_in_ram = True
            self._place([bound.page])
            write(bound, wanted, _CPU)

    def settle(self, *, of_text_encoder: bool | None = None) -> None:
        """Bring layers that are on a GPU back to their pristine weights, and give back what is kept of them there.
        Those on a CPU, too, if the host does not restore them by itself.

        Args:
            of_text_encoder: only those of the text encoder, or only the others.
        """
        with kernel.exact_arithmetic():
            for bound in self.layers:
                if of_text_encoder not in (None, bound.is_text_encoder):
                    continue
                if contents_of(bound) is None and bound.page.ledger.is_shared:
                    continue
                is_ours_to_restore = device_of(bound.layer).type == "cuda" or not bound.page.ledger.is_shared
                if is_ours_to_restore and bound.page.names != ():
                    self._restore(bound)
                leave_gpu(bound)
        self._groups = None

    @property
    def placement(self) -> Policy | None:
        """Where copies of weights are; None if no layer is patched."""
        is_patched = any(contents_of(bound) for bound in self.layers)
        return None if not is_patched else Policy.RAM if self.keeps_copies_in_ram else Policy.GPU

    @property
    def nbytes(self) -> int:
        """What copies of weights take of the GPU's memory."""
        return sum(copied.nbytes for copied in base_weights.copies_on_gpu([bound.page for bound in self.layers]))


def contents_of(bound: BoundLayer) -> Contents | None:
    """What is known to be in a layer; None if somebody else patched it."""
    names = bound.page.names
    if names == ():
        return PRISTINE
    return bound.record.contents if bound.record.token is names else None


def mark(bound: BoundLayer, value: Value, token: Names) -> None:
    """Note that a layer holds ``value``, and tell the host that it holds what the host wants."""
    record = bound.record
    record.token, record.deltas, record.holding = token, bound.deltas, Holding(value)
    bound.page.names = token


def write(bound: BoundLayer, wanted: Contents, device: torch.device | None = None) -> None:
    """Write ``wanted`` into a layer: weights, and the bias where one was or is to be changed.

    Args:
        device: where it is computed; None for where the layer is.
    """
    layer, page, added = bound.layer, bound.page, None
    targets = [
        (slot, [(delta, coefficient) for index, delta, coefficient in wanted if index in members])
        for slot, members in targets_of(bound.slots)
    ]
    origins = [base_weights.origin(page, slot.parameter, is_changed=terms != []) for slot, terms in targets]
    for (slot, terms), origin in zip(targets, origins, strict=True):
        bias = kernel.update_weight(slot.of(parameter_of(layer, slot.parameter)), slot.of(origin), terms, device)
        if slot.third is None and bias_fits(layer, bias):  # the host adds none for q, k and v
            added = bias
    if added is None and not bound.record.bias_is_changed:
        return
    owned, bias_origin = bias_of(layer), base_weights.bias_origin(page, is_changed=added is not None)
    assert owned is not None and bias_origin is not None
    bound.record.bias_is_changed = True
    owned.copy_(bias_origin if added is None else bias_origin.to(added) + added)
    bound.record.bias_is_changed = added is not None


def leave_gpu(bound: BoundLayer) -> None:
    """Give back what writing a layer by itself has left on a GPU of its deltas."""
    for _slot, _network, delta in bound.deltas:
        delta.to(_CPU)
