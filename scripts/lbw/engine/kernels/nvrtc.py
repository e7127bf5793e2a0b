"""Kernels in CUDA C++, compiled when they are first wanted, by NVRTC, the compiler that every torch for CUDA brings.

Functions and their meaning: https://docs.nvidia.com/cuda/nvrtc and https://docs.nvidia.com/cuda/cuda-driver-api
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_IS_WINDOWS = platform.system() == "Windows"
_TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"


_PLACES = 8
"""Launches that may be on their way at a time; one more waits."""


class CompilerError(RuntimeError):
    """NVRTC or the driver did not do what it was asked for; the message says what it said."""


class Kernel:
    """A function in CUDA C++ on one device.

    Args:
        name: of the function.
        source: what it is in, which may include ``headers``, {name: text}.
        macros: {name: value}.

    Raises:
        CompilerError: it cannot be compiled.
        OSError: this torch has no NVRTC.
    """

    def __init__(
        self, name: str, source: str, headers: Mapping[str, str], macros: Mapping[str, int], device: torch.device
    ) -> None:
        self._device = device
        self._on_device = torch.cuda.device(device)
        binary = compiled_for(torch.cuda.get_device_capability(device), source, headers, macros)
        self._driver = _driver()
        module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        with self._on_device:
            torch.cuda.synchronize()  # torch sets a thread's context up at its first use
            _check("cuModuleLoadData", self._driver.cuModuleLoadData(ctypes.byref(module), binary))
        found = self._driver.cuModuleGetFunction(ctypes.byref(self._function), module, name.encode())
        _check("cuModuleGetFunction", found)

    def upload(self, values: np.ndarray) -> Tensor:
        """A copy on the device."""
        return torch.from_numpy(values).to(self._device)

    def parameters(self, count: int) -> Parameters:
        """What uploads so many numbers for each launch."""
        return Parameters(count, self._device)

    def launch(self, blocks: int, threads: int, arguments: Sequence[Tensor | None]) -> None:
        """Launch it on torch's current stream; arguments are tensors on its device, or None for a null pointer."""
        array = ctypes.c_void_p * len(arguments)
        pointers = array(*[0 if each is None else each.data_ptr() for each in arguments])
        first = ctypes.addressof(pointers)
        addresses = array(*range(first, first + ctypes.sizeof(pointers), ctypes.sizeof(ctypes.c_void_p)))
        with self._on_device:
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            launched = self._driver.cuLaunchKernel(
                self._function, blocks, 1, 1, threads, 1, 1, 0, stream, addresses, None
            )
        _check("cuLaunchKernel", launched)


class Parameters:
    """float32 numbers that differ from launch to launch, uploaded without waiting for the GPU, and without allocating.

    Only page-locked memory can be. It has a few places in turn, so that nothing is overwritten on its way.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._device = device
        self._places = torch.empty(_PLACES, max(count, 1), pin_memory=True)  # none of no bytes is page-locked
        self._arrays = self._places.numpy()
        self._uploaded = torch.empty(_PLACES, max(count, 1), device=device)
        self._copied = [torch.cuda.Event() for _ in range(_PLACES)]
        self._uploads = 0

    def upload(self, values: np.ndarray) -> Tensor:
        """``values`` on the device, in the order of what torch's current stream does."""
        place = self._uploads % _PLACES
        self._uploads += 1
        self._copied[place].synchronize()
        self._arrays[place, : len(values)] = values
        uploaded = self._uploaded[place].copy_(self._places[place], non_blocking=True)
        self._copied[place].record(torch.cuda.current_stream(self._device))
        return uploaded


def compiled_for(
    capability: tuple[int, int], source: str, headers: Mapping[str, str], macros: Mapping[str, int]
) -> bytes:
    """As :func:`compiled`, for a GPU of this compute capability, also where it is newer than the compiler: it can run
    what is compiled for an older one with the same major number."""
    major, minor = capability
    try:
        return compiled(source, headers, f"sm_{major}{minor}", macros)
    except CompilerError:
        return compiled(source, headers, f"sm_{major}0", macros)


def compiled(source: str, headers: Mapping[str, str], architecture: str, macros: Mapping[str, int]) -> bytes:
    """Machine code for an ``architecture`` such as ``sm_90``; other arguments and errors as for :class:`Kernel`."""
    nvrtc, program, size = _nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    texts = [text.encode() for text in headers.values()]
    names = [name.encode() for name in headers]
    strings = ctypes.c_char_p * len(headers)
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), None, len(headers), strings(*texts), strings(*names)
    )
    _check("nvrtcCreateProgram", created)
    try:
        options = ["--std=c++14", f"--gpu-architecture={architecture}"]
        options += [f"-D{macro}={value}" for macro, value in macros.items()]
        encoded = [option.encode() for option in options]
        status = nvrtc.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        if status:
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise CompilerError(f"{log.value.decode(errors='replace')}")
        _check("nvrtcGetCUBINSize", nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        binary = ctypes.create_string_buffer(size.value)
        _check("nvrtcGetCUBIN", nvrtc.nvrtcGetCUBIN(program, binary))
        return binary.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _check(function: str, status: int) -> None:
    if status:
        raise CompilerError(f"{function} failed with status {status}")


@cache
def _nvrtc() -> ctypes.CDLL:
    """The compiler. On Linux it is found through a library of torch that is linked with it, whatever its name is."""
    if not _IS_WINDOWS:
        return ctypes.CDLL(str(_TORCH_LIBRARIES / "libcaffe2_nvrtc.so"))
    names = [path for path in _TORCH_LIBRARIES.glob("nvrtc64_*.dll") if not path.stem.endswith(".alt")]
    if not names:
        raise OSError(f"no nvrtc64_*.dll in {_TORCH_LIBRARIES}")
    return ctypes.CDLL(str(names[0]))


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if _IS_WINDOWS else "libcuda.so.1")
