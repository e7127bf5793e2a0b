"""What a network adds to a layer: a network module of the host -> a delta. Each network type is one small piece.

Network modules are only read, never changed. What counts is what the host makes of a file: a coefficient of 1 gives the
weights that the host would give, only rounded once. What the host cannot apply is left out, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lbw.engine.deltas import full, glora, host, ia3, loha, lokr, lora, oft
from lbw.engine.deltas.dora import decompose
from lbw.engine.deltas.host import HostFormula
from lbw.engine.deltas.kinds import (
    Delta,
    Dense,
    InThird,
    LowRank,
    Source,
    StandAlone,
    UnsupportedModuleError,
    WeightDependent,
    accumulation_dtype,
    frobenius,
)
from lbw.engine.deltas.shapes import reads_inpainting_channels

__all__ = [
    "Delta",
    "Dense",
    "HostFormula",
    "InThird",
    "LowRank",
    "Source",
    "StandAlone",
    "UnsupportedModuleError",
    "WeightDependent",
    "accumulation_dtype",
    "delta_of",
    "frobenius",
]

_BUILDERS: dict[str, Callable[[Any, torch.Size, torch.dtype], Delta]] = {
    "NetworkModuleLora": lora.build,
    "NetworkModuleHada": loha.build,
    "NetworkModuleLokr": lokr.build,
    "NetworkModuleFull": full.build,
    "NetworkModuleNorm": full.build_norm,
    "NetworkModuleIa3": ia3.build,
    "NetworkModuleGLora": glora.build,
    "NetworkModuleOFT": oft.build,
}
"""The host's class -> its delta on a weight of a shape and a type.

The class itself is asked for, by name: a subclass may have a formula of its own, and is computed by that.
"""


def delta_of(module: Any, shape: torch.Size, dtype: torch.dtype) -> Delta:
    """The delta of a network module on a weight of ``shape`` and ``dtype``.

    Raises:
        UnsupportedModuleError: the module is of a kind for another shape, or has no way to compute its delta.
    """
    try:
        return _delta_of(module, shape, dtype)
    except (RuntimeError, ValueError) as error:  # tensors that do not fit each other
        raise UnsupportedModuleError(str(error).partition("\n")[0]) from error


def _delta_of(module: Any, shape: torch.Size, dtype: torch.dtype) -> Delta:
    build = _BUILDERS.get(type(module).__name__)
    if build is None:
        return host.build(module, shape, dtype)
    delta = build(module, shape, dtype)
    if module.bias is not None:
        if not isinstance(delta, StandAlone):
            return host.build(module, shape, dtype)
        delta = _with_addend(delta, module.bias, float(module.calc_scale()), shape, dtype)
    if module.dora_scale is not None:
        delta = decompose(delta, module.dora_scale, shape)
    if isinstance(delta, WeightDependent) and reads_inpainting_channels(shape):
        raise UnsupportedModuleError("the host cannot apply this type to an inpainting model's first layer")
    return delta


def _with_addend(delta: StandAlone, addend: Tensor, scale: float, shape: torch.Size, dtype: torch.dtype) -> Dense:
    """A module's ``bias`` is added to its delta for the weight, and scaled with it."""
    value = delta.materialize(addend.device, torch.float64)
    value = value.flatten() + addend.detach().double().flatten() * scale
    return Dense(value.reshape(shape).to(accumulation_dtype(dtype)), bias=delta.bias)
