"""The kernel for many weights, on CUDA GPUs, or thread by thread on a CPU: every element against float64."""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from lbw.engine import lean, uploads
from lbw.engine.deltas import LowRank
from lbw.engine.deltas.oft import TILE, BlockRotation
from lbw.engine.factors import CHUNK, FactorPlan, packed_rows
from lbw.engine.kernels import compiled, cuda, nvrtc
from lbw.engine.kernels.compiled import Encoder, Packer, Updater
from lbw.engine.kernels.cuda import PartTable, Update
from lbw.engine.pieces import Kind, Piece, error_of
from lbw.engine.uploads import Staging
from tests.unit import lean_reference
from tests.unit.cuda_on_cpu import available
from tests.unit.ulp import ulp_distance


class Place(NamedTuple):
    device: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.device}-{str(self.dtype)[6:]}"


PLACES = [Place(device, dtype) for device in ("cpu", "cuda") for dtype in (torch.float16, torch.bfloat16)]

SHAPES = [(64, 128), (65, 129), (1, 8), (200, 40), (33, 7), (128, 256)]
NOISE = 1e-7
"""The rounding of float32 sums of about 0.1, which counts where they cancel and bfloat16 is still precise."""

ALIGNED_SHAPES = [(64, 128), (72, 136), (200, 40)]


@pytest.fixture(params=PLACES, ids=str)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    place: Place = request.param
    with available(place.device, "grouped"):
        yield place


class Kernels:
    """A table of weights, loaded, and the kernel that updates them.

    Args:
        bases: where pristine values are read from; the weights themselves if it is left out.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        pieces: Sequence[Sequence[Piece]],
        bases: Sequence[Tensor] | None = None,
        *,
        has_pieces: bool = False,
    ) -> None:
        self.device, self.pieces = weights[0].device, pieces
        self.plan = FactorPlan([[each for piece in of for each in piece.factors] for of in pieces], weights[0].dtype)
        self.table = PartTable(weights, pieces, self.plan, has_pieces=has_pieces)
        self._factors, _ = self.plan.load(self.device)
        self.table.load(self._factors, pieces, self.device)
        self.table.locate(weights, bases or weights)
        self.update = Update(self.table, None, self.device)
        self.strips = self.table.strips(compiled.STRIP_HEIGHT)

    def encode(self, limit: float = 1.0) -> list[bool]:
        """Have pristine values recovered from now on, after coefficients up to ``limit``; which weights may be."""
        self.strips = self.table.strips(lean.STRIP_HEIGHT)
        all_pieces = [piece for of_weight in self.pieces for piece in of_weight]
        limits, errors = np.full(len(all_pieces), limit), np.array([error_of(piece) for piece in all_pieces])
        on_device = torch.from_numpy(self.strips).to(self.device)
        self.codes, are_kept = cuda.encode(self.table, on_device, limits, errors)
        self.update = Update(self.table, self.codes, self.device)
        return are_kept.tolist()

    def write(self, *coefficients: np.ndarray, strips: np.ndarray | None = None) -> None:
        """Bring all weights, or some strips of them, to the coefficients."""
        chosen = torch.from_numpy(self.strips if strips is None else strips).to(self.device)
        self.update.launch(chosen, self.update.upload(*coefficients))


def low_rank_pieces(deltas: Sequence[LowRank]) -> tuple[Piece, ...]:
    return tuple(Piece(Kind.LOW_RANK, factors=(delta,)) for delta in deltas)


class Group:
    """Weights whose content is poison, their bases, random deltas, and the kernel that updates them all."""

    def __init__(
        self, place: Place, shapes: list[tuple[int, int]], ranks: list[int], in_place: bool = False, size: float = 0.1
    ) -> None:
        device, dtype = place
        torch.manual_seed(3)
        self.bases = [(torch.randn(shape) * 0.05).to(device, dtype) for shape in shapes]
        self.weights = [torch.full_like(base, float("nan")) for base in self.bases]
        self.deltas = [
            [
                LowRank(torch.randn(out, rank).to(dtype) * size, torch.randn(rank, into).to(dtype) * size, 1.0)
                for rank in ranks
            ]
            for out, into in shapes
        ]
        if in_place:
            self.weights = [base.clone() for base in self.bases]
        pieces = [low_rank_pieces(deltas) for deltas in self.deltas]
        self.kernels = Kernels(self.weights, pieces, self.weights if in_place else self.bases)

    def expected(self, coefficients: list[float]) -> list[Tensor]:
        values = iter(coefficients)
        results = []
        for base, deltas in zip(self.bases, self.deltas, strict=True):
            total = base.double().cpu()
            for delta in deltas:
                total = total + next(values) * (delta.up.double() @ delta.down.double())
            results.append(total.to(base.dtype))
        return results

    def by_chunk(self, coefficients: list[float]) -> np.ndarray:
        return np.repeat(coefficients, [count for each in self.kernels.plan.chunks for count in each])

    def check(self, coefficients: list[float]) -> None:
        self.kernels.write(self.by_chunk(coefficients))
        for weight, expected in zip(self.weights, self.expected(coefficients), strict=True):
            assert ulp_distance(weight, expected, NOISE) <= 1


@pytest.mark.parametrize("shapes", [SHAPES, ALIGNED_SHAPES, [(5, 3)]], ids=["any", "aligned", "tiny"])
@pytest.mark.parametrize("ranks", [[4], [32], [1, 16, 48]], ids=str)
def test_every_element_is_the_rounded_sum(place: Place, shapes, ranks: list[int]):
    group = Group(place, shapes, ranks)
    coefficients = [0.3 * (index % 5) - 0.7 for index in range(len(shapes) * len(ranks))]
    group.check(coefficients)
    group.check([-value for value in coefficients])
    group.check([value * (index % 3 != 1) for index, value in enumerate(coefficients)])
    group.check([value * (1e-20 if index % 2 else 1.0) for index, value in enumerate(coefficients)])


def test_coefficients_of_zero_give_the_base_bit_for_bit_also_where_it_is_minus_zero(place: Place):
    group = Group(place, SHAPES, [16, 8])
    for base in group.bases:
        base.view(-1)[::3] = -0.0
    group.kernels.write(group.by_chunk([0.0] * (2 * len(SHAPES))))
    for weight, base in zip(group.weights, group.bases, strict=True):
        assert weight.view(torch.int16).equal(base.view(torch.int16))


class PieceGroup:
    """Weights whose content is poison, and random pieces of every kind for each of them, in an order of its own."""

    def __init__(
        self, place: Place, shapes: list[tuple[int, int]], in_place: bool = False, size: float = 0.3
    ) -> None:
        self._place, self._size = place, size
        torch.manual_seed(4)
        self.bases = [(torch.randn(shape) * 0.05).to(*place) for shape in shapes]
        self.weights = [torch.full_like(base, float("nan")) for base in self.bases]
        self.pieces = [self._pieces(base, index) for index, base in enumerate(self.bases)]
        if in_place:
            self.weights = [base.clone() for base in self.bases]
        sources = self.weights if in_place else self.bases
        self.kernels = Kernels(self.weights, self.pieces, sources, has_pieces=True)

    def _pieces(self, base: Tensor, index: int) -> list[Piece]:
        device, dtype = self._place
        out, into = base.shape

        def random(*shape: int) -> Tensor:
            return torch.randn(shape) * self._size

        def low_rank(rank: int) -> LowRank:
            return LowRank(random(out, rank).to(dtype), random(rank, into).to(dtype), 1.0)

        a, b = (next(side for side in (4, 3, 1) if size % side == 0) for size in (out, into))
        matrices = {
            Kind.KRONECKER: (random(a, b), random(out // a, into // b)),
            Kind.WIDE: (random(out, into), None),
            Kind.GAINS: (1 + random(out), 1 + random(into)),
        }
        pieces = [
            Piece(Kind.LOW_RANK, factors=(low_rank(40),)),
            Piece(Kind.HADAMARD, factors=(low_rank(3), low_rank(40))),
            Piece(Kind.FULL, left=random(out, into).to(device, dtype)),
            *[
                Piece(kind, left=left.to(device), right=None if right is None else right.to(device), shift=1.0)
                for kind, (left, right) in matrices.items()
            ],
        ]
        return pieces[index % 6 :] + pieces[: index % 6]

    def expected(self, base: Tensor, pieces: list[Piece], coefficients: np.ndarray) -> Tensor:
        base = base.cpu().double()
        total = base
        for piece, coefficient in zip(pieces, coefficients, strict=True):
            factors = [factor.up.double() @ factor.down.double() for factor in piece.factors]
            left, right = (None if each is None else each.cpu().double() for each in (piece.left, piece.right))
            if piece.kind in (Kind.LOW_RANK, Kind.HADAMARD):
                delta = factors[0] if len(factors) == 1 else factors[0] * factors[1]
            elif piece.kind == Kind.KRONECKER:
                delta = torch.kron(left, right)
            elif piece.kind == Kind.GAINS:
                delta = base * (left[:, None] * right - piece.shift)
            else:
                delta = left
            total = total + coefficient * delta
        return total.to(self._place.dtype)

    def check(self, coefficients: np.ndarray) -> None:
        self.kernels.write(coefficients)
        each = iter(np.split(coefficients, len(self.weights)))
        for weight, base, pieces in zip(self.weights, self.bases, self.pieces, strict=True):
            # Sums of large numbers that cancel have the rounding of float32, which is more than NOISE here.
            assert ulp_distance(weight, self.expected(base, pieces, next(each)), 1e-6) <= 1


@pytest.mark.parametrize("shapes", [SHAPES, ALIGNED_SHAPES, [(5, 3)]], ids=["any", "aligned", "tiny"])
def test_pieces_of_every_kind_are_added_in_one_rounding(place: Place, shapes: list[tuple[int, int]]):
    group = PieceGroup(place, shapes)
    count = 6 * len(shapes)
    for index in range(6):
        group.check(np.where(np.arange(count) % 6 == index, -0.6, 0.0))
    group.check(np.array([0.3 * (index % 5) - 0.7 for index in range(count)]))
    group.check(np.zeros(count))
    assert all(weight.equal(base) for weight, base in zip(group.weights, group.bases, strict=True))


BLOCKS = [((64, 128), 8), ((64, 128), 32), ((65, 129), 13), ((200, 136), 40), ((33, 70), 33), ((128, 264), 64),
          ((96, 200), 3)]  # fmt: skip


def test_rotations_turn_the_rows_of_each_block_together(place: Place):
    """Also where 32 rows, of which a warp takes care, are in several blocks."""
    if place.dtype != torch.float16:
        pytest.skip("of 22 bits for each turn, bfloat16 has not enough")
    torch.manual_seed(5)
    bases = [(torch.randn(shape) * 0.05).to(*place) for shape, _ in BLOCKS]
    turns = [torch.randn(out // block, block, block, dtype=torch.float64) * 0.3 for (out, _), block in BLOCKS]
    others = [LowRank(torch.randn(out, 4).to(place.dtype), torch.randn(4, into).to(place.dtype), 1.0)
              for (out, into), _ in BLOCKS]  # fmt: skip
    pieces = []
    for blocks, other in zip(turns, others, strict=True):
        rotation = BlockRotation((blocks + torch.eye(blocks.shape[1])).transpose(1, 2), None)
        made = rotation.turns()
        left = torch.stack([packed_rows(made.high), packed_rows(made.low)]).to(place.device)
        piece = Piece(Kind.ROTATION, made.unit, left=left, block=rotation.block)
        pieces.append((piece, *low_rank_pieces([other])))
    weights = [torch.full_like(base, float("nan")) for base in bases]
    kernels = Kernels(weights, pieces, bases, has_pieces=True)
    for strength, beside in ((1.0, 0.0), (-0.7, 0.02), (0.0, 0.02), (0.0, 0.0)):
        kernels.write(np.array([each for piece, _ in pieces for each in (strength * piece.scale, beside)]))
        for weight, base, blocks, other in zip(weights, bases, turns, others, strict=True):
            wide = base.cpu().double()
            turned = (blocks @ wide.view(len(blocks), blocks.shape[1], -1)).view(wide.shape)
            expected = wide + strength * turned + beside * (other.up.double() @ other.down.double())
            assert ulp_distance(weight, expected.half(), NOISE) <= 1


def test_a_warp_works_on_as_many_rows_as_rotations_are_made_for():
    assert 16 * Updater(is_aligned=True, is_one_each=False, has_pieces=True).macros["BANDS"] == TILE


def test_a_piece_that_is_no_number_does_no_harm_at_strength_0(place: Place):
    group = PieceGroup(place, [(64, 128)])
    group.pieces[0][2].left.fill_(float("nan"))
    coefficients = np.array([0.5, 0.5, 0.0, 0.5, 0.5, 0.5])
    group.kernels.write(coefficients)
    group.pieces[0][2].left.zero_()
    assert ulp_distance(group.weights[0], group.expected(group.bases[0], group.pieces[0], coefficients), 1e-6) <= 1


def test_the_base_may_be_the_weight_itself(place: Place):
    Group(place, SHAPES, [16], in_place=True).check([1.0, -2.0, 0.5, 0.0, 3.0, 0.1])


def test_a_third_of_the_rows_is_a_part_of_its_own(place: Place):
    device, dtype = place
    weight = torch.full((60, 32), 7.0, dtype=dtype, device=device)
    base = torch.randn(60, 32).to(device, dtype)
    delta = LowRank(torch.randn(20, 4).to(dtype), torch.randn(4, 32).to(dtype), 1.0)
    Kernels([weight.chunk(3)[1]], [low_rank_pieces([delta])], [base.chunk(3)[1]]).write(np.array([0.5]))
    expected = (base[20:40].double().cpu() + 0.5 * (delta.up.double() @ delta.down.double())).to(dtype)
    assert ulp_distance(weight[20:40], expected) <= 1
    assert (weight[:20] == 7.0).all() and (weight[40:] == 7.0).all()


def packed_as_told(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of one delta, in the order that :class:`lbw.engine.factors.FactorPlan` tells of."""
    (out, rank), into = up.shape, down.shape[1]
    chunks, height, width = -(-rank // CHUNK), -(-out // 32) * 32, -(-into // 32) * 32
    left = torch.zeros(height, chunks * CHUNK, dtype=up.dtype)
    left[:out, :rank] = up
    right = torch.zeros(chunks * CHUNK, width, dtype=up.dtype)
    right[:rank, :into] = down
    rows = left.view(height // 16, 2, 8, chunks, 4, 2, 2, 2).permute(3, 0, 5, 2, 4, 6, 1, 7)
    columns = right.view(chunks, CHUNK, width // 32, 8, 4).permute(0, 2, 4, 3, 1)
    return rows.flatten(), columns.flatten()


@pytest.mark.parametrize("piece", [2**24, 4096], ids=["at once", "in portions"])
def test_factors_are_packed_in_one_buffer_and_padded_with_zeros(
    place: Place, piece: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Staging, "PIECE", piece)
    uploads._staging.cache_clear()
    device, dtype = torch.empty(0, device=place.device).device, place.dtype
    torch.manual_seed(1)
    deltas = [
        [LowRank(torch.randn(out, rank).to(dtype), torch.randn(rank, into).to(dtype), 1.0) for rank in ranks]
        for out, into, ranks in [(5, 3, (3, 40)), (1, 1, ()), (64, 32, (32,)), (100, 70, (1, 33, 2)), (33, 65, (8,))]
    ]
    plan = FactorPlan(deltas, dtype)
    packed, largest = plan.load(device)
    uploads._staging.cache_clear()
    assert plan.chunks == [(1, 2), (), (1,), (1, 2, 1), (1,)]
    for of_weight, up, down in zip(deltas, plan.ups, plan.downs, strict=True):
        told = [packed_as_told(delta.up, delta.down) for delta in of_weight]
        for first, parts in ((up, [left for left, _ in told]), (down, [right for _, right in told])):
            whole = torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)
            assert packed[first:][: len(whole)].cpu().equal(whole) and (first * 2 % 16 == 0)
    matrices = [matrix for of_weight in deltas for delta in of_weight for matrix in (delta.up, delta.down)]
    assert largest.tolist() == [int(matrix.abs().max().view(torch.int16)) for matrix in matrices]


def test_factors_that_are_too_large_to_be_multiplied_by_0_are_found(place: Place):
    device, dtype = torch.empty(0, device=place.device).device, place.dtype

    def wild(*values: float) -> list[bool]:
        deltas = [
            [LowRank(torch.ones(5, 2, dtype=dtype), torch.full((2, 3), value, dtype=dtype), 1.0)] for value in values
        ]
        plan = FactorPlan([*deltas, []], dtype)
        return plan.wild(plan.load(device)[1].cpu().numpy()).tolist()

    assert wild(1.0, -2.0) == [False, False, False]
    assert wild(1.0, float("inf"), float("nan"), -float("inf")) == [False, True, True, True, False]
    assert wild(60000.0) == [False, False]
    if dtype == torch.bfloat16:
        assert wild(1e38, 1e18) == [True, False, False]


def test_a_weight_without_deltas_becomes_its_base(place: Place):
    device, dtype = place
    base = torch.randn(70, 33).to(device, dtype)
    weight = torch.full_like(base, 7.0)
    Kernels([weight], [()], [base]).write(np.zeros(0))
    assert weight.equal(base)


def test_only_the_chosen_strips_are_written(place: Place):
    group = Group(place, SHAPES, [4])
    coefficients = [0.3 * index - 0.7 for index in range(len(SHAPES))]
    strips, written = group.kernels.strips, set()
    for chosen in ({1, 4}, {0}, {2, 3, 5}):
        group.kernels.write(group.by_chunk(coefficients), strips=strips[np.isin(strips[:, 0], list(chosen))])
        written |= chosen
        assert {index for index, weight in enumerate(group.weights) if not weight.isnan().all()} == written
    for weight, expected in zip(group.weights, group.expected(coefficients), strict=True):
        assert ulp_distance(weight, expected, NOISE) <= 1


def test_a_base_that_is_not_aligned_as_its_weight_is_read_as_well(place: Place):
    device, dtype = place
    base = torch.randn(64 * 128 + 1).to(device, dtype)[1:].view(64, 128)
    weight = torch.full_like(base, float("nan"), memory_format=torch.contiguous_format)
    Kernels([weight], [()], [base]).write(np.zeros(0))
    assert weight.equal(base)


def test_weights_that_have_moved_are_written_where_they_are_now(place: Place):
    group = Group(place, ALIGNED_SHAPES, [4], in_place=True)
    old = [weight.clone() for weight in group.weights]
    moved = [torch.cat([weight.new_zeros(1), weight.flatten()])[1:].view(weight.shape) for weight in group.weights]
    group.kernels.table.locate(moved, moved)
    group.kernels.update.relocate()
    group.kernels.write(group.by_chunk([0.5] * len(ALIGNED_SHAPES)))
    for weight, was, new, expected in zip(group.weights, old, moved, group.expected([0.5] * 3), strict=True):
        assert weight.equal(was) and ulp_distance(new, expected, NOISE) <= 1


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are kept however large they are: small weights take whole strips."""
    monkeypatch.setattr(cuda, "MOST", 99.0)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("shapes", [SHAPES, ALIGNED_SHAPES], ids=["any", "aligned"])
@pytest.mark.parametrize("ranks", [[16], [16, 4], [40]], ids=str)
def test_the_lean_kernel_recovers_the_base_and_goes_to_any_strength(place: Place, shapes, ranks: list[int]):
    group = Group(place, shapes, ranks, in_place=True)
    assert all(group.kernels.encode())
    in_force = [0.0] * (len(ranks) * len(shapes))
    for strength in (1.0, -0.7, 0.0, 0.3):
        wanted = [strength * (-1) ** index for index in range(len(in_force))]
        group.kernels.write(group.by_chunk(wanted), group.by_chunk(in_force))
        in_force = wanted
        for weight, expected in zip(group.weights, group.expected(wanted), strict=True):
            assert ulp_distance(weight, expected, NOISE) <= 1
    group.kernels.write(group.by_chunk([0.0] * len(in_force)), group.by_chunk(in_force))
    for weight, base in zip(group.weights, group.bases, strict=True):
        assert weight.view(torch.int16).equal(base.view(torch.int16))
    assert int(group.kernels.codes.starts[-1]) > 0


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("shapes", [SHAPES, ALIGNED_SHAPES], ids=["any", "aligned"])
@pytest.mark.parametrize("size", [0.03, 0.3], ids=["small", "large"])
def test_the_lean_kernel_takes_pieces_of_every_kind(place: Place, shapes, size: float):
    group = PieceGroup(place, shapes, in_place=True, size=size)
    assert all(group.kernels.encode())
    in_force = np.zeros(6 * len(shapes))
    singly = [np.where(np.arange(len(in_force)) % 6 == index, 0.6, 0.0) for index in range(6)]
    for wanted in (*singly, np.array([0.3 * (index % 5) - 0.7 for index in range(len(in_force))]), 0.0 * in_force):
        group.kernels.write(wanted, in_force)
        in_force = wanted
        each = iter(np.split(wanted, len(group.weights)))
        for weight, base, pieces in zip(group.weights, group.bases, group.pieces, strict=True):
            assert ulp_distance(weight, group.expected(base, pieces, next(each)), 1e-6) <= 1
    for weight, base in zip(group.weights, group.bases, strict=True):
        assert weight.view(torch.int16).equal(base.view(torch.int16))


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("size", [0.0, 1e-7, 1e-4, 0.01, 1.0, 100.0, 70000.0])
def test_every_16_bit_number_is_recovered_from_deltas_of_every_size(place: Place, size: float):
    device, dtype = place
    bits = torch.arange(-(2**15), 2**15).to(torch.int16).view(256, 256)
    bits[bits == -1] = 1  # the one that is refused
    base = bits.view(dtype).to(device)
    delta = torch.randn(256, 256, generator=torch.Generator().manual_seed(1)) * size
    weight = base.clone()
    kernels = Kernels([weight], [(Piece(Kind.WIDE, left=delta.to(device)),)], has_pieces=True)
    assert kernels.encode() == [True]
    in_force = np.zeros(1)
    for wanted in (1.0, -1.0, 0.3, 0.0):
        kernels.write(np.array([wanted]), in_force)
        in_force = np.array([wanted])
    assert weight.view(torch.int16).equal(base.view(torch.int16))


def test_a_nan_that_cannot_be_kept_and_codes_that_are_too_large_are_refused(place: Place):
    group = Group(place, [(256, 128)] * 3, [16], in_place=True, size=0.01)
    group.weights[1].view(torch.int16)[200, 100] = -1
    group.weights[2].mul_(1e-4)
    assert group.kernels.encode() == [True, False, False]


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("shapes", [SHAPES, ALIGNED_SHAPES], ids=["any", "aligned"])
def test_the_kernel_keeps_what_the_reference_keeps(place: Place, shapes):
    """All codes are the same; sums of another order may make an escape more, or one less."""
    group = Group(place, shapes, [40], in_place=True)
    assert all(group.kernels.encode())
    for number, (base, (delta,)) in enumerate(zip(group.bases, group.deltas, strict=True)):
        up, down = delta.up.float(), delta.down.float()
        error = error_of(Piece(Kind.LOW_RANK, factors=(delta,))) * (up.abs() @ down.abs())
        reference = lean_reference.encode(base.cpu(), (up @ down).abs(), error)
        own = group.kernels.codes.of(number)
        assert own.codes.cpu().equal(reference.codes)
        ours, theirs = ({*each.escapes.cpu().tolist()} for each in (own, reference))
        assert len(ours ^ theirs) <= 0.01 * len(theirs) + 1


@pytest.mark.parametrize("tensor_cores", [0, 8])
def test_gpus_with_older_tensor_cores_or_none_get_the_same_sums(tensor_cores: int, monkeypatch: pytest.MonkeyPatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    compiled._compiled.cache_clear()
    monkeypatch.setattr(compiled, "_tensor_cores", lambda _device, _dtype: tensor_cores)
    try:
        Group(Place("cuda", torch.float16), SHAPES, [1, 16, 48]).check([0.3 * (i % 5) - 0.7 for i in range(18)])
    finally:
        compiled._compiled.cache_clear()


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The compiler is the one that comes with the tests."""
    folder = Path(sysconfig.get_path("purelib")) / "nvidia/cuda_nvrtc/lib"
    if not folder.exists():
        pytest.skip("needs NVRTC")
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        library = ctypes.CDLL(str(next(folder.glob(name))), mode=ctypes.RTLD_GLOBAL)
    monkeypatch.setattr(nvrtc, "_nvrtc", lambda: library)
    return library


VARIANTS = [
    Packer(),
    *[Updater(is_fast, is_fast, is_lean) for is_fast in (False, True) for is_lean in (False, True)],
    *[Updater(is_fast, False, is_lean, has_pieces=True) for is_fast in (False, True) for is_lean in (False, True)],
    *[Encoder(is_aligned, is_aligned, writes=is_aligned) for is_aligned in (False, True)],
]


@pytest.mark.parametrize("architecture", [61, 75, 80, 90, 120])
def test_the_source_compiles_for_gpus_from_pascal_to_blackwell(
    architecture: int, compiler: ctypes.CDLL
):
    # Without tensor cores for it, bfloat16 is the same on 7.5 as on 6.1.
    dtypes = (torch.float16,) if architecture == 75 else (torch.float16, torch.bfloat16)
    for dtype, variant in product(dtypes, VARIANTS):
        cores = 16 if architecture >= 80 else 8 if architecture >= 75 and dtype == torch.float16 else 0
        assert nvrtc.compiled(*compiled.texts(variant), f"sm_{architecture}", compiled.macros(dtype, cores, variant))


def test_a_gpu_that_is_newer_than_the_compiler_gets_what_it_can_run(compiler: ctypes.CDLL):
    macros, sources = compiled.macros(torch.float16, 16, VARIANTS[0]), compiled.texts(VARIANTS[0])
    with pytest.raises(nvrtc.CompilerError):
        nvrtc.compiled(*sources, "sm_85", macros)
    assert nvrtc.compiled_for((8, 5), *sources, macros) == nvrtc.compiled(*sources, "sm_80", macros)


def test_what_does_not_compile_is_said_in_the_compilers_words(compiler: ctypes.CDLL):
    with pytest.raises(nvrtc.CompilerError, match="nonsense"):
        nvrtc.compiled("nonsense", {}, "sm_90", {})
