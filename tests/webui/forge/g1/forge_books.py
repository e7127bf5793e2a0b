"""How this generation keeps its books: patches by file and strengths, merged when a model comes onto the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backend import memory_management as memory  # noqa: F401
from backend.patcher.base import ModelPatcher, UnetPatcher  # noqa: F401
from modules_forge import files, names
from torch import Tensor


def load_lora_for_models(
    model: Any, clip: Any, lora: Mapping[str, Tensor], strength_model: float, strength_clip: float,
    filename: str = "default", online_mode: bool = False,
) -> tuple[Any, Any]:
    """U-Net and text encoders with the patches of a file; in this host, the values of a LoRA are five."""
    found = []
    for of_part in (names.unet_names(model.model), names.clip_names(clip.cond_stage_model)):
        patches, lora = files.load_lora(lora, of_part)
        found.append({key: (kind, each[:5] if kind == "lora" else each) for key, (kind, each) in patches.items()})

    def add(strength: float, patches: files.Patches) -> Callable[[Any], set[str]]:
        return lambda copy: copy.add_patches(
            filename=filename, patches=patches, strength_patch=strength, online_mode=online_mode)

    of_unet, of_clip = found
    return (
        files.patched(model, of_unet, lora, add(strength_model, of_unet)),
        files.patched(clip, of_clip, lora, add(strength_clip, of_clip)),
    )
