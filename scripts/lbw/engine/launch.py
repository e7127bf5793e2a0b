"""Weights that one kernel writes: what it is given for all of them, and with which coefficients it is launched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from lbw.engine.binding import BoundLayer, Value
from lbw.engine.factors import FactorPlan, chunks_of
from lbw.engine.kernels import cuda
from lbw.engine.lean import Code, Codes
from lbw.engine.member import Member
from lbw.engine.pieces import Piece, error_of, on_device
from lbw.engine.pinned_memory import PinnedMemory

CUTS = (1 / 8, 3 / 8)
"""After which parts of the weights a switch's second and third launch begin: while the GPU works on some weights, the
next ones are checked."""

STAGES = len(CUTS) + 1

_CHOICES_KEPT = 16
"""Sets of cohorts that change together: as many as a pass with several schedules has, in turn."""


class Launch:
    """Weights of one dtype that one kernel writes, in stages.

    Args:
        members: the weights; they have deltas of any kind, or low-rank ones all.
        limits: for each member the largest magnitudes of its coefficients.
        device: where the kernel runs.
        is_lean: whether pristine values are recovered from the weights; else each has a copy.
    """

    def __init__(
        self, members: Sequence[Member], limits: Sequence[Value], device: torch.device, *, is_lean: bool
    ) -> None:
        self.members, self.is_lean = members, is_lean
        self.bases: Sequence[Tensor] = ()
        """The copies, on the device or in RAM; they are needed when it is loaded."""
        self.codes: Codes | None = None
        """Of weights without a copy, on the device or in RAM."""
        self.nbytes = 0
        """What it takes of the device's memory, without copies of weights."""
        self._device = device
        self._has_pieces = not members[0].is_low_rank
        self._of_layers: dict[BoundLayer, list[tuple[int, Member]]] = {}
        for number, member in enumerate(members):
            self._of_layers.setdefault(member.bound, []).append((number, member))
        weights = [member.weight for member in members]
        pieces = [[piece for _network, piece in member.pieces] for member in members]
        self._plan = FactorPlan([member.factors for member in members], weights[0].dtype)
        self._layouts = _layouts(weights)
        self._table = cuda.PartTable(weights, pieces, self._plan, has_pieces=self._has_pieces)
        self._pieces = pieces
        self._limits = np.array([
            abs(coefficient * piece.scale)
            for member, limit in zip(members, limits, strict=True) for piece, coefficient in member.terms(limit)
        ])
        self._errors = np.array([error_of(piece) for of_member in pieces for piece in of_member])
        self._set_terms()
        self._cohorts = np.zeros(len(members), np.int64)
        self._order = self._table.strips(cuda.strip_height(is_lean))
        self._ranges: list[list[tuple[int, int]]] = []
        self._update: cuda.Update | None = None
        self._strips: Tensor | None = None
        self._choices: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        self._packed: Tensor | None = None
        self._packed_in_ram: Tensor | None = None
        self._codes_in_ram: Codes | None = None
        self._matrices: list[tuple[Piece, ...]] = []
        self._is_checked, self._is_wild = False, np.zeros(len(members), bool)

    def _set_terms(self) -> None:
        """Which coefficients the kernel wants: of which member, slot and network, and by what it is multiplied."""
        terms = [
            (owner, member.number, network, piece.scale, 1 if self._has_pieces else chunks_of(piece.factors[0].rank))
            for owner, member in enumerate(self.members) for network, piece in member.pieces
        ]
        owners, slots, networks, scales, counts = zip(*terms, strict=True) if terms else ((),) * 5
        self._owners, self._slots, self._networks = (
            np.repeat(np.array(each, np.int64), np.array(counts, np.int64)) for each in (owners, slots, networks)
        )
        self._scales = np.repeat(np.array(scales, np.float64), np.array(counts, np.int64))

    @property
    def is_loaded(self) -> bool:
        return self._update is not None

    def members_of(self, bound: BoundLayer) -> list[tuple[int, Member]]:
        """The weights of a layer, each with its number."""
        return self._of_layers.get(bound, [])

    def load(self) -> list[Member]:
        """Bring to the device what the kernel needs. Without copies, the weights have to be pristine the first time.

        Returns:
            Members that cannot be written so: their factors leave float32's range, or their codes would be too large.
            If there are any, nothing else may be asked of this launch.

        Raises:
            torch.cuda.OutOfMemoryError: it does not fit.
        """
        factors = self._load_factors()
        matrices = on_device(self._pieces, self._device)
        self._table.load(factors, matrices, self._device)
        self.locate()
        self._strips = torch.from_numpy(self._order).to(self._device, copy=True)
        is_refused = self._is_wild.copy()
        if self.is_lean and self.codes is None:
            self.codes, are_kept = cuda.encode(self._table, self._strips, self._limits, self._errors)
            is_refused |= ~are_kept
        elif self.codes is not None:
            self.codes = self.codes.copied(lambda tensor: tensor.to(self._device, non_blocking=True))
        self._update = cuda.Update(self._table, self.codes, self._device)
        self._packed, self._matrices = factors, matrices
        sizes = [matrix.nbytes for each in matrices for piece in each for matrix in piece.matrices]
        self.nbytes = factors.nbytes + self._strips.nbytes + sum(sizes)
        self.nbytes += 0 if self.codes is None else self.codes.nbytes
        return [self.members[number] for number in np.flatnonzero(is_refused)]

    def _load_factors(self) -> Tensor:
        """The packed factors on the device."""
        if self._packed_in_ram is not None:
            return self._packed_in_ram.to(self._device, non_blocking=True)
        packed, largest = self._plan.load(self._device)
        if not self._is_checked:
            self._is_checked = True
            if not self._has_pieces:  # pieces of coefficient 0 are not computed
                self._is_wild = self._plan.wild(largest.cpu().numpy())
        return packed

    def unload(self, memory: PinnedMemory | None) -> None:
        """Give the device's memory back.

        Args:
            memory: where goes what is needed later; None if the weights are pristine, and nothing is.
        """
        if memory is None:
            self.codes = self._codes_in_ram = self._packed_in_ram = None
        else:
            if self.codes is not None:
                self._codes_in_ram = self._codes_in_ram or self.codes.copied(memory.copy)
                self.codes = self._codes_in_ram
            if self._packed is not None and self._packed_in_ram is None:
                self._packed_in_ram = memory.copy(self._packed)
        self._table.unload()
        self._update = self._strips = self._packed = None
        self._matrices = []
        self.nbytes = 0
        self._choices.clear()

    def code_of(self, number: int) -> Code:
        """The code of one member."""
        assert self.codes is not None
        return self.codes.of(number)

    def fits(self) -> bool:
        """Whether the weights have the shapes, types and strides that it was made for."""
        return _layouts([member.weight for member in self.members]) == self._layouts

    def locate(self) -> None:
        """The weights are on the device, and may have moved there."""
        weights = [member.weight for member in self.members]
        bases = self.bases or weights
        # Where there is no copy beside the weight, its pristine value is put into it, or recovered from it.
        beside = [base if base.device == weight.device else weight for base, weight in zip(bases, weights, strict=True)]
        self._table.locate(weights, beside)
        if self._update is not None:
            self._update.relocate()

    def arrange(self, cohort_of: Mapping[BoundLayer, int], count: int) -> list[list[list[Member]]]:
        """Have the weights in the order in which cohorts are written.

        Args:
            cohort_of: the number of each layer's cohort, of which there are ``count``.

        Returns:
            The members of each stage and cohort.
        """
        self._cohorts = np.array([cohort_of[member.bound] for member in self.members], np.int64)
        strips = self._table.strips(cuda.strip_height(self.is_lean))
        owners = self._cohorts[strips[:, 0]]
        stages = self._stages(count)
        # Stage by stage, in it cohort by cohort, and in that weight by weight.
        places = stages[strips[:, 0]] * count + owners
        order = np.argsort(places.astype(np.int16) if STAGES * count < 2**15 else places, kind="stable")
        self._order = strips[order]
        ends = np.searchsorted(places[order], np.arange(STAGES * count + 1)).tolist()
        ranges = list(pairwise(ends))
        self._ranges = [ranges[stage * count : (stage + 1) * count] for stage in range(STAGES)]
        if self._strips is not None:
            self._strips = torch.from_numpy(self._order).to(self._device, copy=True)
        self._choices.clear()
        found: list[list[list[Member]]] = [[[] for _ in range(count)] for _ in range(STAGES)]
        for member, stage, cohort in zip(self.members, stages.tolist(), self._cohorts.tolist(), strict=True):
            found[stage][cohort].append(member)
        return found

    def _stages(self, count: int) -> np.ndarray:
        """The stage of each member: each cohort is written in all of them."""
        stages = np.zeros(len(self.members), np.int64)
        for cohort in range(count):
            numbers = np.flatnonzero(self._cohorts == cohort)
            cuts = [int(len(numbers) * cut) for cut in CUTS]
            stages[numbers] = np.searchsorted(cuts, np.arange(len(numbers)), side="right")
        return stages

    def coefficients(self, values: Sequence[Value]) -> np.ndarray:
        """One coefficient for each piece, or chunk, from the values of all cohorts."""
        rows = [slot for value in values for slot in value]
        firsts = np.cumsum([0, *map(len, values)])
        matrix = np.array(rows, np.float64).reshape(len(rows), -1)
        found: np.ndarray = matrix[firsts[self._cohorts[self._owners]] + self._slots, self._networks] * self._scales
        return found

    def coefficients_in_force(self) -> np.ndarray:
        """As :meth:`coefficients`, of what is in the weights now, weight by weight."""
        held = [member.bound.record.holding.value for member in self.members]
        places = zip(self._owners.tolist(), self._slots.tolist(), self._networks.tolist(), strict=True)
        return np.array([held[owner][slot][network] for owner, slot, network in places], np.float64) * self._scales

    def upload(self, values: Sequence[Value], in_force: Sequence[Value] | None) -> cuda.Uploaded:
        """Bring to the device what all stages of a switch need.

        Args:
            values: what each cohort is brought to.
            in_force: what each cohort holds; None if the layers of one may differ.
        """
        assert self._update is not None
        wanted = self.coefficients(values)
        if not self.is_lean:
            return self._update.upload(wanted)
        held = self.coefficients_in_force() if in_force is None else self.coefficients(in_force)
        return self._update.upload(wanted, held)

    def write(self, stage: int, cohorts: tuple[int, ...], uploaded: cuda.Uploaded) -> None:
        """Launch the kernel for the weights that some cohorts have in a stage."""
        assert self._update is not None
        self._update.launch(self._chosen(stage, cohorts), uploaded)

    def _chosen(self, stage: int, cohorts: tuple[int, ...]) -> Tensor:
        assert self._strips is not None
        runs: list[tuple[int, int]] = []
        for cohort in cohorts:
            first, end = self._ranges[stage][cohort]
            if runs and runs[-1][1] == first:
                runs[-1] = runs[-1][0], end
            elif end > first:
                runs.append((first, end))
        if len(runs) < 2:
            first, end = runs[0] if runs else (0, 0)
            return self._strips[first:end]
        key = stage, cohorts
        if key not in self._choices:
            if len(self._choices) >= _CHOICES_KEPT * STAGES:
                self._choices.clear()
            self._choices[key] = torch.cat([self._strips[first:end] for first, end in runs])
        return self._choices[key]


def _layouts(weights: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype, tuple[int, ...]]]:
    return [(weight.shape, weight.dtype, weight.stride()) for weight in weights]
