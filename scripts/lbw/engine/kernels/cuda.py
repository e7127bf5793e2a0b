"""The in-place update in CUDA C++: one launch for all layers of a switch, and one pass over each weight.

What happens on the GPU is in ``update.cu`` and ``encode.cu``; here are the tables that they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lbw.engine import lean
from lbw.engine.factors import FactorPlan
from lbw.engine.kernels.compiled import DTYPES, STRIP_HEIGHT, THREADS, Encoder, Updater, kernel_for
from lbw.engine.lean import Codes
from lbw.engine.pieces import Kind, Piece

MOST = 0.75
"""How large codes may be, as a share of their weight: what is larger is better copied."""

_PART = np.dtype(
    [(name, np.uint64) for name in ("weight", "base", "codes", "up", "down")]
    + [(name, np.int32) for name in ("height", "width", "first_chunk", "chunks", "first_piece", "pieces")]
)
_PIECE = np.dtype(
    [("left", np.uint64), ("right", np.uint64)]
    + [(name, np.int32) for name in ("kind", "first_chunk", "chunks", "other_chunks", "left_width", "height", "width")]
    + [("shift", np.float32)]
)

Uploaded = tuple[Tensor, "Tensor | None"]
"""Coefficients on the device: those wanted, and those in force for weights whose pristine values are recovered."""


def supports(weight: Tensor) -> bool:
    """Whether a weight can be in a :class:`PartTable`, once it is on the kernels' device."""
    return weight.dtype in DTYPES and weight.is_contiguous() and weight.numel() < 2**31


def is_aligned(weight: Tensor) -> bool:
    """Whether every row begins where a thread can move 16 bytes at once; a weight that is not slows its launch down."""
    return _matrix(weight)[1] % 8 == 0 and weight.data_ptr() % 16 == 0


def _matrix(weight: Tensor) -> tuple[int, int]:
    """The rows and columns that the kernels see: [out, all the rest], and one row of a norm."""
    rows = weight.shape[0] if weight.dim() > 1 else 1
    return rows, weight.numel() // rows


def can_be_encoded(weight: Tensor) -> bool:
    """Whether codes of a weight that need no escapes are worth it: they take whole strips of rows."""
    return lean.code_size(*_matrix(weight)) <= MOST * weight.nbytes


class PartTable:
    """Many weights of one dtype, as the kernels read of them.

    A weight is [out, ...], or [channels] of a norm, contiguous and 16-bit. The table holds addresses: it has to be told
    of them, and again when a weight has moved.

    Args:
        weights: wherever they are at this moment.
        pieces: what may be added to each.
        factors: of all pieces, in their order.
        has_pieces: whether pieces are of any kind; else they are low-rank.
    """

    def __init__(
        self, weights: Sequence[Tensor], pieces: Sequence[Sequence[Piece]], factors: FactorPlan, *, has_pieces: bool
    ) -> None:
        self.dtype, self.has_pieces = weights[0].dtype, has_pieces
        self.shapes = [_matrix(weight) for weight in weights]
        self.sizes = np.array([weight.nbytes for weight in weights])
        self.is_one_each = not has_pieces and all(len(chunks) < 2 for chunks in factors.chunks)
        self.is_aligned = True
        self._pieces, self._factors = pieces, factors
        self._table = np.zeros(len(weights), _PART)
        self._table["height"], self._table["width"] = np.array(self.shapes).T
        _number(self._table, "chunk", list(map(sum, factors.chunks)))
        _number(self._table, "piece", list(map(len, pieces)))
        self._piece_table = _piece_table(pieces, factors)
        self._strips: dict[int, np.ndarray] = {}
        self.on_device: tuple[Tensor, Tensor] | None = None
        """The tables of parts and of pieces, where the kernels read them."""

    def load(self, factors: Tensor, matrices: Sequence[Sequence[Piece]], device: torch.device) -> None:
        """Have the table on ``device``; where weights are has to be told, see :meth:`locate`.

        Args:
            factors: those of all parts, as the plan packs them.
            matrices: the pieces with their matrices on the device.
        """
        for side, places in (("up", self._factors.ups), ("down", self._factors.downs)):
            self._table[side] = factors.data_ptr() + places * factors.element_size()
        for side, number in (("left", 0), ("right", 1)):
            found = ((piece.left, piece.right)[number] for piece in chain.from_iterable(matrices))
            self._piece_table[side] = [0 if matrix is None else matrix.data_ptr() for matrix in found]
        self._upload(device)

    def unload(self) -> None:
        self.on_device = None

    def _upload(self, device: torch.device) -> None:
        parts, pieces = (torch.from_numpy(each.view(np.uint8)).to(device, copy=True) for each in (
            self._table, self._piece_table
        ))
        self.on_device = parts, pieces

    def locate(self, weights: Sequence[Tensor], bases: Sequence[Tensor]) -> None:
        """Note where weights and their pristine values are now; they are on the device.

        Args:
            bases: the weights themselves where pristine values are recovered from them, or put there beforehand.
        """
        self._table["weight"] = [weight.data_ptr() for weight in weights]
        self._table["base"] = [base.data_ptr() for base in bases]
        places = np.concatenate((self._table["weight"], self._table["base"]))
        self.is_aligned = bool((self._table["width"] % 8 == 0).all() and (places % 16 == 0).all())
        self._upload(weights[0].device)

    def point_at(self, codes: Codes) -> None:
        """Note where codes are."""
        self._table["codes"] = codes.codes.data_ptr() + codes.firsts
        self._upload(codes.codes.device)

    @property
    def coefficients(self) -> int:
        """How many coefficients the parts have: one for each piece, or for each chunk of the factors."""
        return int(self._table["pieces" if self.has_pieces else "chunks"].sum())

    def strips(self, height: int) -> np.ndarray:
        """[strips, 4] int32: the part of each strip, its first row and column, and its number."""
        if height not in self._strips:
            across = -(-self._table["width"] // lean.TILE_WIDTH)
            counts = -(-self._table["height"] // height) * across
            parts = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
            numbers = np.arange(len(parts), dtype=np.int32)
            within = numbers - (np.cumsum(counts, dtype=np.int32) - counts)[parts]
            rows, columns = np.divmod(within, across[parts])
            self._strips[height] = np.stack((parts, rows * height, columns * lean.TILE_WIDTH, numbers), axis=1)
        return self._strips[height]


class Update:
    """The kernel for all weights of a table. Its coefficients are one for each piece, or for each chunk of factors.

    Args:
        table: loaded, and told where the weights are; each has its pristine value beside it, or in it if there are
            codes.
        codes: what the pristine values are recovered with. Those in force are needed then, and have to be true.
    """

    def __init__(self, table: PartTable, codes: Codes | None, device: torch.device) -> None:
        self._table, self._codes, self._device = table, codes, device
        self.relocate()
        self._parameters = self._kernel.parameters(table.coefficients * (1 if codes is None else 2))
        if codes is not None:
            table.point_at(codes)

    def relocate(self) -> None:
        """The table has been told of other places, of which not all may be aligned as those before."""
        table = self._table
        source = Updater(table.is_aligned, table.is_one_each, self._codes is not None, table.has_pieces)
        self._kernel = kernel_for(self._device, table.dtype, source)

    def upload(self, *coefficients: np.ndarray) -> Uploaded:
        """Bring coefficients to the device, which the next launches need."""
        count = len(coefficients[0])
        both = self._parameters.upload(np.concatenate(coefficients))
        return both[:count], both[count:] if len(coefficients) > 1 else None

    def launch(self, strips: Tensor, uploaded: Uploaded) -> None:
        """Bring the weights in some strips to the coefficients that were ``uploaded``.

        Args:
            strips: [strips, 4] on the device, some rows of the table's.
        """
        if len(strips):
            assert self._table.on_device is not None
            parts, pieces = self._table.on_device
            codes = (None, None) if self._codes is None else (self._codes.starts, self._codes.escapes)
            self._kernel.launch(len(strips), THREADS, [strips, parts, *uploaded, *codes, pieces])


def strip_height(is_lean: bool) -> int:
    """Rows of a strip."""
    return lean.STRIP_HEIGHT if is_lean else STRIP_HEIGHT


def encode(
    table: PartTable, strips: Tensor, limits: np.ndarray, errors: np.ndarray
) -> tuple[Codes, np.ndarray]:
    """What is kept of the weights of a table, which are pristine.

    Args:
        table: loaded, and told where the weights are.
        strips: all of the table's, in any order, on the device.
        limits: the largest magnitude of each piece's coefficient.
        errors: how far the sum of each piece's products may be off, in parts of the sum of their magnitudes.

    Returns:
        The codes, and for each part whether it can be kept so; those of the others are not to be used.

    Raises:
        torch.cuda.OutOfMemoryError: they do not fit.
    """
    device = strips.device
    numbers = [torch.from_numpy(each.astype(np.float32)).to(device) for each in (limits, errors)]
    counts = torch.zeros(len(strips) + 1, dtype=torch.int32, device=device)
    unkept = torch.zeros(len(table.shapes), dtype=torch.int32, device=device)

    def launch(writes: bool, starts: Tensor | None, escapes: Tensor | None) -> None:
        assert table.on_device is not None
        parts, pieces = table.on_device
        kernel = kernel_for(device, table.dtype, Encoder(table.is_aligned, table.has_pieces, writes))
        arguments = [strips, parts, *numbers, pieces, counts[1:], unkept, starts, escapes]
        kernel.launch(len(strips), THREADS, arguments)

    launch(False, None, None)
    starts = counts.cumsum(0, dtype=torch.int32)
    ends = np.searchsorted(table.strips(lean.STRIP_HEIGHT)[:, 0], np.arange(len(table.shapes) + 1))
    told = torch.cat([starts[torch.from_numpy(ends).to(device)], unkept]).cpu().numpy()
    found, is_unkept = np.diff(told[: len(ends)]), told[len(ends) :] != 0
    codes = Codes.empty(table.shapes, starts, int(found.sum()))
    sizes = np.diff(codes.firsts, append=codes.codes.numel()) + 4 * found
    table.point_at(codes)
    launch(True, codes.starts, codes.escapes)
    return codes, (sizes <= MOST * table.sizes) & ~is_unkept


def _number(table: np.ndarray, what: str, counts: Sequence[int]) -> None:
    """Note how many chunks or pieces each part has, and the number of its first one."""
    table[f"{what}s"] = counts
    table[f"first_{what}"] = np.cumsum(counts) - counts


def _piece_table(pieces: Sequence[Sequence[Piece]], factors: FactorPlan) -> np.ndarray:
    """One row for each piece, without addresses; its chunks are counted from the first of its part."""
    rows = []
    for of_part, all_chunks in zip(pieces, factors.chunks, strict=True):
        counts = iter(all_chunks)
        first = 0
        for piece in of_part:
            chunks = [next(counts) for _ in piece.factors] + [0, 0]
            rows.append(_piece_row(piece, first, chunks[0], chunks[1]))
            first += sum(chunks)
    return np.array(rows, _PIECE)


def _piece_row(piece: Piece, first_chunk: int, chunks: int, other_chunks: int) -> tuple[int | float, ...]:
    if piece.kind in (Kind.LOW_RANK, Kind.HADAMARD):
        return 0, 0, piece.kind, first_chunk, chunks, other_chunks, 0, 0, 0, 0.0
    assert piece.left is not None
    if piece.kind == Kind.ROTATION:
        return 0, 0, piece.kind, 0, piece.left.shape[1], 0, 0, piece.block, 0, 0.0
    right = (0, 0) if piece.right is None else (piece.right.shape[0], piece.right.shape[-1])
    return 0, 0, piece.kind, first_chunk, 0, 0, piece.left.shape[-1], *right, piece.shift
