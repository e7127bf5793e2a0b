"""The layers of a binding: those that are written together, and those that are written one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from lbw.engine.base_weights import Policy
from lbw.engine.batch import Residence
from lbw.engine.batches import Batches
from lbw.engine.binding import BoundLayer
from lbw.engine.kernels import compiled
from lbw.engine.ledger import DISOWNED, UNFINISHED, Names, Pages
from lbw.engine.member import is_groupable, needs_copies
from lbw.engine.parameters import size_of
from lbw.engine.reach import Reach
from lbw.engine.singles import PRISTINE, Singles, contents_of
from lbw.plan.plan import Coefficients

_POLICIES = {Residence.CODES: Policy.LEAN, Residence.RAM: Policy.RAM, Residence.COPIES: Policy.GPU}
"""What the residence of a batch is called; where there are several, the first of these counts."""


def touched(layers: Sequence[BoundLayer], reach: Reach) -> set[BoundLayer]:
    """Those of the layers that may get a coefficient other than 0."""
    return {bound for bound in layers if bound.deltas and reach.touches(bound)}


class Partition:
    """Layers that are brought to coefficients and back.

    Args:
        layers: all of a binding.
        reach: how far their coefficients go.
        device: where the model works.
        is_grouping: whether many layers may be written together.
        is_short: whether the device's memory is short.
        guard: makes the context in which weights are written.
        residence: tells what is to be kept of weights of so many bytes.
        report: says a thing once.
    """

    def __init__(
        self,
        layers: Sequence[BoundLayer],
        reach: Reach,
        device: torch.device,
        *,
        is_grouping: bool,
        is_short: bool,
        guard: Callable[[], AbstractContextManager[Any]],
        residence: Callable[[int], Residence],
        report: Callable[[str], None],
    ) -> None:
        self.waiting: list[BoundLayer] = []
        """Layers that were left until they are on the device, or at work."""
        self.is_broken = False
        """Whether an update was broken off, so that layers may be in no list."""
        self.touched = touched(layers, reach)
        self._device, self._residence, self._guard = device, residence, guard
        can_group = is_grouping and compiled.runs_on(device)
        groupable = {bound for bound in self.touched if can_group and is_groupable(bound)}
        with_copies = {bound for bound in groupable if needs_copies(bound)}
        # What is kept beside a copy may be as large.
        sizes = [size_of(bound.layer) * (2 if bound in with_copies else 1) for bound in groupable]
        self._room_for_copies = sum(sizes) if with_copies else None
        self._has_copies = self._may_have_copies(is_short)
        together = groupable if self._has_copies else groupable - with_copies
        self.batches = Batches([bound for bound in layers if bound in together], reach, device, residence, report)
        self.batches.is_short = is_short
        others = [bound for bound in layers if bound not in together]
        self._singles = Singles(others, device, self.batches.dissolve, report)

    def _may_have_copies(self, is_short: bool) -> bool:
        """Whether some layers can be written together only where there are copies, and there is room for those."""
        return self._room_for_copies is not None and self._has_room(self._room_for_copies, is_short)

    def _has_room(self, size: int, is_short: bool) -> bool:
        """Whether copies of so many bytes can be on the device."""
        return not is_short and self._residence(size) is Residence.COPIES

    def is_as_wanted(self, *, is_short: bool) -> bool:
        """Whether layers are written as they would be if they were parted anew, and the weights kept where they should
        be."""
        return (
            not self.is_broken
            and self.batches.is_short == is_short
            and self.batches.are_in_place()
            and self._has_copies == self._may_have_copies(is_short)
        )

    def place_singles(self, *, is_short: bool) -> None:
        """Say where copies of weights go that are written one by one."""
        size = sum(size_of(bound.layer) for bound in self._singles.layers if bound in self.touched)
        self._singles.keeps_copies_in_ram = self._device.type == "cuda" and not self._has_room(size, is_short)

    def bring(self, coefficients: Coefficients, token: Names, is_asleep: Callable[[BoundLayer], bool]) -> int:
        """Bring the layers to coefficients, and note it as ``token``. Returns how many have been written.

        Args:
            is_asleep: whether a layer is not at work, and can wait.
        """
        try:
            with self._guard():
                count, waiting = self.batches.bring(coefficients, token, is_asleep)
                if self.batches.refused:
                    self._has_copies &= not any(map(needs_copies, self.batches.refused))
                    self._singles.add(self.batches.refused)
                    self.batches.refused = []
                others, also_waiting = self._singles.bring(coefficients, token, is_asleep)
        except BaseException:
            self.is_broken = True
            for bound in self.touched:
                if bound.page.names != ():
                    bound.page.names = UNFINISHED
            raise
        self.waiting = waiting + also_waiting
        return count + others

    @property
    def failed(self) -> set[BoundLayer]:
        """Layers that could not be written, and are as without networks."""
        return self._singles.failed

    def write_where_they_are(self, keys: Collection[str]) -> bool:
        """Have waiting layers with these keys written by themselves on the CPU. Returns whether there are any."""
        layers = [bound for bound in self.waiting if bound.keys[0] in keys]
        self.batches.give_up(layers)
        self._singles.write_anywhere(layers)
        return bool(layers)

    def sample(self) -> Pages:
        """Some layers that tell whether somebody else has patched layers: written ones, and one that is not."""
        waiting = set(self.waiting)
        groups = [batch.layers for batch in self.batches] + [self._singles.layers]
        chosen = [layers[index] for layers in groups if layers for index in (0, -1)]
        return Pages(bound.page for bound in chosen if bound not in waiting)

    def settle(self, *, of_text_encoder: bool | None) -> None:
        """Bring layers back to their pristine weights, and give the device's memory back.

        Args:
            of_text_encoder: only those of the text encoder, or only the others.
        """
        with self._guard():
            self.batches.settle(of_text_encoder=of_text_encoder)
            self._singles.settle(of_text_encoder=of_text_encoder)

    def disown(self) -> None:
        """Note names of no network where layers are not pristine."""
        for batch in self.batches:
            batch.disown(DISOWNED)
        for bound in self._singles.layers:
            held = contents_of(bound) if bound.deltas else None
            if held is not None:
                bound.record.token = bound.page.names = DISOWNED if held != PRISTINE else ()

    @property
    def nbytes(self) -> int:
        """What is held of the device's memory."""
        return self.batches.nbytes + self._singles.nbytes

    @property
    def placement(self) -> Policy | None:
        """Where the pristine weights of patched layers are; None if no layer is patched."""
        found = {batch.residence for batch in self.batches}
        for residence, policy in _POLICIES.items():
            if residence in found:
                return policy
        return self._singles.placement
