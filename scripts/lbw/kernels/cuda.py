"""The in-place update in CUDA C++: one launch for all layers of a switch, and one pass over each weight.

What happens on the GPU is in ``update.cu``; here are the tables that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Lock, Thread

import numpy as np
import torch
from torch import Tensor

from lbw import lean
from lbw.factors import Factors
from lbw.kernels.nvrtc import CompilerError, Kernel
from lbw.kernels.part import LeanPart, Part, PiecePart
from lbw.pieces import Piece

THREADS = 128
STRIP_HEIGHT = 160
"""Rows of a weight that a block works on, without :class:`GroupedLeanUpdate`; the fastest on an H100."""

_DTYPES = (torch.float16, torch.bfloat16)

_PART = np.dtype(
    [(name, np.uint64) for name in ("weight", "base", "codes", "escapes", "up", "down")]
    + [(name, np.int32) for name in ("height", "width", "first_chunk", "chunks", "first_piece", "pieces")]
)
_PIECE = np.dtype(
    [("left", np.uint64), ("right", np.uint64)]
    + [(name, np.int32) for name in ("kind", "first_chunk", "chunks", "other_chunks", "left_width", "height", "width")]
    + [("shift", np.float32)]
)

FOLDER = Path(__file__).parent

_compiling = Lock()

Uploaded = tuple[Tensor, "Tensor | None"]
"""Coefficients on the device: those wanted, and those in force for parts without a copy."""


def supports(weight: Tensor) -> bool:
    """Whether a weight can be the weight of a :class:`lbw.kernels.part.Part`."""
    return (
        _runs_on(weight.device)
        and weight.dtype in _DTYPES
        and weight.is_contiguous()
        and weight.numel() < 2**31
    )


def is_aligned(weight: Tensor) -> bool:
    """Whether every row begins where a thread can move 16 bytes at once; a weight that is not slows its launch down."""
    return _width(weight) % 8 == 0 and weight.data_ptr() % 16 == 0


def prepare(device: torch.device, dtype: torch.dtype) -> None:
    """Compile in the background what switches will need, the most likely first: each takes some tenths of a second."""
    if _runs_on(device) and dtype in _DTYPES:
        Thread(target=_prepare, args=(device, dtype), daemon=True).start()


def _prepare(device: torch.device, dtype: torch.dtype) -> None:
    with suppress(OSError, CompilerError):  # the first switch says what is wrong
        numbered = torch.empty(0, device=device).device
        for variant in (Variant(True, True), Variant(True, False), Variant(True, False, has_pieces=True)):
            kernel_for(numbered, dtype, variant)


@dataclass(frozen=True)
class Variant:
    """What one kernel can do, and leaves out; the macros of ``update.cu``."""

    is_aligned: bool
    is_one_each: bool
    is_lean: bool = False
    has_pieces: bool = False


def kernel_for(device: torch.device, dtype: torch.dtype, variant: Variant) -> Kernel:
    """The kernel for weights of a type, compiled once for each device."""
    with _compiling:
        return _compiled(device, dtype, variant)


@cache
def _compiled(device: torch.device, dtype: torch.dtype, variant: Variant) -> Kernel:
    options = macros(dtype, _tensor_cores(device, dtype), variant)
    source, primitives = ((FOLDER / name).read_text(encoding="utf-8") for name in ("update.cu", "primitives.cuh"))
    return Kernel("update", source, {"primitives.cuh": primitives}, options, device)


def macros(dtype: torch.dtype, tensor_cores: int, variant: Variant) -> dict[str, int]:
    """What ``update.cu`` is compiled with."""
    has_two_sums = variant.has_pieces or (variant.is_lean and not variant.is_one_each)
    return {
        "BFLOAT16": int(dtype == torch.bfloat16),
        "TENSOR_CORES": tensor_cores,
        "ALIGNED": int(variant.is_aligned),
        "ONE_EACH": int(variant.is_one_each),
        "LEAN": int(variant.is_lean),
        "PIECES": int(variant.has_pieces),
        "STEPS": (lean.STRIP_HEIGHT if variant.is_lean else STRIP_HEIGHT) // lean.TILE_HEIGHT,
        # Two sums for each weight do not fit in the registers that four blocks leave to a thread.
        "BLOCKS_AT_ONCE": 3 if has_two_sums else 4,
    }


def _tensor_cores(device: torch.device, dtype: torch.dtype) -> int:
    capability = torch.cuda.get_device_capability(device)
    return 16 if capability >= (8, 0) else 8 if capability >= (7, 5) and dtype == torch.float16 else 0


def _runs_on(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.cuda is not None


def _width(weight: Tensor) -> int:
    return weight.numel() // weight.shape[0]


class Update:
    """The tables of one kernel for many weights of one dtype and device.

    It holds the addresses of its parts: when one of them has moved, a new one has to be made. The parts can be written
    in stages: ``cuts`` are the numbers of the parts with which the second and later ones begin.
    """

    def __init__(
        self,
        parts: Sequence[Part] | Sequence[LeanPart],
        bases: Sequence[Tensor],
        cuts: Sequence[int],
        *,
        codes: Sequence[lean.Code] = (),
        pieces: Sequence[Sequence[Piece]] = (),
    ) -> None:
        weight = parts[0].weight
        factors = [part.factors for part in parts]
        variant = Variant(
            is_aligned=all(map(is_aligned, (*[part.weight for part in parts], *bases))),
            is_one_each=not pieces and all(each is None or len(each.chunks) == 1 for each in factors),
            is_lean=len(codes) > 0,
            has_pieces=len(pieces) > 0,
        )
        self._kernel = kernel_for(weight.device, weight.dtype, variant)
        table = np.zeros(len(parts), _PART)
        table["weight"] = [part.weight.data_ptr() for part in parts]
        table["base"] = [base.data_ptr() for base in bases]
        if codes:
            table["codes"] = [code.codes.data_ptr() for code in codes]
            table["escapes"] = [code.escapes.data_ptr() for code in codes]
        table["up"] = [0 if each is None else each.up.data_ptr() for each in factors]
        table["down"] = [0 if each is None else each.down.data_ptr() for each in factors]
        table["height"] = [part.weight.shape[0] for part in parts]
        table["width"] = [_width(part.weight) for part in parts]
        _number(table, "chunk", [0 if each is None else len(each.up) for each in factors])
        _number(table, "piece", [len(each) for each in pieces] if pieces else [0] * len(parts))
        coefficients = table["pieces" if pieces else "chunks"].sum() * (2 if codes else 1)
        self._parameters = self._kernel.parameters(int(coefficients))
        self._table = self._kernel.upload(table.view(np.uint8))
        self._pieces = self._kernel.upload(_piece_table(factors, pieces).view(np.uint8)) if pieces else None
        all_strips = _strips(table, lean.STRIP_HEIGHT if codes else STRIP_HEIGHT)
        strips, ends = self._kernel.upload(all_strips), [0, *np.searchsorted(all_strips[:, 0], cuts), len(all_strips)]
        escapes = torch.cat([code.starts for code in codes]) if codes else None
        self._stages = [
            (int(end - first), strips[first:], escapes[first:] if escapes is not None else None)
            for first, end in pairwise(ends)
        ]
        self._kept_alive = factors, bases, codes, pieces

    def upload(self, *coefficients: np.ndarray) -> Uploaded:
        """Bring coefficients to the device, which the next launches need."""
        count = len(coefficients[0])
        both = self._parameters.upload(np.concatenate(coefficients))
        return both[:count], both[count:] if len(coefficients) > 1 else None

    def launch(self, stage: int, uploaded: Uploaded) -> None:
        """Bring the weights of a stage to the coefficients that were ``uploaded``."""
        blocks, strips, first_escapes = self._stages[stage]
        if blocks:
            self._kernel.launch(blocks, THREADS, [strips, self._table, *uploaded, first_escapes, self._pieces])


class GroupedUpdate(Update):
    """Updates many weights, as often as wanted. Its coefficients are one for each chunk of the parts' factors."""

    def __init__(self, parts: Sequence[Part], cuts: Sequence[int] = ()) -> None:
        super().__init__(parts, [part.base for part in parts], cuts)


class GroupedLeanUpdate(Update):
    """Updates many weights, and recovers their pristine values on the way.

    Its coefficients are those wanted, and those in force, which have to be true.
    """

    def __init__(self, parts: Sequence[LeanPart], cuts: Sequence[int] = ()) -> None:
        super().__init__(parts, [part.weight for part in parts], cuts, codes=[part.code for part in parts])


class GroupedPieceUpdate(Update):
    """Updates many weights whose deltas are pieces of any kind. Its coefficients are one for each piece."""

    def __init__(self, parts: Sequence[PiecePart], cuts: Sequence[int] = ()) -> None:
        super().__init__(parts, [part.base for part in parts], cuts, pieces=[part.pieces for part in parts])


def _number(table: np.ndarray, what: str, counts: Sequence[int]) -> None:
    """Note how many chunks or pieces each part has, and the number of its first one."""
    table[f"{what}s"] = counts
    table[f"first_{what}"] = np.cumsum(counts) - counts


def _piece_table(factors: Sequence[Factors | None], pieces: Sequence[Sequence[Piece]]) -> np.ndarray:
    """One row for each piece; its chunks are counted from the first of its part."""
    rows = []
    for packed, chosen in zip(factors, pieces, strict=True):
        counts = iter(packed.chunks if packed is not None else ())
        first = 0
        for piece in chosen:
            chunks = [next(counts) for _ in piece.factors] + [0, 0]
            left, right = piece.left, piece.right
            rows.append(
                (
                    0 if left is None else left.data_ptr(),
                    0 if right is None else right.data_ptr(),
                    piece.kind, first, chunks[0], chunks[1],
                    0 if left is None else left.shape[-1],
                    0 if right is None else right.shape[0],
                    0 if right is None else right.shape[-1],
                    piece.shift,
                )
            )  # fmt: skip
            first += sum(chunks)
    return np.array(rows, _PIECE)


def _strips(table: np.ndarray, height: int) -> np.ndarray:
    """[strips, 4] int32: the part that each strip belongs to, its first row and column, and 0."""
    across = -(-table["width"] // lean.TILE_WIDTH)
    counts = -(-table["height"] // height) * across
    parts = np.repeat(np.arange(len(table)), counts)
    numbers = np.arange(len(parts)) - (np.cumsum(counts) - counts)[parts]
    rows, columns = np.divmod(numbers, across[parts])
    return np.stack((parts, rows * height, columns * lean.TILE_WIDTH, 0 * parts), axis=1).astype(np.int32)
