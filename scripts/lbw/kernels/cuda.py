"""The in-place update in CUDA C++: one launch for all layers of a switch, and one pass over each weight.

What happens on the GPU is in ``update.cu``; here are the tables that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock, Thread

import numpy as np
import torch
from torch import Tensor

from lbw import lean
from lbw.kernels.nvrtc import CompilerError, Kernel
from lbw.kernels.part import LeanPart, Part

THREADS = 128
STRIP_HEIGHT = 160
"""Rows of a weight that a block works on, without :class:`GroupedLeanUpdate`; the fastest on an H100."""

_DTYPES = (torch.float16, torch.bfloat16)

_PART = np.dtype(
    [(name, np.uint64) for name in ("weight", "base", "codes", "escapes", "up", "down")]
    + [(name, np.int32) for name in ("height", "width", "first_chunk", "chunks")]
)

FOLDER = Path(__file__).parent

_compiling = Lock()


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
    """Compile in the background what the first switch will need, which takes some tenths of a second."""
    if _runs_on(device) and dtype in _DTYPES:
        Thread(target=_prepare, args=(device, dtype), daemon=True).start()


def _prepare(device: torch.device, dtype: torch.dtype) -> None:
    with suppress(OSError, CompilerError):  # the first switch says what is wrong
        numbered = torch.empty(0, device=device).device
        kernel_for(numbered, dtype, is_aligned=True, is_one_each=True, is_lean=False)


def kernel_for(
    device: torch.device, dtype: torch.dtype, *, is_aligned: bool, is_one_each: bool, is_lean: bool
) -> Kernel:
    """The kernel for weights of a type, compiled once for each device; the options are the macros of ``update.cu``."""
    with _compiling:
        return _compiled(device, dtype, is_aligned, is_one_each, is_lean)


@cache
def _compiled(
    device: torch.device, dtype: torch.dtype, is_aligned: bool, is_one_each: bool, is_lean: bool
) -> Kernel:
    options = macros(
        dtype, _tensor_cores(device, dtype), is_aligned=is_aligned, is_one_each=is_one_each, is_lean=is_lean
    )
    source, primitives = ((FOLDER / name).read_text(encoding="utf-8") for name in ("update.cu", "primitives.cuh"))
    return Kernel("update", source, {"primitives.cuh": primitives}, options, device)


def macros(
    dtype: torch.dtype, tensor_cores: int, *, is_aligned: bool, is_one_each: bool, is_lean: bool
) -> dict[str, int]:
    """What ``update.cu`` is compiled with."""
    return {
        "BFLOAT16": int(dtype == torch.bfloat16),
        "TENSOR_CORES": tensor_cores,
        "ALIGNED": int(is_aligned),
        "ONE_EACH": int(is_one_each),
        "LEAN": int(is_lean),
        "STEPS": (lean.STRIP_HEIGHT if is_lean else STRIP_HEIGHT) // lean.TILE_HEIGHT,
        # Two sums for each weight do not fit in the registers that four blocks leave to a thread.
        "BLOCKS_AT_ONCE": 3 if is_lean and not is_one_each else 4,
    }


def _tensor_cores(device: torch.device, dtype: torch.dtype) -> int:
    capability = torch.cuda.get_device_capability(device)
    return 16 if capability >= (8, 0) else 8 if capability >= (7, 5) and dtype == torch.float16 else 0


def _runs_on(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.cuda is not None


def _width(weight: Tensor) -> int:
    return weight.numel() // weight.shape[0]


class _Launch:
    """The tables of one launch for many weights of one dtype and device.

    It holds the addresses of its parts: when one of them has moved, a new one has to be made.
    """

    def __init__(self, parts: Sequence[Part] | Sequence[LeanPart], bases: Sequence[Tensor], *, is_lean: bool) -> None:
        weight = parts[0].weight
        factors = [part.factors for part in parts]
        self._kernel = kernel_for(
            weight.device,
            weight.dtype,
            is_aligned=all(map(is_aligned, (*[part.weight for part in parts], *bases))),
            is_one_each=all(each is None or len(each.chunks) == 1 for each in factors),
            is_lean=is_lean,
        )
        self._table = np.zeros(len(parts), _PART)
        self._table["weight"] = [part.weight.data_ptr() for part in parts]
        self._table["base"] = [base.data_ptr() for base in bases]
        self._table["up"] = [0 if each is None else each.up.data_ptr() for each in factors]
        self._table["down"] = [0 if each is None else each.down.data_ptr() for each in factors]
        self._table["height"] = [part.weight.shape[0] for part in parts]
        self._table["width"] = [_width(part.weight) for part in parts]
        self._table["chunks"] = [0 if each is None else len(each.up) for each in factors]
        ends = np.cumsum(self._table["chunks"])
        self._table["first_chunk"] = ends - self._table["chunks"]
        self._parameters = self._kernel.parameters(int(ends[-1]) * (2 if is_lean else 1))
        self._kept_alive = factors, bases

    def _strips(self, height: int) -> np.ndarray:
        """[strips, 4] int32: the part that each strip belongs to, its first row and column, and 0."""
        heights, widths = self._table["height"], self._table["width"]
        across = -(-widths // lean.TILE_WIDTH)
        counts = -(-heights // height) * across
        parts = np.repeat(np.arange(len(heights)), counts)
        numbers = np.arange(len(parts)) - (np.cumsum(counts) - counts)[parts]
        rows, columns = np.divmod(numbers, across[parts])
        return np.stack((parts, rows * height, columns * lean.TILE_WIDTH, 0 * parts), axis=1).astype(np.int32)


class GroupedUpdate(_Launch):
    """Updates many weights in one launch, as often as wanted."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(parts, [part.base for part in parts], is_lean=False)
        strips = self._strips(STRIP_HEIGHT)
        self._blocks = len(strips)
        self._tables = [self._kernel.upload(strips), self._kernel.upload(self._table.view(np.uint8))]

    def __call__(self, coefficients: np.ndarray) -> None:
        """Bring all weights to ``coefficients``: one for each chunk of the parts' factors, in their order."""
        values = self._parameters.upload(coefficients)
        self._kernel.launch(self._blocks, THREADS, [*self._tables, values, None, None])


class GroupedLeanUpdate(_Launch):
    """Updates many weights in one launch, and recovers their pristine values on the way."""

    def __init__(self, parts: Sequence[LeanPart]) -> None:
        super().__init__(parts, [part.weight for part in parts], is_lean=True)
        self._codes = [part.code for part in parts]
        self._table["codes"] = [code.codes.data_ptr() for code in self._codes]
        self._table["escapes"] = [code.escapes.data_ptr() for code in self._codes]
        strips = self._strips(lean.STRIP_HEIGHT)
        self._blocks = len(strips)
        self._tables = [self._kernel.upload(strips), self._kernel.upload(self._table.view(np.uint8))]
        self._first_escapes = torch.cat([code.starts for code in self._codes])

    def __call__(self, in_force: np.ndarray, wanted: np.ndarray) -> None:
        """Bring all weights from the coefficients ``in_force``, which have to be true, to those ``wanted``."""
        both = self._parameters.upload(np.concatenate((wanted, in_force)))
        halves = both[: len(wanted)], both[len(wanted) :]
        self._kernel.launch(self._blocks, THREADS, [*self._tables, *halves, self._first_escapes])
