"""Network and checkpoint files, the same bytes for the same content."""
from __future__ import annotations

import json

import torch
from safetensors.torch import save


def serialize(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """A .safetensors file; the library writes metadata in any order, so the header is made anew with it in one."""
    data = save({name: value.contiguous() for name, value in tensors.items()}, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = {**json.loads(data[8:end]), "__metadata__": metadata}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]
