"""Which parameters a LoRA file is for, and the merge."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from modules_forge import files
from modules_forge.names import clip_names as model_lora_keys_clip  # noqa: F401
from modules_forge.names import unet_names as model_lora_keys_unet  # noqa: F401
from torch import Tensor

from ldm_patched.modules import weight_adapter

logger = logging.getLogger("forge")
KINDS = {adapter.name: adapter for adapter in weight_adapter.adapters}


def load_lora(lora: Mapping[str, Tensor], to_load: Mapping[str, str]) -> dict[str, Any]:
    """{parameter: adapter, or a tuple for a plain difference}; what is for no parameter is told, and left out."""
    patches, unmatched = files.load_lora(lora, to_load, knows_oft=True)
    for name in unmatched:
        logger.warning("%s: the model has no place for it", name)
    return {
        key: KINDS[kind](set(), values) if kind in KINDS else (kind, values) for key, (kind, values) in patches.items()
    }


def calculate_weight(
    patches: Sequence[tuple], weight: Tensor, key: str, intermediate_dtype: torch.dtype = torch.float32,
    original_weights: Any = None,
) -> Tensor:
    """The weight with patches, each (strength, values, strength of the model, offset, function)."""
    for strength, values, strength_model, offset, function in patches:
        if function is not None:
            raise NotImplementedError(f"{key}: a patch with a function")
        part = weight if offset is None else weight.narrow(*offset)
        changed = _patched(values, part * strength_model, key, strength, intermediate_dtype)
        if offset is None:
            weight = changed
        else:
            part.copy_(changed)
    return weight


def _patched(values: Any, weight: Tensor, key: str, strength: float, dtype: torch.dtype) -> Tensor:
    if isinstance(values, weight_adapter.WeightAdapterBase):
        return values.calculate_weight(weight, key, strength, 1.0, None, None, dtype)
    kind, found = ("diff", values) if len(values) == 1 else values
    if kind == "set":
        return found[0].to(weight)
    if kind != "diff" or found[0].shape != weight.shape:
        logger.warning("%s: a patch of the kind %s is left out", key, kind)
        return weight
    return weight + strength * found[0].to(weight)
