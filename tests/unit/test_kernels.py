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

from lbw import lean
from lbw.deltas import LowRank
from lbw.factors import CHUNK, FactorStore
from lbw.kernels import cuda, nvrtc
from lbw.kernels.cuda import GroupedLeanUpdate, GroupedPieceUpdate, GroupedUpdate, Update
from lbw.kernels.part import LeanPart, Part, PiecePart
from lbw.pieces import Kind, Piece
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


def write(update: Update, *coefficients: np.ndarray) -> None:
    """Bring all weights to the coefficients, stage by stage."""
    uploaded = update.upload(*coefficients)
    for stage in range(len(update._stages)):
        update.launch(stage, uploaded)


class Group:
    """Weights whose content is poison, their bases, random deltas, and the launch that updates them all."""

    def __init__(
        self,
        place: Place,
        shapes: list[tuple[int, int]],
        ranks: list[int],
        in_place: bool = False,
        cuts: Sequence[int] = (),
    ) -> None:
        device, dtype = place
        torch.manual_seed(3)
        self.bases = [(torch.randn(shape) * 0.05).to(device, dtype) for shape in shapes]
        self.weights = [torch.full_like(base, float("nan")) for base in self.bases]
        self.deltas = [
            [
                LowRank(torch.randn(out, rank).to(dtype) * 0.1, torch.randn(rank, into).to(dtype) * 0.1, 1.0)
                for rank in ranks
            ]
            for out, into in shapes
        ]
        store = FactorStore()
        store.pack(self.deltas, torch.device(device), dtype)
        if in_place:
            self.weights = [base.clone() for base in self.bases]
        sources = self.weights if in_place else self.bases
        self.factors = [store.of(deltas) for deltas in self.deltas]
        self.launch = GroupedUpdate(
            [
                Part(weight, source, factors)
                for weight, source, factors in zip(self.weights, sources, self.factors, strict=True)
            ],
            cuts,
        )

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
        return np.repeat(coefficients, [count for each in self.factors for count in each.chunks])

    def check(self, coefficients: list[float]) -> None:
        write(self.launch, self.by_chunk(coefficients))
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
    write(group.launch, group.by_chunk([0.0] * (2 * len(SHAPES))))
    for weight, base in zip(group.weights, group.bases, strict=True):
        assert weight.view(torch.int16).equal(base.view(torch.int16))


class PieceGroup:
    """Weights whose content is poison, and random pieces of every kind for each of them, in an order of its own."""

    def __init__(self, place: Place, shapes: list[tuple[int, int]]) -> None:
        self._place = place
        torch.manual_seed(4)
        self.bases = [(torch.randn(shape) * 0.05).to(*place) for shape in shapes]
        self.weights = [torch.full_like(base, float("nan")) for base in self.bases]
        self.pieces = [self._pieces(base, index) for index, base in enumerate(self.bases)]
        factors = [[factor for piece in pieces for factor in piece.factors] for pieces in self.pieces]
        store = FactorStore()
        store.pack(factors, torch.device(place.device), place.dtype)
        self.update = GroupedPieceUpdate(
            [
                PiecePart(weight, base, store.of(chosen), tuple(pieces))
                for weight, base, chosen, pieces in zip(self.weights, self.bases, factors, self.pieces, strict=True)
            ],
            cuts=[1],
        )

    def _pieces(self, base: Tensor, index: int) -> list[Piece]:
        device, dtype = self._place
        out, into = base.shape

        def random(*shape: int) -> Tensor:
            return torch.randn(shape) * 0.3

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
                Piece(kind, left=left.to(device), right=None if right is None else right.to(device), shift=0.7)
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
        write(self.update, coefficients)
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


def test_a_piece_that_is_no_number_does_no_harm_at_strength_0(place: Place):
    group = PieceGroup(place, [(64, 128)])
    group.pieces[0][2].left.fill_(float("nan"))
    coefficients = np.array([0.5, 0.5, 0.0, 0.5, 0.5, 0.5])
    write(group.update, coefficients)
    group.pieces[0][2].left.zero_()
    assert ulp_distance(group.weights[0], group.expected(group.bases[0], group.pieces[0], coefficients), 1e-6) <= 1


def test_the_base_may_be_the_weight_itself(place: Place):
    Group(place, SHAPES, [16], in_place=True).check([1.0, -2.0, 0.5, 0.0, 3.0, 0.1])


def test_a_third_of_the_rows_is_a_part_of_its_own(place: Place):
    device, dtype = place
    weight = torch.full((60, 32), 7.0, dtype=dtype, device=device)
    base = torch.randn(60, 32).to(device, dtype)
    delta = LowRank(torch.randn(20, 4).to(dtype), torch.randn(4, 32).to(dtype), 1.0)
    store = FactorStore()
    store.pack([[delta]], torch.device(device), dtype)
    part = Part(weight.chunk(3)[1], base.chunk(3)[1], store.of([delta]))
    write(GroupedUpdate([part]), np.array([0.5]))
    expected = (base[20:40].double().cpu() + 0.5 * (delta.up.double() @ delta.down.double())).to(dtype)
    assert ulp_distance(weight[20:40], expected) <= 1
    assert (weight[:20] == 7.0).all() and (weight[40:] == 7.0).all()


def test_factors_are_packed_once_and_padded_with_zeros(place: Place):
    device, dtype = torch.empty(0, device=place.device).device, place.dtype
    deltas = [LowRank(torch.ones(5, rank, dtype=dtype), torch.ones(rank, 3, dtype=dtype), 1.0) for rank in (3, 16)]
    store = FactorStore()
    store.pack([deltas], device, dtype)
    packed = store.of(deltas)
    assert packed.chunks == (1, 1)
    assert packed.up.numel() == packed.down.numel() == 2 * 32 * CHUNK, "rows and columns are padded to 32"
    assert len(packed.up) == len(packed.down) == 2
    assert packed.up.sum() == 5 * 19 and packed.down.sum() == 3 * 19
    assert packed.up.data_ptr() % 16 == 0 and packed.down.data_ptr() % 16 == 0
    store.pack([deltas], device, dtype)
    assert store.of(deltas) is packed
    store.pack([deltas[:1]], device, dtype)
    assert store.of(deltas[:1]).chunks == (1,)


def test_a_weight_without_deltas_becomes_its_base(place: Place):
    device, dtype = place
    base = torch.randn(70, 33).to(device, dtype)
    weight = torch.full_like(base, 7.0)
    write(GroupedUpdate([Part(weight, base, None)]), np.zeros(0))
    assert weight.equal(base)


@pytest.mark.parametrize("cuts", [[0], [1, 4], [4, 4], [2, len(SHAPES)]], ids=str)
def test_weights_are_written_in_stages(place: Place, cuts: list[int]):
    group = Group(place, SHAPES, [4], cuts=cuts)
    coefficients = [0.3 * index - 0.7 for index in range(len(SHAPES))]
    uploaded = group.launch.upload(group.by_chunk(coefficients))
    for stage, end in enumerate([*cuts, len(SHAPES)]):
        group.launch.launch(stage, uploaded)
        untouched = [bool(weight.isnan().all()) for weight in group.weights]
        assert untouched == [index >= end for index in range(len(SHAPES))]
    for weight, expected in zip(group.weights, group.expected(coefficients), strict=True):
        assert ulp_distance(weight, expected, NOISE) <= 1


def test_a_base_that_is_not_aligned_as_its_weight_is_read_as_well(place: Place):
    device, dtype = place
    base = torch.randn(64 * 128 + 1).to(device, dtype)[1:].view(64, 128)
    weight = torch.full_like(base, float("nan"), memory_format=torch.contiguous_format)
    write(GroupedUpdate([Part(weight, base, None)]), np.zeros(0))
    assert weight.equal(base)


@pytest.mark.parametrize("shapes", [SHAPES, ALIGNED_SHAPES], ids=["any", "aligned"])
def test_the_lean_kernel_recovers_the_base_and_goes_to_any_strength(place: Place, shapes):
    group = Group(place, shapes, [16, 4], in_place=True)
    spreads = [
        sum((delta.up.float() @ delta.down.float()).abs() for delta in deltas).to(base.device)
        for base, deltas in zip(group.bases, group.deltas, strict=True)
    ]
    codes = [
        lean.encode(base, spread, torch.full_like(spread, 1e-6))
        for base, spread in zip(group.bases, spreads, strict=True)
    ]
    launch = GroupedLeanUpdate(
        [
            LeanPart(weight, code, factors)
            for weight, code, factors in zip(group.weights, codes, group.factors, strict=True)
        ],
        cuts=[2],
    )
    in_force = [0.0] * (2 * len(shapes))
    for strength in (1.0, -0.7, 0.0, 0.3):
        wanted = [strength * (-1) ** index for index in range(2 * len(shapes))]
        write(launch, group.by_chunk(wanted), group.by_chunk(in_force))
        in_force = wanted
        for weight, expected in zip(group.weights, group.expected(wanted), strict=True):
            assert ulp_distance(weight, expected, NOISE) <= 1
    write(launch, group.by_chunk([0.0] * (2 * len(shapes))), group.by_chunk(in_force))
    for weight, base in zip(group.weights, group.bases, strict=True):
        assert weight.view(torch.int16).equal(base.view(torch.int16))
    assert sum(len(code.escapes) for code in codes) > 0


@pytest.mark.parametrize("tensor_cores", [0, 8])
def test_gpus_with_older_tensor_cores_or_none_get_the_same_sums(tensor_cores: int, monkeypatch: pytest.MonkeyPatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    cuda._compiled.cache_clear()
    monkeypatch.setattr(cuda, "_tensor_cores", lambda _device, _dtype: tensor_cores)
    try:
        Group(Place("cuda", torch.float16), SHAPES, [1, 16, 48]).check([0.3 * (i % 5) - 0.7 for i in range(18)])
    finally:
        cuda._compiled.cache_clear()


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, str]]:
    """The kernel and its headers; the compiler is the one that comes with the tests."""
    folder = Path(sysconfig.get_path("purelib")) / "nvidia/cuda_nvrtc/lib"
    if not folder.exists():
        pytest.skip("needs NVRTC")
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        library = ctypes.CDLL(str(next(folder.glob(name))), mode=ctypes.RTLD_GLOBAL)
    monkeypatch.setattr(nvrtc, "_nvrtc", lambda: library)
    source, primitives = ((cuda.FOLDER / name).read_text() for name in ("update.cu", "primitives.cuh"))
    return source, {"primitives.cuh": primitives}


VARIANTS = [
    *[cuda.Variant(is_fast, is_fast, is_lean) for is_fast in (False, True) for is_lean in (False, True)],
    *[cuda.Variant(is_aligned, False, has_pieces=True) for is_aligned in (False, True)],
]


@pytest.mark.parametrize("architecture", [61, 75, 80, 90, 120])
def test_the_source_compiles_for_gpus_from_pascal_to_blackwell(
    architecture: int, sources: tuple[str, dict[str, str]]
):
    for dtype, variant in product((torch.float16, torch.bfloat16), VARIANTS):
        cores = 16 if architecture >= 80 else 8 if architecture >= 75 and dtype == torch.float16 else 0
        assert nvrtc.compiled(*sources, f"sm_{architecture}", cuda.macros(dtype, cores, variant))


def test_a_gpu_that_is_newer_than_the_compiler_gets_what_it_can_run(sources: tuple[str, dict[str, str]]):
    macros = cuda.macros(torch.float16, 16, VARIANTS[0])
    with pytest.raises(nvrtc.CompilerError):
        nvrtc.compiled(*sources, "sm_85", macros)
    assert nvrtc.compiled_for((8, 5), *sources, macros) == nvrtc.compiled(*sources, "sm_80", macros)


def test_what_does_not_compile_is_said_in_the_compilers_words(sources: tuple[str, dict[str, str]]):
    with pytest.raises(nvrtc.CompilerError, match="nonsense"):
        nvrtc.compiled("nonsense", {}, "sm_90", {})
