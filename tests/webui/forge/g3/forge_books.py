"""How this generation keeps its books: patches by parameter, and a mark of whose patches are in the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_patched.modules import lora as lora_files
from ldm_patched.modules import model_management as memory  # noqa: F401
from ldm_patched.modules.model_patcher import ModelPatcher, UnetPatcher  # noqa: F401
from torch import Tensor


def load_lora_for_models(
    model: Any, clip: Any, lora: Mapping[str, Tensor], strength_model: float, strength_clip: float,
    filename: str = "default",
) -> tuple[Any, Any]:
    """Copies of U-Net and text encoders with the patches of a file: both copies, whichever of them it is for."""
    names: dict[str, str] = {}
    if strength_model != 0:
        names |= lora_files.model_lora_keys_unet(model.model)
    if strength_clip != 0:
        names |= lora_files.model_lora_keys_clip(clip.cond_stage_model)
    if not names:
        return model, clip
    patches = lora_files.load_lora(lora, names)
    copies = model.clone(), clip.clone()
    for copy, strength in zip(copies, (strength_model, strength_clip), strict=True):
        copy.add_patches(patches, strength)
    return copies
