"""Writes a safetensors file tensor by tensor.

The safetensors library writes only what is whole in memory; a LoRA of a large model need not be. The format is that of
https://github.com/huggingface/safetensors#format: eight bytes with the length of the head, little-endian; the head,
which is JSON in UTF-8 with blanks behind it, {name: type, shape, where the data begin and end} and ``__metadata__``;
the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lbw.bake.hashes import PLACEHOLDERS, Hashes
from lbw.files.head import MOST_BYTES

_NAMES = (
    ("uint64", "U64"), ("int64", "I64"), ("float64", "F64"), ("complex64", "C64"), ("float32", "F32"),
    ("uint32", "U32"), ("int32", "I32"), ("bfloat16", "BF16"), ("float16", "F16"), ("uint16", "U16"), ("int16", "I16"),
    ("float8_e5m2fnuz", "F8_E5M2FNUZ"), ("float8_e4m3fnuz", "F8_E4M3FNUZ"), ("float8_e8m0fnu", "F8_E8M0"),
    ("float8_e4m3fn", "F8_E4M3"), ("float8_e5m2", "F8_E5M2"), ("int8", "I8"), ("uint8", "U8"), ("bool", "BOOL"),
)  # fmt: skip
"""torch's name of a type and the format's, in the order in which the library writes them: larger items first, so that
all are aligned."""

_TYPES = {getattr(torch, name): title for name, title in _NAMES if hasattr(torch, name)}
_RANKS = {dtype: rank for rank, dtype in enumerate(_TYPES)}

_CHUNK = 1 << 24
"""Bytes that are written at once."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a file, without its data."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Entries as the library orders them: by type, larger items first, then by name.

    Raises:
        ValueError: the format has no such type.
    """
    entries = list(entries)
    for entry in entries:
        if entry.dtype not in _TYPES:
            raise ValueError(f"{entry.name}: a safetensors file cannot hold {entry.dtype}")
    return sorted(entries, key=lambda entry: (_RANKS[entry.dtype], entry.name))


def size(entries: Sequence[Entry], metadata: Mapping[str, str]) -> int:
    """The bytes of the whole file.

    Raises:
        ValueError: as of :func:`write`.
    """
    return len(_head(entries, metadata)) + sum(entry.bytes for entry in entries)


def write(
    file: BinaryIO, entries: Sequence[Entry], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a whole file, and hold no tensor while the next one is made.

    Of the metadata, those that :data:`~lbw.bake.hashes.PLACEHOLDERS` names are written as the data have them, whatever
    their value is here. The legacy hash is what sd-scripts finds, which writes the same tensors with the library.

    Args:
        file: empty, and seekable.
        entries: what the file has, as :func:`in_order` orders it.
        tensors: the data of each entry, on any device.

    Raises:
        ValueError: entries out of order, or two of one name; a tensor that is not as its entry says, or too few or too
            many of them; a head that is larger than the format allows, or has half a character.
        OSError: of the file.
    """
    head = _head(entries, metadata)
    hashes = Hashes(_head(entries, {key: value for key, value in metadata.items() if key.startswith("ss_")}))
    file.write(head)
    remaining = iter(tensors)
    for entry in entries:
        _write_data(file, _next(remaining, entry), hashes)
    if next(remaining, None) is not None:
        raise ValueError(f"more tensors than the {len(entries)} of the head")
    file.seek(0)
    file.write(_head(entries, metadata, hashes.values()))
    file.seek(0, os.SEEK_END)


def _head(entries: Sequence[Entry], metadata: Mapping[str, str], hashes: Mapping[str, str] = PLACEHOLDERS) -> bytes:
    """What stands before the data; as long whatever the hashes are."""
    if list(entries) != in_order(entries):
        raise ValueError("entries are not in the order of their types, larger items first, and names")
    content: dict[str, Any] = {"__metadata__": {key: hashes.get(key, value) for key, value in metadata.items()}}
    begin = 0
    for entry in entries:
        if entry.name in content:
            raise ValueError(f"two entries are called {entry.name}")
        end = begin + entry.bytes
        content[entry.name] = {"dtype": _TYPES[entry.dtype], "shape": entry.shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_BYTES:
        raise ValueError(f"the head has {len(text)} bytes; a safetensors file has at most {MOST_BYTES}")
    return len(text).to_bytes(8, "little") + text


def _next(tensors: Iterator[Tensor], entry: Entry) -> Tensor:
    tensor = next(tensors, None)
    if tensor is None:
        raise ValueError(f"{entry.name}: no tensor is left for it")
    if tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
        raise ValueError(
            f"{entry.name}: expected {entry.dtype} {list(entry.shape)}, got {tensor.dtype} {list(tensor.shape)}"
        )
    return tensor


def _write_data(file: BinaryIO, tensor: Tensor, hashes: Hashes) -> None:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        file.write(chunk)
        hashes.update(chunk)
