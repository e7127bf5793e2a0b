"""Network files in names that a host does not know, read as what they are: renamings of parts of the model in use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from lbw.files.layer_names import ModelLayers
from lbw.files.tensor_names import split

_ADAPTER_METADATA = "lora_adapter_metadata"
"""Where diffusers notes what PEFT was told, as JSON: a file in its names has no alpha for each layer."""


def parts(names: Iterable[str], layers: ModelLayers) -> dict[str, dict[str, str]]:
    """What a file has for a model: {the host's key of a layer: {what a tensor is to it: its name in the file}}.

    A layer may have several names in one file; the first counts for each tensor.
    """
    found: dict[str, dict[str, str]] = {}
    keys: dict[str, str | None] = {}
    for name in names:
        layer, tensor = split(name) or ("", "")
        if layer not in keys:
            keys[layer] = layers.find(layer) if layer else None
        key = keys[layer]
        if key is not None:
            found.setdefault(key, {}).setdefault(tensor, name)
    return {key: tensors for key, tensors in found.items() if _is_network(tensors)}


def _is_network(tensors: Mapping[str, str]) -> bool:
    """Not so of a model's own weights, which have the names of its layers, too."""
    return tensors.keys() - {"alpha", "scale", "weight"} != set()


def scale(metadata: Mapping[str, str], name: str, rank: int) -> float | None:
    """What a LoRA of ``rank`` is multiplied with by what the file notes of a tensor ``name``; None if it notes
    nothing."""
    component, _, path = name.partition(".")
    config = _configuration(metadata.get(_ADAPTER_METADATA, "{}"), component)
    layer, _tensor = split(path) or (path, "")
    exceptions = config.get("alpha_pattern")
    found = exceptions.items() if isinstance(exceptions, dict) else ()
    # PEFT's patterns may be any; those that are written are names, or ends of names, of layers
    ends = ((f".{pattern.removeprefix('^')}", alpha) for pattern, alpha in found)
    alpha = next((alpha for end, alpha in ends if f".{layer}".endswith(end)), config.get("lora_alpha"))
    if not isinstance(alpha, int | float) or rank < 1:
        return None
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


@lru_cache(maxsize=8)
def _configuration(text: str, component: str) -> Mapping[str, Any]:
    """What was noted of a component; asked for each layer, and read once."""
    try:
        noted = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(noted, dict):
        return {}
    start = f"{component}."
    return {key.removeprefix(start): value for key, value in noted.items() if key.startswith(start)}
