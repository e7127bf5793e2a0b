"""What AUTOMATIC1111 makes of network files: a module object for each layer, of a class for each type.

What counts is what the host makes of a file. What it cannot apply is left out, by name. Of names that it does not know,
what its own classes make of them counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lbw.engine.deltas import (
    Delta,
    StandAlone,
    UnsupportedPartError,
    WeightDependent,
    decompose,
    fault_in,
    full,
    glora,
    ia3,
    is_of_gpu,
    loha,
    lokr,
    lora,
    oft,
    reads_inpainting_channels,
    with_addend,
)
from lbw.engine.parameters import Layer, Slot
from lbw.hosts.a1111 import host_formula

logger = logging.getLogger("lbw")

Build = Callable[[Any, torch.Size, torch.dtype, float], Delta]
"""(module, shape, dtype, the module's scale) -> delta."""


def _lora(module: Any, shape: torch.Size, dtype: torch.dtype, scale: float) -> Delta:
    mid = None if module.mid_model is None else module.mid_model.weight
    up, down = module.up_model.weight, module.down_model.weight
    return lora.build(up, down, mid, shape, dtype, scale=scale, max_rank=module.network.dyn_dim)


def _loha(module: Any, shape: torch.Size, dtype: torch.dtype, scale: float) -> Delta:
    first, second = (module.w1a, module.w1b, module.t1), (module.w2a, module.w2b, module.t2)
    return loha.build(first, second, shape, dtype, scale=scale)


def _lokr(module: Any, shape: torch.Size, dtype: torch.dtype, scale: float) -> Delta:
    w1 = (module.w1a, module.w1b) if module.w1 is None else module.w1
    w2 = (module.w2a, module.w2b) if module.w2 is None else module.w2
    return lokr.build(w1, w2, module.t2, shape, dtype, scale=scale)


def _full(module: Any, shape: torch.Size, dtype: torch.dtype, scale: float) -> Delta:
    return full.build(module.weight, module.ex_bias, shape, dtype, scale=scale)


def _norm(module: Any, shape: torch.Size, dtype: torch.dtype, scale: float) -> Delta:
    return full.build(module.w_norm, module.b_norm, shape, dtype, scale=scale)


def _ia3(module: Any, shape: torch.Size, dtype: torch.dtype, scale: float) -> Delta:
    return ia3.build(module.w, shape, dtype, on_input=bool(module.on_input), scale=scale)


def _glora(module: Any, shape: torch.Size, _dtype: torch.dtype, scale: float) -> Delta:
    """In the names of LyCORIS 2, and without ``alpha``: the host does not divide it by the rank but ignores it. LyCORIS
    3 swapped the names of the factors, and its files fit no layer here, nor in the host.
    """
    return glora.build(module.w2a, module.w1a, module.w2b, module.w1b, shape, scale=scale)


def _oft(module: Any, shape: torch.Size, dtype: torch.dtype, _scale: float) -> Delta:
    """``oft_diag`` of LyCORIS 2 holds the rotations themselves, ``oft_blocks`` what they are made of."""
    constraint = None if module.is_R else float(module.constraint)
    return oft.build(module.oft_blocks, module.rescale, shape, dtype, constraint=constraint)


_BUILDERS: dict[str, Build] = {
    "NetworkModuleLora": _lora,
    "NetworkModuleHada": _loha,
    "NetworkModuleLokr": _lokr,
    "NetworkModuleFull": _full,
    "NetworkModuleNorm": _norm,
    "NetworkModuleIa3": _ia3,
    "NetworkModuleGLora": _glora,
    "NetworkModuleOFT": _oft,
}
"""The host's class -> its delta on a weight of a shape and a type.

The class itself is asked for, by name: a subclass may have a formula of its own, and is computed by that.
"""

_WHOLE_WEIGHT = (Slot("", "weight"),)
_ATTENTION_PROJECTIONS = (
    Slot("_q_proj", "in_proj_weight", 0),
    Slot("_k_proj", "in_proj_weight", 1),
    Slot("_v_proj", "in_proj_weight", 2),
    Slot("_out_proj", "out_proj.weight"),
)
_JOINT_PROJECTIONS = (
    *_WHOLE_WEIGHT,
    Slot("_q_proj", "weight", 0),
    Slot("_k_proj", "weight", 1),
    Slot("_v_proj", "weight", 2),
)


def slots_of(layer: Layer) -> tuple[Slot, ...]:
    """MultiheadAttention and SD3's QkvLinear hold q, k and v in the rows of one weight. For the latter the host takes a
    network's part for the whole weight too."""
    if isinstance(layer, nn.MultiheadAttention):
        return _ATTENTION_PROJECTIONS
    return _JOINT_PROJECTIONS if type(layer).__name__ == "QkvLinear" else _WHOLE_WEIGHT


@dataclass(eq=False)
class OwnPart:
    """A part of a network that the host knows nothing of.

    ``module`` is of one of the host's classes; None if none of them takes its tensors, as ``fault`` says. With DoRA,
    ``lengths`` are those of the weight's channels, divided by the norms of the same channels: trainers do so, and the
    host's formula, which is for input channels only, is left out.
    """

    module: Any
    lengths: Tensor | None = None
    fault: str = ""

    def module_for(self, network: Any) -> Any:
        """The module as it is while ``network`` is in use.

        Raises:
            UnsupportedPartError: there is none.
        """
        if self.module is None:
            raise UnsupportedPartError(self.fault)
        self.module.network.dyn_dim = network.dyn_dim
        return self.module


class ModuleParts:
    """The :class:`lbw.engine.parts.Parts` protocol: a part is one of the host's network modules, or one of our own.

    Args:
        own: tells {the host's key of a layer: the part of our own that a network has for it}.
    """

    def __init__(self, own: Callable[[Any], Mapping[str, OwnPart]] = lambda _network: {}) -> None:
        self._own = own
        self._deltas: WeakKeyDictionary[Any, dict[tuple[Any, ...], Delta]] = WeakKeyDictionary()
        self._faults: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()
        self._reported: set[str] = set()

    def keys(self, network: Any) -> Iterable[str]:
        return {**network.modules, **self._own(network)}

    def has_own(self, network: Any) -> bool:
        return bool(self._own(network))

    def form(self, network: Any) -> tuple[int | None, bool]:
        """The host sets the rank anew for each request, in the network that it has kept from an earlier one; and users
        may have changed their mind about what it does not know."""
        return network.dyn_dim, self.has_own(network)

    def slots(self, layer: Layer) -> tuple[Slot, ...]:
        return slots_of(layer)

    def of(self, network: Any, slots: Sequence[Slot], keys: Sequence[str]) -> Sequence[tuple[int, Any]]:
        """The host's parts for projections count only together, and those of a joint weight only where there is none
        for the whole of it."""
        own = self._own(network)
        parts = {key: own.get(key) or network.modules.get(key) for key in keys}
        found = [(index, parts[key]) for index, key in enumerate(keys) if parts[key] is not None]
        is_joint = tuple(slots) == _JOINT_PROJECTIONS
        if is_joint and found and found[0][0] == 0:
            return found[:1]
        return found if len(found) == len(slots) - is_joint or not own.keys().isdisjoint(keys) else []

    def count(self, part: Any) -> int:
        return 1

    def fault(self, network: Any, part: Any) -> str | None:
        if part not in self._faults:
            self._faults[part] = fault_in(_values_of(part))
        return self._faults[part]

    def has_faults(self, network: Any) -> bool:
        return any(self.fault(network, part) is not None for part in network.modules.values())

    def delta(self, network: Any, part: Any, shape: torch.Size, dtype: torch.dtype) -> Delta:
        known = self._deltas.setdefault(part, {})
        key = (shape, dtype, network.dyn_dim)
        if key not in known:
            is_own = isinstance(part, OwnPart)
            module, lengths = (part.module_for(network), part.lengths) if is_own else (part, None)
            known[key] = delta_of(module, shape, dtype, lengths)
            if isinstance(known[key], host_formula.HostFormula):
                kind = type(module).__name__
                self._report(f"network {network.name}: {kind} is computed by the host's own code, slowly")
        return known[key]

    def _report(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            logger.warning("LoRA Block Weight: %s", message)


_OF_OTHERS = ("network", "sd_module")


def _values_of(part: Any) -> Iterable[tuple[str, Any]]:
    """A part's tensors and numbers, with their names. A module refers to its network and to its layer, too."""
    if isinstance(part, OwnPart):
        yield "dora_scale", part.lengths
        part = part.module
    for name, value in () if part is None else vars(part).items():
        if isinstance(value, nn.Module) and name not in _OF_OTHERS:
            yield from ((f"{name}.{each}", parameter) for each, parameter in value.named_parameters())
        else:
            yield name, value


def delta_of(module: Any, shape: torch.Size, dtype: torch.dtype, lengths: Tensor | None = None) -> Delta:
    """The delta of a network module on a weight of ``shape`` and ``dtype``.

    Args:
        lengths: of the weight's channels, where they are a matter between trainers and us, see :class:`OwnPart`.

    Raises:
        UnsupportedPartError: the module is of a kind for another shape, or has no way to compute its delta.
    """
    try:
        delta = _delta_of(module, shape, dtype)
        if lengths is not None:
            delta = decompose(delta, lengths, shape, of_outputs=lengths.numel() == len(lengths))
        if isinstance(delta, WeightDependent) and reads_inpainting_channels(shape):
            raise UnsupportedPartError("the host cannot apply this type to an inpainting model's first layer")
        return delta
    except (RuntimeError, ValueError, ZeroDivisionError) as error:  # tensors that do not fit each other, or of rank 0
        if is_of_gpu(error):
            raise
        raise UnsupportedPartError(str(error).partition("\n")[0]) from error


def _delta_of(module: Any, shape: torch.Size, dtype: torch.dtype) -> Delta:
    build = _BUILDERS.get(type(module).__name__)
    if build is None or (build is _oft and not hasattr(module, "is_R")):  # before 1.8 the host computed OFT otherwise
        return host_formula.build(module, shape, dtype)
    scale = float(module.calc_scale())
    if scale == 0 and build in (_lora, _loha, _lokr):
        raise UnsupportedPartError("its alpha is 0, which makes nothing of it")
    delta = build(module, shape, dtype, scale)
    if module.bias is not None:
        if not isinstance(delta, StandAlone):
            return host_formula.build(module, shape, dtype)
        delta = with_addend(delta, module.bias, scale, shape, dtype)
    lengths = getattr(module, "dora_scale", None)  # before 1.9 the host knew no DoRA
    if lengths is not None:
        delta = decompose(delta, lengths, shape)
    return delta
