"""The head of a safetensors file: names, shapes and metadata, without the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from lbw.tags.ordinary_files import is_ordinary

MOST_BYTES = 100_000_000
"""Of a head, as the format has it."""

_MOST_READ = 16_000_000
"""Bytes of a head that is read: of large models it has some millions, and in memory it is fifty times as large."""


@dataclass(frozen=True)
class Head:
    """``shapes`` are {a tensor's name: its shape}."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


def read(path: str) -> Head | None:
    """None for a file of another format, or one that cannot be read, or whose head is larger than those of networks."""
    if not is_ordinary(path):
        return None
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(size)) if 0 < size <= _MOST_READ else None
        if not isinstance(entries, dict):
            return None
        metadata = entries.pop("__metadata__", None) or {}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
        return Head(shapes, {str(key): str(value) for key, value in metadata.items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
