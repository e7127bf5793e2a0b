"""What the tensors of a LoRA file are for: patches, as (kind, values) by the parameter that each is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

Patches = dict[str, tuple[str, tuple]]

PAIRS = (("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight"))
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
LOKR = ("lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
GLORA = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


class Reader:
    """Reads parts of one file, and notes which of its tensors it has used.

    Args:
        knows_oft: whether the host has OFT and BOFT.
    """

    def __init__(self, tensors: Mapping[str, Tensor], knows_oft: bool) -> None:
        self._tensors, self._knows_oft = tensors, knows_oft
        self.used: set[str] = set()

    def _one(self, layer: str, part: str) -> Tensor | None:
        name = f"{layer}.{part}"
        if name in self._tensors:
            self.used.add(name)
        return self._tensors.get(name)

    def _all(self, layer: str, parts: tuple[str, ...]) -> list[Tensor] | None:
        if not all(f"{layer}.{part}" in self._tensors for part in parts):
            return None
        return [self._one(layer, part) for part in parts]

    def parts(self, layer: str) -> Iterator[tuple[str, str, tuple]]:
        """(parameter, kind, values) of all that a file has under one name. The order of the values is the hosts'."""
        alpha, dora = self._one(layer, "alpha"), self._one(layer, "dora_scale")
        alpha = None if alpha is None else alpha.item()
        for pair in PAIRS:
            if found := self._all(layer, pair):
                yield "weight", "lora", (*found, alpha, self._one(layer, "lora_mid.weight"), dora, None)
                break
        if found := self._all(layer, LOHA):
            w1a, w1b, w2a, w2b = found
            t1, t2 = self._one(layer, "hada_t1"), self._one(layer, "hada_t2")
            yield "weight", "loha", (w1a, w1b, alpha, w2a, w2b, t1, t2, dora)
        w1, w2, *rest = (self._one(layer, part) for part in LOKR)
        if any(each is not None for each in (w1, w2, *rest[:4:2])):
            yield "weight", "lokr", (w1, w2, alpha, *rest, dora)
        if found := self._all(layer, GLORA):
            yield "weight", "glora", (*found, alpha, dora)
        if self._knows_oft and (blocks := self._one(layer, "oft_blocks")) is not None:
            yield "weight", "oft" if blocks.ndim == 3 else "boft", (blocks, self._one(layer, "rescale"), alpha, dora)
        for part, parameter in (("w_norm", "weight"), ("b_norm", "bias"), ("diff", "weight"), ("diff_b", "bias")):
            if (value := self._one(layer, part)) is not None:
                yield parameter, "diff", (value,)
        if (value := self._one(layer, "set_weight")) is not None:
            yield "weight", "set", (value,)


def load_lora(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], *, knows_oft: bool = False
) -> tuple[Patches, dict[str, Tensor]]:
    """What a file has for the parameters in `names`, and the tensors that are for none of them.

    Args:
        names: {name in the file: parameter}.
    """
    reader, patches = Reader(tensors, knows_oft), {}
    for name, key in names.items():
        for parameter, kind, values in reader.parts(name):
            patches[f"{key.rpartition('.')[0]}.{parameter}"] = kind, values
    return patches, {name: value for name, value in tensors.items() if name not in reader.used}


MOST_STRANGERS = 12
"""A file with more tensors that the model has no place for is taken for one of another model, and left out whole."""


def patched(one: Any, patches: Patches, unmatched: Mapping[str, Tensor], add: Callable[[Any], Iterable[str]]) -> Any:
    """A copy of a patcher (or of the text encoders around one) with patches; the same one where there are none for it.

    Args:
        unmatched: the tensors of the file that the model has no place for.
        add: gives the patches to the copy, and says which ones it has taken.
    """
    if not patches or len(unmatched) > MOST_STRANGERS:
        return one
    copy = one.clone()
    taken = set(add(copy))
    return one if len(patches.keys() - taken) > MOST_STRANGERS else copy
