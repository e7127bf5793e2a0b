"""What the patches of these hosts add to a layer. What has a formula of ours is computed by it; everything else by the
host's own, which differs from host to host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lbw.engine.deltas import (
    Delta,
    Dense,
    LowRank,
    UnsupportedPartError,
    WeightDependent,
    fault_in,
    full,
    is_of_gpu,
    loha,
    lokr,
    lora,
)
from lbw.engine.parameters import Layer, Slot
from lbw.hosts.forge.networks import Merge, Network, Patch, entries_of

Part = dict[str, list[Patch]]
"""{the parameter's name: patches}"""

_WEIGHT = (Slot("", "weight"),)

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_IN_8_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(eq=False)
class HostMerge(WeightDependent):
    """What the host's own merge at strength 1 adds to a weight: in float32, in which the host does it. There are types
    that it leaves out, with a line in the console, in any other."""

    patches: list[Patch]
    merge: Merge

    def compute(self, weight: Tensor) -> Tensor:
        single = weight.to(torch.float32, copy=True)
        merged = self.merge(entries_of(self.patches, 1.0), single.clone())
        if merged.shape != weight.shape:
            raise UnsupportedPartError(f"the host makes {tuple(merged.shape)} of a weight of {tuple(weight.shape)}")
        return merged.to(weight.dtype) - single.to(weight.dtype)


class PatchParts:
    """The :class:`lbw.engine.parts.Parts` protocol: a part is all that a network has for one layer.

    Args:
        merge: the host's.
        can_patch: whether the host can add something in a layer's forward.
    """

    def __init__(self, merge: Merge, can_patch: Callable[[Layer], bool]) -> None:
        self._merge, self._can_patch = merge, can_patch
        self._deltas: WeakKeyDictionary[Network, dict[tuple[Any, ...], Delta]] = WeakKeyDictionary()
        self._faults: WeakKeyDictionary[Network, dict[int, str | None]] = WeakKeyDictionary()

    def keys(self, network: Network) -> Iterable[str]:
        return network.patches

    def has_own(self, network: Network) -> bool:
        """What the host passes over because of its names, it is given in names that it knows."""
        return False

    def form(self, network: Network) -> None:
        """Nothing changes in a file that was read."""

    def slots(self, layer: Layer) -> tuple[Slot, ...]:
        """None of a layer whose weight is not what it computes with, and none of one in 8 bits, to which the host adds
        in the forward without rounding. Where it does not, the sum is rounded to 8 bits, as by the host's own merge."""
        is_itself = getattr(layer, "scale_weight", None) is None
        dtype = layer.weight.dtype
        is_written = dtype in _FLOATS or (dtype in _IN_8_BITS and not self._can_patch(layer))
        return _WEIGHT if is_itself and is_written else ()

    def of(self, network: Network, slots: Sequence[Slot], keys: Sequence[str]) -> Sequence[tuple[int, Any]]:
        part = network.patches.get(keys[0])
        return [] if part is None else [(0, part)]

    def count(self, part: Part) -> int:
        """There are files that have apart what the model has in one layer, as q, k and v."""
        return max(map(len, part.values()))

    def fault(self, network: Network, part: Part) -> str | None:
        known = self._faults.setdefault(network, {})
        if id(part) not in known:
            known[id(part)] = fault_in(_values_of(part))
        return known[id(part)]

    def has_faults(self, network: Network) -> bool:
        return any(self.fault(network, part) is not None for part in network.patches.values())

    def delta(self, network: Network, part: Part, shape: torch.Size, dtype: torch.dtype) -> Delta:
        known = self._deltas.setdefault(network, {})
        key = (id(part), shape, dtype)
        if key not in known:
            try:
                known[key] = self._delta(part, shape, dtype)
            except (RuntimeError, ValueError, IndexError) as error:  # tensors that do not fit each other
                if is_of_gpu(error):
                    raise
                raise UnsupportedPartError(str(error).partition("\n")[0]) from error
        return known[key]

    def _delta(self, part: Part, shape: torch.Size, dtype: torch.dtype) -> Delta:
        others = sorted(part.keys() - {"weight", "bias"})
        if others:
            raise UnsupportedPartError(f"its parameter {others[0]} is neither weight nor bias")
        weight, bias = part.get("weight", []), _bias(part.get("bias", []))
        delta: Delta
        if not weight:
            delta = _nothing(shape, dtype)
        else:
            found = _own_formula(weight, shape, dtype)
            delta = HostMerge(weight, self._merge) if found is None else found
            if found is None:
                delta.compute(torch.ones(shape))  # it shows whether it fits
        delta.bias = bias
        return delta


def _values_of(part: Part) -> Iterable[tuple[str, Any]]:
    """A part's tensors and numbers, with the type that they belong to."""
    for patches in part.values():
        for values, _offset, _function in patches:
            kind, found = _kind(values)
            yield from ((kind if isinstance(value, Tensor) else "alpha", value) for value in found)


def _bias(patches: Sequence[Patch]) -> Tensor | None:
    if not patches:
        return None
    kind, values = _kind(patches[0][0])
    if len(patches) > 1 or kind != "diff":
        raise UnsupportedPartError(f"its bias is of the kind {kind}, expected diff")
    bias: Tensor = values[0]
    return bias


def _kind(values: Any) -> tuple[str, Sequence[Any]]:
    """(type, its values), of a tuple or of an adapter object."""
    if hasattr(values, "weights"):
        return str(values.name), values.weights
    if len(values) == 1:
        return "diff", values
    return str(values[0]), values[1]


def _own_formula(patches: Sequence[Patch], shape: torch.Size, dtype: torch.dtype) -> Delta | None:
    """The delta by a formula of ours; None if the host's own is needed."""
    if len(patches) > 1 or patches[0][1] is not None:
        return _fused(patches, shape, dtype)
    values, _offset, function = patches[0]
    if function is not None:
        return None
    kind, found = _kind(values)
    if kind == "diff" and isinstance(found[0], Tensor):
        return full.build(found[0], None, shape, dtype, scale=1.0)
    if kind == "lora" and _is_plain(found):
        up, down, alpha, mid = found[:4]
        return lora.build(up, down, mid, shape, dtype, scale=_scale(alpha, len(down)))
    if kind == "loha" and found[7] is None:
        w1a, w1b, alpha, w2a, w2b, t1, t2 = found[:7]
        return loha.build((w1a, w1b, t1), (w2a, w2b, t2), shape, dtype, scale=_scale(alpha, len(w1b)))
    if kind == "lokr" and found[8] is None:
        w1, w2, alpha, w1a, w1b, w2a, w2b, t2 = found[:8]
        rank = None if w1 is not None and w2 is not None else len(w1b if w2 is not None else w2b)
        first, second = (w1a, w1b) if w1 is None else w1, (w2a, w2b) if w2 is None else w2
        return lokr.build(first, second, t2, shape, dtype, scale=1.0 if rank is None else _scale(alpha, rank))
    return None


def _nothing(shape: torch.Size, dtype: torch.dtype) -> Delta:
    """Of a part that has a bias only."""
    if len(shape) < 2:
        return Dense(torch.zeros(shape))
    return LowRank(torch.zeros(shape[0], 0, dtype=dtype), torch.zeros(0, shape[1:].numel(), dtype=dtype), 1.0)


def _is_plain(values: Sequence[Any]) -> bool:
    """Whether a LoRA has neither a magnitude (DoRA) nor anything else that is not a factor."""
    return all(each is None for each in values[4:])


def _fused(patches: Sequence[Patch], shape: torch.Size, dtype: torch.dtype) -> Delta | None:
    """Several LoRAs for one weight, each for some rows or columns of it: one LoRA, with zeros where each is not for."""
    ups, downs = [], []
    for values, offset, function in patches:
        kind, found = _kind(values)
        if kind != "lora" or function is not None or found[3] is not None or not _is_plain(found):
            return None
        up, down = found[0].float().flatten(1) * _scale(found[2], len(found[1])), found[1].flatten(1)
        dimension, start, length = offset or (0, 0, shape[0])
        ups.append(_placed(up, 0, shape[0], start, length) if dimension == 0 else up)
        downs.append(_placed(down, 1, shape[1:].numel(), start, length) if dimension == 1 else down)
    return lora.build(torch.cat(ups, 1), torch.cat(downs), None, shape, dtype, scale=1.0)


def _placed(factor: Tensor, dimension: int, size: int, start: int, length: int) -> Tensor:
    """A factor with zeros before and behind it, so that it has ``size`` rows or columns."""
    shape = [*factor.shape]
    shape[dimension] = size
    placed = factor.new_zeros(shape)
    placed.narrow(dimension, start, length).copy_(factor)
    return placed


def _scale(alpha: Any, rank: int) -> float:
    scale = 1.0 if alpha is None else float(alpha) / rank
    if scale == 0:
        raise UnsupportedPartError("its alpha is 0, which makes nothing of it")
    return scale
