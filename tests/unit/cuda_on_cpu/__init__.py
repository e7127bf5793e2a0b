"""The CUDA kernels on a CPU, thread by thread, where there is no GPU: their own sources, compiled by a C++ compiler."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lbw.engine.kernels import compiled

FOLDER = Path(__file__).parent
COMPILER = shutil.which("g++")
OWN = "primitives.cuh"
"""The header that is another one here."""


class Kernel:
    """As :class:`lbw.engine.kernels.nvrtc.Kernel`, on the CPU."""

    def __init__(
        self, name: str, source: str, headers: Mapping[str, str], macros: Mapping[str, int], _device: torch.device
    ) -> None:
        assert COMPILER is not None
        with tempfile.TemporaryDirectory() as folder:
            for header, text in headers.items():
                Path(folder, header).write_text((FOLDER / OWN).read_text() if header == OWN else text)
            library = Path(folder) / "kernel.so"
            command = [COMPILER, "-x", "c++", "-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-o", str(library), "-"]
            command += ["-U_FORTIFY_SOURCE"]  # it takes a jump to another stack for an error
            command += [f"-DKERNEL={name}", *(f"-D{macro}={value}" for macro, value in macros.items())]
            text = source + (FOLDER / "launch.cpp").read_text()
            subprocess.run(command, input=text, text=True, check=True, cwd=folder)
            self._library = ctypes.CDLL(str(library))

    def upload(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.copy())

    def parameters(self, _count: int) -> Parameters:
        return Parameters()

    def launch(self, blocks: int, threads: int, arguments: Sequence[Tensor | None]) -> None:
        pointers = [ctypes.c_void_p(0 if each is None else each.data_ptr()) for each in arguments]
        refused = self._library.launch(blocks, threads, (ctypes.c_void_p * len(pointers))(*pointers))
        assert refused == 0, f"{refused} misaligned accesses"


class Parameters:
    """As :class:`lbw.engine.kernels.nvrtc.Parameters`, on the CPU."""

    def upload(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32))


@contextmanager
def cuda_on_cpu() -> Iterator[None]:
    """Have the engine take the CPU for a CUDA GPU."""
    if COMPILER is None:
        pytest.skip("needs g++")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "Kernel", Kernel)
        patch.setattr(compiled, "runs_on", lambda device: device.type == "cpu")
        patch.setattr(compiled, "_tensor_cores", lambda _device, _dtype: 16)
        yield


@contextmanager
def available(device: str, way: str) -> Iterator[None]:
    """Skip what cannot run here. For what is grouped the CPU stands in for a GPU where there is none."""
    is_stand_in = (device, way) == ("cpu", "grouped")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    if is_stand_in and torch.cuda.is_available():
        pytest.skip("runs on the GPU")
    with cuda_on_cpu() if is_stand_in else nullcontext():
        yield
