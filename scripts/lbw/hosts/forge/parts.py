"""What the patches of these hosts add to a layer. What has a formula of ours is computed by it; everything else by the
host's own, which differs from host to host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lbw.engine.deltas import Delta, Dense, UnsupportedPartError, WeightDependent, full, loha, lokr, lora
from lbw.engine.parameters import Layer, Slot
from lbw.hosts.forge.networks import Network, Patch

Merge = Callable[[Sequence[Any], Tensor], Tensor]
"""(patches as the host keeps them, a weight) -> the weight with the patches, in the weight's own type."""

Part = dict[str, list[Patch]]
"""{the parameter's name: patches}"""

_WEIGHT = (Slot("", "weight"),)

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(eq=False)
class HostMerge(WeightDependent):
    """What the host's own merge at strength 1 adds to a weight: in float32, in which the host does it. There are types
    that it leaves out, with a line in the console, in any other."""

    patches: list[Patch]
    merge: Merge

    def compute(self, weight: Tensor) -> Tensor:
        entries = [(1.0, values, 1.0, offset, function) for values, offset, function in self.patches]
        single = weight.to(torch.float32, copy=True)
        merged = self.merge(entries, single.clone())
        if merged.shape != weight.shape:
            raise UnsupportedPartError(f"the host makes {tuple(merged.shape)} of a weight of {tuple(weight.shape)}")
        return merged.to(weight.dtype) - single.to(weight.dtype)


class PatchParts:
    """The :class:`lbw.engine.parts.Parts` protocol: a part is all that a network has for one layer.

    Args:
        merge: the host's.
    """

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._deltas: WeakKeyDictionary[Network, dict[tuple[Any, ...], Delta]] = WeakKeyDictionary()

    def keys(self, network: Network) -> Iterable[str]:
        return network.patches

    def slots(self, layer: Layer) -> tuple[Slot, ...]:
        """None of a layer whose weight is not what it computes with."""
        is_itself = layer.weight.dtype in _FLOATS and getattr(layer, "scale_weight", None) is None
        return _WEIGHT if is_itself else ()

    def of(self, network: Network, slots: Sequence[Slot], keys: Sequence[str]) -> Sequence[tuple[int, Any]]:
        part = network.patches.get(keys[0])
        return [] if part is None else [(0, part)]

    def delta(self, network: Network, part: Part, shape: torch.Size, dtype: torch.dtype) -> Delta:
        known = self._deltas.setdefault(network, {})
        key = (id(part), shape, dtype)
        if key not in known:
            try:
                known[key] = self._delta(part, shape, dtype)
            except (RuntimeError, ValueError, IndexError) as error:  # tensors that do not fit each other
                raise UnsupportedPartError(str(error).partition("\n")[0]) from error
        return known[key]

    def _delta(self, part: Part, shape: torch.Size, dtype: torch.dtype) -> Delta:
        others = sorted(part.keys() - {"weight", "bias"})
        if others:
            raise UnsupportedPartError(f"its parameter {others[0]} is neither weight nor bias")
        weight, bias = part.get("weight", []), _bias(part.get("bias", []))
        delta: Delta
        if not weight:
            delta = Dense(torch.zeros(shape))
        else:
            found = _own_formula(*weight[0], shape, dtype) if len(weight) == 1 else None
            delta = HostMerge(weight, self._merge) if found is None else found
            if found is None:
                delta.compute(torch.ones(shape))  # it shows whether it fits
        delta.bias = bias
        return delta


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


def _own_formula(
    values: Any, offset: Any, function: Any, shape: torch.Size, dtype: torch.dtype
) -> Delta | None:
    """The delta by a formula of ours; None if the host's own is needed."""
    if offset is not None or function is not None:
        return None
    kind, found = _kind(values)
    if kind == "diff" and isinstance(found[0], Tensor):
        return full.build(found[0], None, shape, dtype, scale=1.0)
    if kind == "lora" and found[4] is None and all(each is None for each in found[5:]):
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


def _scale(alpha: Any, rank: int) -> float:
    return 1.0 if alpha is None else float(alpha) / rank
