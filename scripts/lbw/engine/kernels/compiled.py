"""The kernels in CUDA C++: in which variants they are compiled, each once for a device and a type of weights."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock, Thread

import torch

from lbw.engine import lean
from lbw.engine.kernels.nvrtc import Kernel
from lbw.engine.uploads import staging

THREADS = 128
"""Of a block, of all kernels."""

STRIP_HEIGHT = 160
"""Rows of a weight that a block works on, without codes; the fastest on an H100."""

DTYPES = (torch.float16, torch.bfloat16)

FOLDER = Path(__file__).parent
HEADERS = ("primitives.cuh", "tiles.cuh")

_compiling = Lock()


@dataclass(frozen=True)
class Updater:
    """What a kernel of ``update.cu`` can do, and leaves out."""

    is_aligned: bool
    is_one_each: bool
    is_lean: bool = False
    has_pieces: bool = False
    name: str = "update"

    @property
    def macros(self) -> dict[str, int]:
        has_two_sums = self.has_pieces or (self.is_lean and not self.is_one_each)
        return {
            "ALIGNED": int(self.is_aligned),
            "ONE_EACH": int(self.is_one_each),
            "LEAN": int(self.is_lean),
            "PIECES": int(self.has_pieces),
            "BANDS": 2,
            "STEPS": (lean.STRIP_HEIGHT if self.is_lean else STRIP_HEIGHT) // 32,
            # As many as the registers allow that a thread needs for its sums.
            "BLOCKS_AT_ONCE": 2 if self.has_pieces and self.is_lean else 3 if has_two_sums else 4,
        }


@dataclass(frozen=True)
class Encoder:
    """What a kernel of ``encode.cu`` can do, and leaves out."""

    is_aligned: bool
    has_pieces: bool
    writes: bool
    name: str = "encode"

    @property
    def macros(self) -> dict[str, int]:
        return {
            "ALIGNED": int(self.is_aligned),
            "PIECES": int(self.has_pieces),
            "WRITES": int(self.writes),
            "BANDS": 1,
            "BLOCKS_AT_ONCE": 3 if self.has_pieces else 4,
        }


@dataclass(frozen=True)
class Packer:
    """The kernel of ``pack.cu``."""

    name: str = "pack"

    @property
    def macros(self) -> dict[str, int]:
        return {}


Source = Updater | Encoder | Packer
"""What a kernel is made of: a function in the file of its name, and macros."""

LIKELY: tuple[Source, ...] = (
    Packer(),
    Updater(True, True, is_lean=True),
    Encoder(True, False, writes=False),
    Encoder(True, False, writes=True),
    Updater(True, False, is_lean=True),
    Updater(True, True),
    Updater(True, False, is_lean=True, has_pieces=True),
    Encoder(True, True, writes=False),
    Encoder(True, True, writes=True),
    Updater(True, False),
)
"""What switches will need, the most likely first."""


def runs_on(device: torch.device) -> bool:
    """Whether the kernels run on a device."""
    return device.type == "cuda" and torch.version.cuda is not None


def prepare(device: torch.device, dtype: torch.dtype) -> None:
    """Make in the background what switches will need: kernels, each of which takes some tenths of a second to compile,
    and page-locked memory."""
    if runs_on(device) and dtype in DTYPES:
        Thread(target=_prepare, args=(device, dtype), daemon=True).start()


def _prepare(device: torch.device, dtype: torch.dtype) -> None:
    with suppress(OSError, RuntimeError):  # the first switch says what is wrong
        numbered = torch.empty(0, device=device).device
        staging(numbered)
        for source in LIKELY:
            kernel_for(numbered, dtype, source)


def kernel_for(device: torch.device, dtype: torch.dtype, source: Source) -> Kernel:
    """The kernel for weights of a type, compiled once for each device."""
    with _compiling:
        return _compiled(device, dtype, source)


@cache
def _compiled(device: torch.device, dtype: torch.dtype, source: Source) -> Kernel:
    options = macros(dtype, _tensor_cores(device, dtype), source)
    return Kernel(source.name, *texts(source), options, device)


def texts(source: Source) -> tuple[str, dict[str, str]]:
    """A kernel's source, and the headers that it includes."""
    text = (FOLDER / f"{source.name}.cu").read_text(encoding="utf-8")
    return text, {name: (FOLDER / name).read_text(encoding="utf-8") for name in HEADERS}


def macros(dtype: torch.dtype, tensor_cores: int, source: Source) -> dict[str, int]:
    """What a kernel is compiled with."""
    return {"BFLOAT16": int(dtype == torch.bfloat16), "TENSOR_CORES": tensor_cores, **source.macros}


def _tensor_cores(device: torch.device, dtype: torch.dtype) -> int:
    capability = torch.cuda.get_device_capability(device)
    return 16 if capability >= (8, 0) else 8 if capability >= (7, 5) and dtype == torch.float16 else 0
