"""The device and the number formats of this run.

On CUDA the networks run in float16 under autocast, as in the host; on a CPU, where float16 is slow, in float32.
"""
from __future__ import annotations

import contextlib
import gc

import torch

from modules import errors
from modules.shared_cmd_options import cmd_opts

cpu = torch.device("cpu")
device: torch.device = cpu
dtype: torch.dtype = torch.float16
dtype_vae: torch.dtype = torch.float16
dtype_unet: torch.dtype = torch.float16
dtype_inference: torch.dtype = torch.float16
unet_needs_upcast = False
force_fp16 = False
fp8 = False


class NansException(Exception):
    """A network gave values that are not numbers."""


def get_cuda_device_string() -> str:
    return "cuda" if cmd_opts.device_id is None else f"cuda:{cmd_opts.device_id}"


def get_optimal_device_name() -> str:
    return get_cuda_device_string() if torch.cuda.is_available() else "cpu"


def get_optimal_device() -> torch.device:
    return torch.device(get_optimal_device_name())


def get_device_for(task: str) -> torch.device:
    """The device for a task, unless --use-cpu names the task or "all"."""
    if any(x in cmd_opts.use_cpu for x in (task, "all")):
        return cpu
    return get_optimal_device()


def torch_gc() -> None:
    """Give unused memory of the accelerator back."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def enable_tf32() -> None:
    """The host lets float32 products run in TF32 on CUDA, so a float32 LoRA delta is rounded to 10 bits there."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def autocast(disable: bool = False) -> contextlib.AbstractContextManager:
    """The context in which networks run."""
    if fp8 and device.type == "cpu" and not disable:
        return torch.autocast("cpu", dtype=torch.bfloat16)
    if disable or force_fp16 or torch.float32 in (dtype, dtype_inference) or device.type != "cuda":
        return contextlib.nullcontext()
    return torch.autocast("cuda")


def without_autocast(disable: bool = False) -> contextlib.AbstractContextManager:
    """The context for what must not be cast although it runs inside `autocast`."""
    if disable or not torch.is_autocast_enabled():
        return contextlib.nullcontext()
    return torch.autocast("cuda", enabled=False)


def cond_cast_unet(x: torch.Tensor) -> torch.Tensor:
    if force_fp16:
        return x.to(torch.float16)
    return x.to(dtype_unet) if unet_needs_upcast else x


def cond_cast_float(x: torch.Tensor) -> torch.Tensor:
    return x.float() if unet_needs_upcast else x


def test_for_nans(x: torch.Tensor, where: str) -> None:
    """Raise NansException where the first value is not a number; networks that fail do so for all values."""
    if cmd_opts.disable_nan_check:
        return
    if torch.isnan(x[(0,) * x.ndim]):
        raise NansException(f"The {where} gave NaN. --no-half may help; --disable-nan-check turns this check off.")


def setup() -> None:
    """Choose the device and the number formats from the command line."""
    global device, dtype, dtype_vae, dtype_unet, dtype_inference, force_fp16
    device = get_device_for("sd")
    half = device.type == "cuda" and not cmd_opts.no_half
    dtype = dtype_unet = torch.float16 if half else torch.float32
    dtype_vae = torch.float16 if half and not cmd_opts.no_half_vae else torch.float32
    dtype_inference = torch.float32 if cmd_opts.precision == "full" else dtype
    force_fp16 = half and cmd_opts.precision == "half"


setup()
errors.run(enable_tf32, "Enabling TF32")
