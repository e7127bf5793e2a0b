"""A set of layers that are prepared together, and written together at each switch by kernels for many weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, auto
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor

from lbw.engine import base_weights
from lbw.engine.biases import Biases
from lbw.engine.binding import BoundLayer, Holding, Value
from lbw.engine.cohort import Cohort, cohorts_of
from lbw.engine.kernels import cuda
from lbw.engine.kernels.torch import exact_arithmetic
from lbw.engine.launch import STAGES, Launch
from lbw.engine.ledger import UNFINISHED, Names, Pages
from lbw.engine.member import Member, Place, alike, members_of, needs_copies
from lbw.engine.parameters import device_of, is_on, parameter_of, size_of, weight_names
from lbw.engine.pinned_memory import PinnedMemory
from lbw.engine.reach import Reach
from lbw.engine.recoverable import Recoverable, Source
from lbw.engine.slices import Slice
from lbw.plan.plan import Coefficients

_SLAB = 2**28
"""Bytes of copies that are allocated at a time."""


class Residence(Enum):
    """What a batch keeps of the pristine weights while they are patched, and where."""

    COPIES = auto()
    """Copies on the device."""
    CODES = auto()
    """Codes on the device, from which they are recovered, see :mod:`lbw.engine.lean`."""
    RAM = auto()
    """Codes in RAM. They, and the factors, are on the device while weights are written, and not in between."""


class Outcome(Enum):
    """Why the layers of a batch could not be brought to anything."""

    ELSEWHERE = auto()
    """They are not on the device."""
    DISTURBED = auto()
    """Somebody else has patched them, or loaded other weights."""


class Batch:
    """Layers that are written together, by kernels on ``device``.

    At first its layers are settled: they are pristine, and nothing is kept of them. :meth:`bring` makes all that
    switches need when it is first called, and switches; :meth:`settle` leads back.

    Args:
        layers: those that :func:`lbw.engine.member.is_groupable`; pristine, with their backups, and on the device.
        limits: for each the largest magnitude of each coefficient.
        device: where the kernels run.
    """

    def __init__(
        self, layers: Sequence[BoundLayer], limits: Mapping[BoundLayer, Value], device: torch.device
    ) -> None:
        self.layers = list(layers)
        self._pages = Pages(bound.page for bound in layers)
        self.refused: list[BoundLayer] = []
        """Layers that cannot be written together after all."""
        self.cohorts: list[Cohort] = []
        self.residence: Residence | None = None
        """None while the layers are settled."""
        self.token: Names = ()
        """What the host has been told of all layers."""
        self.size = sum(size_of(bound.layer) for bound in layers)
        """Bytes of the weights."""
        self._device, self._limits = device, limits
        self._groups: Mapping[str, int] | None = None
        self._launches: list[Launch] = []
        self._arranged: list[Cohort] = []
        self._slices: list[list[Slice]] = []
        self._copies: dict[Place, Tensor] = {}
        self._memory, self._biases = PinnedMemory(), Biases(layers, device)
        self._originals = {bound: bound.page.weights for bound in layers}
        self._backups = self._recoverable = self._originals
        self._is_lean = False
        with exact_arithmetic():  # some factors are derived from the pristine weights
            self._members = [member for bound in layers for member in members_of(bound, self._originals[bound])]

    def _is_here(self) -> bool:
        """Whether the weights are where the kernels can write them."""
        return all(is_on(self._device, bound.layer) for bound in self.layers)

    def _may_be_here(self) -> bool:
        """Whether a look at two of the layers finds them there."""
        return all(is_on(self._device, bound.layer) for bound in (self.layers[0], self.layers[-1]))

    def _is_intact(self) -> bool:
        """Whether nobody else has patched a layer, or loaded other weights into it."""
        return all(
            bound.page.names is self.token and self._has_our_backups(bound) for bound in self.layers
        )

    def _has_our_backups(self, bound: BoundLayer) -> bool:
        return all(map(is_, bound.page.weights, self._backups[bound]))

    def _fits(self) -> bool:
        """Whether the weights are still such as the launches were made for; a pointer to others must not be taken."""
        return all(launch.fits() for launch in self._launches)

    def allows(self, reach: Reach) -> bool:
        """Whether it was made for coefficients that go so far."""
        return all(
            new <= own
            for bound in self.layers
            for news, owns in zip(reach.of(bound), self._limits[bound], strict=True)
            for new, own in zip(news, owns, strict=True)
        )

    def _arrange(self, groups: Mapping[str, int]) -> None:
        """Split the layers into cohorts.

        Args:
            groups: {a key of a layer: its group}; layers of a group always have equal coefficients.
        """
        if self._groups is groups:
            return
        self._groups, known = groups, self.cohorts
        self.cohorts = cohorts_of(self.layers, groups, known)
        for cohort in self.cohorts if self.residence is not None else ():
            held = {bound.record.holding.value for bound in cohort.layers}
            if len(held) == 1:
                cohort.hold(held.pop())

    def _prepare(self, residence: Residence) -> None:
        """Make what switches need: factors, and codes or copies of the weights, which are pristine and on the device.

        Raises:
            torch.cuda.OutOfMemoryError: there is no room; the layers are settled as before.
        """
        try:
            with exact_arithmetic():
                if not self._load_again(residence):
                    self._make_launches(residence)
                self._biases.load()
            self.residence = residence
            for bound in self.layers:
                bound.page.weights = self._backups[bound]
                bound.record.deltas, bound.record.batch = bound.deltas, self
            for cohort in self.cohorts:
                cohort.hold(self._zero(cohort))
            self._order()
        except BaseException:
            self._forget()
            raise

    def _load_again(self, residence: Residence) -> bool:
        """Load the launches that were made before, if they are good for this residence."""
        if not self._launches or self._is_lean is (residence is Residence.COPIES):
            return False
        with_copies = [launch for launch in self._launches if not launch.is_lean]
        self._copy([member for launch in with_copies for member in launch.members], residence)
        for launch in with_copies:
            launch.bases = self._bases_of(launch.members)
        if any([launch.load() for launch in self._launches]):
            return False
        copied = {member.bound for launch in with_copies for member in launch.members}
        self._backups = {**self._recoverable, **{bound: self._backups_for(bound) for bound in copied}}
        return True

    def _make_launches(self, residence: Residence) -> None:
        """The launches of weights that are recovered from codes, where that can be done, and of those with copies."""
        self._launches, self._arranged = [], []
        self._is_lean, to_copy, refused = residence is not Residence.COPIES, set(self.layers), set[BoundLayer]()
        if self._is_lean:
            refused = {bound for bound in self.layers if needs_copies(bound)}
            to_copy = {member.bound for member in self._members if not cuda.can_be_encoded(member.weight)} - refused
            members = [member for member in self._members if member.bound not in to_copy | refused]
            self._launches, found = _loaded(members, None, self._limits, self._device)
            to_copy |= found
        members = [member for member in self._members if member.bound in to_copy]
        self._copy(members, residence)
        launches, found = _loaded(members, self._copies, self._limits, self._device)
        self._launches += launches
        refused |= found
        if refused:
            self.refused += [bound for bound in self.layers if bound in refused]
            self.layers = [bound for bound in self.layers if bound not in refused]
            self._pages = Pages(bound.page for bound in self.layers)
            self._biases = Biases(self.layers, self._device)
            self._members = [member for member in self._members if member.bound not in refused]
            self._copies = {place: copied for place, copied in self._copies.items() if place[0] not in refused}
            if self._groups is not None:
                self.cohorts = cohorts_of(self.layers, self._groups, self.cohorts)
        self._backups = {bound: self._backups_for(bound) for bound in self.layers}
        self._recoverable = {bound: each for bound, each in self._backups.items() if bound not in to_copy}

    def _copy(self, members: Sequence[Member], residence: Residence) -> None:
        """Make copies of weights, in a few large buffers."""
        places = dict.fromkeys((member.bound, member.slot.parameter) for member in members)
        weights = [parameter_of(bound.layer, parameter).detach() for bound, parameter in places]
        if residence is Residence.RAM:
            self._copies = dict(zip(places, map(self._memory.copy, weights), strict=True))
            return
        self._copies = {}
        rooms = [-(-weight.numel() // 128) * 128 for weight in weights]  # kernels want it aligned
        slab, used, left = torch.empty(0), 0, sum(rooms)
        for place, weight, room in zip(places, weights, rooms, strict=True):
            if slab.dtype != weight.dtype or used + room > len(slab):
                size = max(room, min(left, _SLAB // weight.itemsize))
                slab, used = torch.empty(size, dtype=weight.dtype, device=self._device), 0
            self._copies[place] = slab[used : used + weight.numel()].view(weight.shape)
            used, left = used + room, left - room
        if weights:  # as bits: where there is no number, torch's kernel for floats copies another one
            torch._foreach_copy_([_bits(copied) for copied in self._copies.values()], [_bits(each) for each in weights])

    def _bases_of(self, members: Sequence[Member]) -> list[Tensor]:
        return [_copied(self._copies, member) for member in members]

    def _backups_for(self, bound: BoundLayer) -> tuple[Any, ...]:
        """What the host finds as the pristine weights of a layer: copies, or what recovers them."""
        backups: list[Any] = []
        for parameter in weight_names(bound.layer):
            if (bound, parameter) in self._copies:
                backups.append(self._copies[bound, parameter])
                continue
            sources = [
                (member.slot, _source(launch, number, member))
                for launch in self._launches for number, member in launch.members_of(bound)
                if member.slot.parameter == parameter
            ]
            backups.append(Recoverable(bound.page, parameter, sources, self._device))
        return tuple(backups)

    def _zero(self, cohort: Cohort) -> Value:
        return tuple((0.0,) * len(limits) for limits in self._limits[cohort.layers[0]])

    def _is_ordered(self) -> bool:
        """Whether the launches write the weights in the order of the cohorts."""
        return [*map(id, self._arranged)] == [*map(id, self.cohorts)]

    def _order(self) -> None:
        """Have all launches write the weights in the order of the cohorts, where they have just been found to be."""
        if not self._is_ordered():
            numbers = {bound: number for number, cohort in enumerate(self.cohorts) for bound in cohort.layers}
            arranged = [launch.arrange(numbers, len(self.cohorts)) for launch in self._launches]
            self._slices = [
                [Slice([each[stage][cohort] for each in arranged]) for cohort in range(len(self.cohorts))]
                for stage in range(STAGES)
            ]
            self._arranged = list(self.cohorts)
        in_ram = {place: each for place, each in self._copies.items() if each.device.type != self._device.type}
        for each in chain.from_iterable(self._slices):
            each.look(in_ram)

    @property
    def is_loaded(self) -> bool:
        """Whether all that the kernels need is on the device."""
        return bool(self._launches) and all(launch.is_loaded for launch in self._launches)

    def _load(self) -> None:
        """Bring back to the device what :meth:`unload` took away.

        Raises:
            torch.cuda.OutOfMemoryError: it does not fit; it is not loaded then.
        """
        try:
            needed = [place for place in self._copies if needs_copies(place[0])]
            self._move_copies(needed, lambda copied: copied.to(self._device))
            for launch in self._launches:
                launch.load()
            self._biases.load()
            self._order()
        except BaseException:
            self.unload()
            raise

    def unload(self) -> None:
        """Give the device's memory back; the weights stay as they are, and what recovers them is in RAM."""
        for launch in self._launches:
            launch.unload(self._memory)
        on_gpu = [place for place, each in self._copies.items() if each.device.type == "cuda"]
        self._move_copies(on_gpu, self._memory.copy)
        self._biases.unload()
        for each in chain.from_iterable(self._slices):
            each.forget()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _move_copies(self, places: Collection[Place], copy: Callable[[Tensor], Tensor]) -> None:
        """Have copies of weights elsewhere."""
        if not places:
            return
        for place in places:
            self._copies[place] = copy(self._copies[place])
        for bound in {place[0] for place in places}:
            are_ours = self._has_our_backups(bound)
            self._backups[bound] = self._backups_for(bound)
            if are_ours:
                bound.page.weights = self._backups[bound]
        for launch in self._launches:
            if not launch.is_lean:
                launch.bases = self._bases_of(launch.members)

    def _locate(self) -> None:
        """The weights are on the device, and may have moved there."""
        for launch in self._launches:
            launch.locate()
        self._order()

    def bring(self, coefficients: Coefficients, token: Names, residence: Residence) -> int | Outcome:
        """Bring the layers to coefficients, and tell the host of it.

        Args:
            token: what the host is told.
            residence: what is kept of the weights, if they have to be prepared.

        Returns:
            How many layers have been written.

        Raises:
            torch.cuda.OutOfMemoryError: there is no room; nothing has been written then.
        """
        if not self._may_be_here():
            return Outcome.ELSEWHERE
        self._arrange(coefficients.groups)
        if self.residence is None:
            if not self._is_here():
                return Outcome.ELSEWHERE
            if not self._is_intact() or not self._fits():
                return Outcome.DISTURBED
            self._prepare(residence)
        if self.token is not token:
            if not self._is_intact():
                return Outcome.DISTURBED
        elif not self._pages.have(token):
            return Outcome.DISTURBED
        wanted = self._changes(coefficients)
        outcome = self._write(wanted) if wanted else None
        if outcome is not None:
            return outcome
        if self.token is not token:
            self._tell(token)
        if self.residence is Residence.RAM and self.is_loaded:
            self.unload()
        return sum(len(self.cohorts[number].layers) for number in wanted)

    def _changes(self, coefficients: Coefficients) -> dict[int, Value]:
        """The cohorts, by their numbers, that do not hold what they should."""
        wanted = {}
        for number, cohort in enumerate(self.cohorts):
            value = cohort.wanted(coefficients)
            if not cohort.is_joined or cohort.holding.value != value:
                wanted[number] = value
        return wanted

    def _write(self, wanted: Mapping[int, Value]) -> Outcome | None:
        """Bring cohorts to values, wherever on the device their weights are now. Returns why that was not possible."""
        if self.is_loaded and self._is_ordered() and self._launch(wanted):
            return None
        if not self._is_intact():
            return Outcome.DISTURBED
        if not self._is_here():
            return Outcome.ELSEWHERE
        if not self._fits():
            return Outcome.DISTURBED
        if self.is_loaded:
            self._locate()
        else:
            self._load()
        return None if self._launch(wanted) else Outcome.DISTURBED

    def _launch(self, wanted: Mapping[int, Value]) -> bool:
        """Bring cohorts to values.

        Returns:
            Whether all their weights, backups and names were as they had been left. If not, some layers may have been
            written.
        """
        chosen = tuple(sorted(wanted))
        are_joined = all(cohort.is_joined for cohort in self.cohorts)
        held = [cohort.held for cohort in self.cohorts]
        values = [wanted.get(number, value) for number, value in enumerate(held)]
        uploads = [launch.upload(values, held if are_joined else None) for launch in self._launches]
        biases = self._biases.brought_to(self._values_of_layers(wanted)) if self._biases.layers else []
        written: list[Member] = []
        try:
            for stage, slices in enumerate(self._slices):
                here = [slices[cohort] for cohort in chosen]
                if not all(each.watch.holds(self.token) for each in here):
                    return False
                for each in here:
                    each.refill()
                for number, (launch, uploaded) in enumerate(zip(self._launches, uploads, strict=True)):
                    launch.write(stage, chosen, uploaded)
                    written += [member for each in here for member in each.launches[number]]
            self._biases.write(biases)
            for number in chosen:
                self.cohorts[number].hold(wanted[number])
            written.clear()
            return True
        finally:
            if written:
                self._note(written, wanted)

    def _values_of_layers(self, wanted: Mapping[int, Value]) -> dict[BoundLayer, Value]:
        return {bound: value for number, value in wanted.items() for bound in self.cohorts[number].layers}

    def _note(self, written: Sequence[Member], wanted: Mapping[int, Value]) -> None:
        """Not all has been written: note for each layer what it holds."""
        new = self._values_of_layers(wanted)
        for number in wanted:
            self.cohorts[number].part()
        for member in written:
            held = list(member.bound.record.holding.value)
            held[member.number] = new[member.bound][member.number]
            member.bound.record.holding = Holding(tuple(held))

    def _tell(self, token: Names) -> None:
        """Tell the host what all layers hold."""
        for bound in self.layers:
            bound.record.token = bound.page.names = token
        self.token = token  # last: what is broken off before has the names of before

    def disown(self, token: Names) -> None:
        """Have the host find names of no network where the layers are not pristine, so that it restores them."""
        if self.residence is None:
            return
        told = token if any(cohort.held != self._zero(cohort) for cohort in self.cohorts) else ()
        for bound in self.layers:
            if bound.page.names is self.token:
                bound.record.token = bound.page.names = told
        self.token = told

    def settle(self) -> Outcome | None:
        """Bring the layers back to their pristine weights, and keep nothing of them.

        Returns:
            Why that was not possible.
        """
        if self.residence is None:
            return None
        if not self._is_here():
            return Outcome.ELSEWHERE
        zeros = {number: self._zero(cohort) for number, cohort in enumerate(self.cohorts)}
        wanted = {
            number: zero
            for number, zero in zeros.items()
            if not self.cohorts[number].is_joined or self.cohorts[number].held != zero
        }
        if not self._is_intact():
            return Outcome.DISTURBED
        outcome = self._write(wanted) if wanted else None
        if outcome is not None:
            return outcome
        self._tell(())
        self._forget()
        return None

    def recover(self) -> None:
        """As :meth:`settle`, layer by layer, wherever they are. What somebody else has put into layers stays.

        Raises:
            Exception: a layer cannot be restored. Its names are those of no network, and what recovers it is kept.
        """
        failure: Exception | None = None
        with exact_arithmetic():
            for bound in self.layers if self.residence is not None else ():
                if bound.page.names in (self.token, UNFINISHED):
                    try:
                        if device_of(bound.layer).type != "meta":
                            base_weights.restore(bound.page)
                    except Exception as error:
                        bound.page.names, failure = UNFINISHED, error
                        continue
                    if self._has_our_backups(bound):
                        bound.page.weights = self._originals[bound]
                    bound.record.token = bound.page.names = ()
                    bound.record.bias_is_changed = False
        if failure is not None:
            raise failure
        self.token = ()
        for cohort in self.cohorts:
            cohort.part()
        self._forget()

    def _forget(self) -> None:
        """Nothing is kept of the layers. Those that are pristine have the backups again that they had; one that
        somebody else has given other names has its pristine weights in RAM."""
        try:
            for bound in self.layers:
                if self._has_our_backups(bound):
                    if bound.page.names == ():
                        bound.page.weights = self._originals[bound]
                    else:
                        base_weights.park(bound.page)
                if bound.page.names == ():
                    base_weights.drop_bias_copy(bound.page)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for bound in self.layers:
            if bound.record.batch is self:
                bound.record.batch = None
        for launch in self._launches:
            launch.unload(None)
            launch.bases = ()
        self._biases.forget()
        for each in chain.from_iterable(self._slices):
            each.forget()
        self._backups, self._copies, self.residence = self._originals, {}, None
        self._memory = PinnedMemory()

    @property
    def nbytes(self) -> int:
        """What is held of the device's memory."""
        copies = sum(each.nbytes for each in self._copies.values() if each.device.type == self._device.type)
        return copies + sum(launch.nbytes for launch in self._launches) + self._biases.nbytes


def _loaded(
    members: Sequence[Member],
    copies: Mapping[Place, Tensor] | None,
    limits: Mapping[BoundLayer, Value],
    device: torch.device,
) -> tuple[list[Launch], set[BoundLayer]]:
    """The launches of weights, and the layers that cannot be written by them, for which there is none.

    Args:
        copies: the copies of all; None if they are to be recovered from codes.
    """
    refused: set[BoundLayer] = set()
    while True:
        launches, found = [], set()
        for together in alike([member for member in members if member.bound not in refused]):
            launch = Launch(together, [limits[member.bound] for member in together], device, is_lean=copies is None)
            if copies is not None:
                launch.bases = [_copied(copies, member) for member in together]
            launches.append(launch)
            found |= {member.bound for member in launch.load()}
        if not found:
            return launches, refused
        refused |= found
        for launch in launches:
            launch.unload(None)


def _bits(weight: Tensor) -> Tensor:
    return weight.view(torch.int16)


def _copied(copies: Mapping[Place, Tensor], member: Member) -> Tensor:
    return member.slot.of(copies[member.bound, member.slot.parameter])


def _source(launch: Launch, number: int, member: Member) -> Source:
    return lambda: (launch.code_of(number), member.terms(member.bound.record.holding.value))
