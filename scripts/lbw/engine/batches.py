"""The layers of a binding that kernels for many weights take: which are prepared together, when, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from lbw.engine import base_weights
from lbw.engine.batch import Batch, Outcome, Residence
from lbw.engine.binding import BoundLayer
from lbw.engine.ledger import Names
from lbw.engine.parameters import device_of, is_on, layout_of, size_of
from lbw.engine.reach import Reach
from lbw.engine.stand_ins import MissingBaseError
from lbw.plan.plan import Coefficients

_PORTION = 2**28
"""Bytes of weights whose codes and factors are on the GPU at a time, where memory is short."""

_ATTEMPTS = 3
"""How often what was disturbed is begun anew in one update."""


class Batches:
    """Layers of a binding. Each waits until it is on the device and at work; those that come together are a batch.

    Args:
        layers: those that :func:`lbw.engine.member.is_groupable`, and that may get a coefficient other than 0.
        reach: how far their coefficients go.
        device: where the kernels run.
        residence: tells what is to be kept of weights of so many bytes.
        report: says a thing once.
    """

    def __init__(
        self,
        layers: Iterable[BoundLayer],
        reach: Reach,
        device: torch.device,
        residence: Callable[[int], Residence],
        report: Callable[[str], None],
    ) -> None:
        self.refused: list[BoundLayer] = []
        """Layers that have to be written one by one after all."""
        self.is_short = False
        """Whether the device's memory is short: as little as possible is kept there, and not for long."""
        self.has_failed = False
        """Whether writing many layers together has failed, and not for lack of memory."""
        self._batches: list[Batch] = []
        self._waiting = list(layers)
        self._reach, self._device, self._residence, self._report = reach, device, residence, report

    def reach_as_far(self) -> bool:
        """Whether what was made is good for what the layers may get now."""
        return all(batch.allows(self._reach) for batch in self._batches)

    def are_in_place(self) -> bool:
        """Whether what is kept of the weights is kept where it should be."""
        return all(batch.residence in (None, self._residence_of(batch.size)) for batch in self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def bring(
        self,
        coefficients: Coefficients,
        token: Names,
        is_asleep: Callable[[BoundLayer], bool],
    ) -> tuple[int, list[BoundLayer]]:
        """Bring the layers to coefficients, and tell the host of it.

        Args:
            token: what the host is told.
            is_asleep: whether a layer is not at work, and can wait.

        Returns:
            How many have been written, and those that are waiting.
        """
        self._gather(is_asleep)
        elsewhere: list[BoundLayer] = []
        count = attempts = 0
        queue = list(self._batches)
        while queue:
            batch = queue.pop(0)
            if is_asleep(batch.layers[0]):
                elsewhere += batch.layers
                continue
            outcome = self._bring(batch, coefficients, token)
            if outcome is Outcome.ELSEWHERE:
                if self._must_be_restored(batch):
                    self._dissolve_to_waiting(batch)
                else:
                    elsewhere += batch.layers
            elif outcome is Outcome.DISTURBED:
                attempts += 1
                if attempts > _ATTEMPTS:
                    self._refuse(batch, "weights change while they are written")
                    continue
                others = [other for other in self._batches if other is not batch] if self.is_short else []
                for each in (batch, *others):
                    self._dissolve_to_waiting(each)
                queue = [*self._gather(is_asleep), *(each for each in queue if each not in others)]
            else:
                count += outcome
        return count, [*self._waiting, *elsewhere]

    def give_up(self, layers: Iterable[BoundLayer]) -> None:
        """Leave layers to whoever writes them one by one, and those that are in a batch with them, which dissolves."""
        given_up = set(layers)
        for batch in [batch for batch in self._batches if not given_up.isdisjoint(batch.layers)]:
            self._dissolve_to_waiting(batch)
        self._waiting = [bound for bound in self._waiting if bound not in given_up]

    def _bring(self, batch: Batch, coefficients: Coefficients, token: Names) -> int | Outcome:
        try:
            return batch.bring(coefficients, token, self._residence_of(batch.size))
        except torch.cuda.OutOfMemoryError as error:
            if self.is_short:
                return self._refuse(batch, str(error))
            self._report("the GPU's memory is short: less is kept there, and switches get slower")
            self.is_short = True
            return Outcome.DISTURBED
        except Exception as error:
            self.has_failed = True
            return self._refuse(batch, f"{type(error).__name__}: {error}")
        finally:
            self.refused += batch.refused
            batch.refused = []
            if not batch.layers and batch in self._batches:
                self._batches.remove(batch)

    def _gather(self, is_asleep: Callable[[BoundLayer], bool]) -> list[Batch]:
        """Make batches of the layers that have come. Returns the new ones."""
        here: dict[bool, list[BoundLayer]] = {}
        for bound in self._waiting:
            if not is_asleep(bound) and is_on(self._device, bound.layer):
                here.setdefault(bound.is_text_encoder, []).append(bound)
        made = [batch for layers in here.values() for batch in self._open(layers)]
        self._batches += made
        return made

    def _open(self, layers: Sequence[BoundLayer]) -> Iterator[Batch]:
        """Make one batch of layers that are on the device; several where memory is short."""
        come = set(layers)
        self._waiting = [bound for bound in self._waiting if bound not in come]
        layers = [bound for bound in layers if self._make_pristine(bound)]
        others = {bound for bound in layers if layout_of(bound.layer) != bound.layout}
        self.refused += [bound for bound in layers if bound in others]
        layers = [bound for bound in layers if bound not in others]
        limits = {bound: self._reach.of(bound) for bound in layers}
        is_brief = self._residence_of(sum(size_of(bound.layer) for bound in layers)) is Residence.RAM
        for portion in _portions(layers) if is_brief else [layers] if layers else []:
            try:
                yield Batch(portion, limits, self._device)
            except Exception as error:
                self._report(f"layers are updated more slowly from now on: {type(error).__name__}: {error}")
                self.refused += portion

    def _residence_of(self, size: int) -> Residence:
        return Residence.RAM if self.is_short else self._residence(size)

    def _make_pristine(self, bound: BoundLayer) -> bool:
        """Bring a layer, whoever has patched it, to its pristine weight, and see to it that it has its backups."""
        if bound.record.batch is not None:
            self.dissolve(bound.record.batch)
        try:
            base_weights.keep(bound.page)
            if bound.page.names != ():
                base_weights.restore(bound.page)
        except (MissingBaseError, RuntimeError) as error:
            self._report(f"layer {bound.keys[0]}: {error}; reload the checkpoint")
            return False
        bound.page.names = ()
        bound.record.token, bound.record.bias_is_changed = (), False
        return True

    def dissolve(self, batch: Batch) -> None:
        """Bring a batch's layers to their pristine weights, as far as they are its own, and forget it."""
        dissolve(batch, self._report)
        if batch in self._batches:
            self._batches.remove(batch)

    def _dissolve_to_waiting(self, batch: Batch) -> None:
        """Its layers may come together anew."""
        self.dissolve(batch)
        self._waiting += batch.layers

    def _refuse(self, batch: Batch, reason: str) -> int:
        """Leave a batch's layers to whoever writes them one by one."""
        self._report(f"layers are updated more slowly from now on: {reason}")
        self.dissolve(batch)
        self.refused += batch.layers
        return 0

    def settle(self, *, of_text_encoder: bool | None = None) -> None:
        """Bring layers back to their pristine weights, and give the device's memory back. What is not on the device
        stays as it is, and what recovers it goes to RAM.

        Args:
            of_text_encoder: only those of the text encoder, or only the others.
        """
        for batch in list(self._batches):
            if of_text_encoder in (None, batch.layers[0].is_text_encoder):
                self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        outcome = _try_to_settle(batch, self._report)
        if outcome is Outcome.ELSEWHERE and not self._must_be_restored(batch):
            batch.unload()
        elif outcome is not None:
            self._dissolve_to_waiting(batch)

    @staticmethod
    def _must_be_restored(batch: Batch) -> bool:
        """Whether layers that have left the device patched would be taken for pristine ones: by a host that keeps no
        book of them, and adds there in their forwards what networks have."""
        return batch.residence is not None and not batch.layers[0].page.ledger.is_shared

    @property
    def nbytes(self) -> int:
        """What is held of the device's memory."""
        return sum(batch.nbytes for batch in self._batches)


def _try_to_settle(batch: Batch, report: Callable[[str], None]) -> Outcome | None:
    """Bring a batch's layers to their pristine weights, all together. Returns why that was not possible."""
    try:
        return batch.settle()
    except Exception as error:
        report(f"layers are restored one by one: {type(error).__name__}: {error}")
        return Outcome.DISTURBED


def dissolve(batch: Batch, report: Callable[[str], None]) -> None:
    """Bring a batch's layers to their pristine weights, as far as they are its own, wherever they are.

    Args:
        report: says a thing once: what could not be done.
    """
    if _try_to_settle(batch, report) is None:
        return
    try:
        batch.recover()
    except Exception as error:
        report(f"layers cannot be restored: {type(error).__name__}: {error}; reload the checkpoint")


def leave(batch: Batch, report: Callable[[str], None]) -> None:
    """The model is no longer in use. Layers that are on the device become pristine; what recovers others goes to RAM;
    those of a model that the host has thrown away are forgotten."""
    is_gone = any(device_of(bound.layer).type == "meta" for bound in batch.layers)
    outcome = Outcome.DISTURBED if is_gone else _try_to_settle(batch, report)
    if outcome is Outcome.ELSEWHERE:
        batch.unload()
    elif outcome is Outcome.DISTURBED:
        dissolve(batch, report)


def _portions(layers: Sequence[BoundLayer]) -> Iterator[list[BoundLayer]]:
    portion: list[BoundLayer] = []
    size = 0
    for bound in layers:
        if portion and size + size_of(bound.layer) > _PORTION:
            yield portion
            portion, size = [], 0
        portion.append(bound)
        size += size_of(bound.layer)
    if portion:
        yield portion
