"""What kohya's scripts call the layers of a model, in the files that they write for it."""

from __future__ import annotations

from lbw.files.layer_names import ModelLayers, names_of
from lbw.tags.families import SD1, Family, encoder_of

_ENCODERS = {"CLIP_L": "te1", "CLIP_H": "te", "CLIP_G": "te2", "T5": "te3"}


def layer_name(key: str, layers: ModelLayers, family: Family) -> str:
    """The name of a layer, or of a projection in it, by the host's key of it.

    The U-Net of SD1 and SD2 has diffusers' names there, SDXL's its own, as transformers have. Text encoders have those
    of the library transformers; the only one of a model is ``te``.
    """
    part, paths = names_of(key)
    if key.startswith("diffusion_model_"):
        is_renamed = family.architecture is SD1.architecture and len(paths) > 1
        return f"lora_unet_{paths[1] if is_renamed else paths[0]}"
    is_only_one = sum(map(layers.has_part, _ENCODERS)) == 1
    encoder = "te" if is_only_one else _ENCODERS.get(part, "te")
    return f"lora_{encoder}_{next((path for path in paths if path.startswith('text_model_')), paths[0])}"


def with_path_of_host(key: str, layers: ModelLayers) -> str:
    """As :func:`layer_name`, but for the path within the U-Net or the text encoder, which is the host's: each of the
    Forge family knows those, of whatever model."""
    if key.startswith("diffusion_model_"):
        return f"lora_unet_{key.removeprefix('diffusion_model_')}"
    encoder = encoder_of(key)
    is_only_one = encoder == "CLIP_G" and not layers.has_part("CLIP_L")
    _encoder, _, path = key.partition("_transformer_")
    return f"lora_{'te' if is_only_one else _ENCODERS.get(encoder, 'te')}_{path}"
