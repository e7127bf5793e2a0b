"""How this generation keeps its books: patches by parameter, merged with a model's loading, taken out with the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldm_patched.modules import lora as lora_files
from ldm_patched.modules import model_management as memory  # noqa: F401
from ldm_patched.modules.model_patcher import ModelPatcher, UnetPatcher  # noqa: F401
from modules_forge import files
from torch import Tensor


def load_lora_for_models(
    model: Any, clip: Any, lora: Mapping[str, Tensor], strength_model: float, strength_clip: float,
    filename: str = "default",
) -> tuple[Any, Any]:
    """U-Net and text encoders with the patches of a file."""
    of_unet, lora = lora_files.load_lora(lora, lora_files.model_lora_keys_unet(model.model))
    of_clip, lora = lora_files.load_lora(lora, lora_files.model_lora_keys_clip(clip.cond_stage_model))
    return (
        files.patched(model, of_unet, lora, lambda copy: copy.add_patches(of_unet, strength_model)),
        files.patched(clip, of_clip, lora, lambda copy: copy.add_patches(of_clip, strength_clip)),
    )
