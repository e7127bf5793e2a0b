"""The files that something is baked of: which of their tensors are for which layer, read when they are needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from safetensors import safe_open
from torch import Tensor

from lbw.bake.host import BakeError
from lbw.files.layer_names import ModelLayers
from lbw.files.tensor_names import split
from lbw.tags.ordinary_files import is_ordinary

BUNDLED = "bundle_emb."
"""What begins the names of embeddings that a file brings along, which are for no layer."""

KOHYA_NAME = re.compile(r"(lora_(?:unet|te\d?)_\w+)\.(.+)", re.ASCII)
"""A layer and a tensor in kohya's names, whatever the tensor is called: a layer's name has no dots."""

Piece = Mapping[str, str]
"""{what a tensor is to its layer, see :mod:`lbw.files.tensor_names`: its name in the file}."""


@dataclass(frozen=True)
class Named:
    """The tensors that a file has under one name of a layer. ``layer`` is that name."""

    layer: str
    tensors: Piece

    def without(self, kind: str) -> Named:
        return Named(self.layer, {each: name for each, name in self.tensors.items() if each != kind})


def state_of(found: os.stat_result) -> tuple[int, ...]:
    """What tells a file from one that has taken its place."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def named_parts(names: Iterable[str]) -> list[Named]:
    """The parts of a file by the names of its tensors, which may be anything."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        kohya = KOHYA_NAME.fullmatch(name)
        layer, kind = split(name) or (kohya.groups() if kohya else name.rpartition(".")[::2])
        found.setdefault(layer, {})[kind] = name
    return [Named(layer, tensors) for layer, tensors in found.items()]


class Source:
    """One open network file.

    Args:
        name: what tags call it.
        file: the host's object for it.
        path: where it is.

    Raises:
        BakeError: it cannot be read.
    """

    def __init__(self, name: str, file: Any, path: str) -> None:
        self.name, self.file, self.path = name, file, path
        try:
            self.state = state_of(os.stat(path))
            if not is_ordinary(path):
                raise OSError("it is no ordinary file")
            self._stored = safe_open(path, "pt")
            names = list(self._stored.keys())
            self.metadata: Mapping[str, str] = self._stored.metadata() or {}
        except Exception as error:  # of the library, of whatever type; the message may have the path
            raise BakeError(f"{name}: expected a .safetensors file that can be read ({type(error).__name__})") from None
        self.bundled = [each for each in names if each.startswith(BUNDLED)]
        self.named = named_parts(each for each in names if not each.startswith(BUNDLED))

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by their names in the file, on the CPU."""
        return {name: self._stored.get_tensor(name) for name in names}

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, which is not read for it."""
        return tuple(self._stored.get_slice(name).get_shape())

    def by_key(self, layers: ModelLayers) -> tuple[dict[str, list[Named]], list[Named]]:
        """What is for each layer of a model, by the host's key of the layer; and what no name is known of.

        A file of a model with fused projections has several parts for one layer.
        """
        found: dict[str, list[Named]] = {}
        others = []
        for each in self.named:
            key = layers.find(each.layer)
            if key is None:
                others.append(each)
            else:
                found.setdefault(key, []).append(each)
        return found, others


def size_of(source: Source, parts: Iterable[Named]) -> int:
    """How many numbers parts have."""
    return sum(prod(source.shape(name)) for part in parts for name in part.tensors.values())
