"""A checkpoint in memory: the host's `sd_model` and the patchers of its parts, its `forge_objects`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import forge_books
from torch import Tensor, nn

from modules import devices, sd_hijack, sd_models
from modules.sampling.denoisers import EpsDenoiser
from modules_forge import clip_g


class KModel(nn.Module):
    """The U-Net as the samplers see it: from an image with noise and its noise level to the image without."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = model.model.diffusion_model
        self._denoise: Callable[..., Tensor] = EpsDenoiser(model).forward  # a module would be a part of this one

    def apply_model(self, x: Tensor, sigma: Tensor, cond: dict) -> Tensor:
        return self._denoise(x, sigma, cond=cond)


class CLIP:
    """All text encoders. `cond_stage_model` has them as `clip_l` and `clip_g`."""

    def __init__(self, cond_stage_model: nn.Module, patcher: Any) -> None:
        self.cond_stage_model, self.patcher = cond_stage_model, patcher

    def clone(self) -> CLIP:
        return CLIP(self.cond_stage_model, self.patcher.clone())

    def add_patches(self, *args: Any, **kwargs: Any) -> Any:
        return self.patcher.add_patches(*args, **kwargs)


class VAE:
    def __init__(self, first_stage_model: nn.Module) -> None:
        self.first_stage_model = first_stage_model
        self.patcher = _patcher(forge_books.ModelPatcher, first_stage_model)


class ForgeObjects:
    def __init__(self, unet: Any, clip: CLIP, vae: VAE, clipvision: None = None) -> None:
        self.unet, self.clip, self.vae, self.clipvision = unet, clip, vae, clipvision

    def shallow_copy(self) -> ForgeObjects:
        return ForgeObjects(self.unet, self.clip, self.vae, self.clipvision)


def _patcher(kind: Callable[..., Any], model: nn.Module) -> Any:
    return kind(model, load_device=devices.device, offload_device=devices.cpu)


def _text_encoders(model: nn.Module) -> nn.ModuleDict:
    embedders = model.conditioner.embedders if model.is_sdxl else [model.cond_stage_model]
    encoders = [each.wrapped for each in embedders if hasattr(each, "wrapped")]
    return nn.ModuleDict({"clip_g" if isinstance(each, clip_g.FrozenClipG) else "clip_l": each for each in encoders})


def build(info: Any) -> nn.Module:
    """A checkpoint's model, on the CPU.

    Raises:
        ValueError: it is of a kind that the stand-in has no names for here.
    """
    tensors = sd_models.read_state_dict(info.filename)
    config = sd_models.find_config(tensors)
    if config in ("sd2", "sd3"):
        raise ValueError(f"{info.title}: as a Forge the stand-in runs SD1 and SDXL only, and this is {config}")
    model = sd_models.build_model(config)
    if model.is_sdxl:
        tensors = clip_g.use(model, tensors)
    sd_models.load_model_weights(model, info, tensors)
    sd_hijack.model_hijack.hijack(model)
    model.first_stage_model.to(devices.device)
    return model.eval().requires_grad_(False)


def parts_of(model: nn.Module) -> ForgeObjects:
    """The patchers of a model, which work on its very modules."""
    encoders = _text_encoders(model)
    clip = CLIP(encoders, _patcher(forge_books.ModelPatcher, encoders))
    return ForgeObjects(_patcher(forge_books.UnetPatcher, KModel(model)), clip, VAE(model.first_stage_model))


def encoding(sd_model: Any, encode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`get_learned_conditioning`: the text encoders are loaded, with the patches in use, before they encode."""

    def get_learned_conditioning(prompts: Any) -> Any:
        forge_books.memory.load_model_gpu(sd_model.forge_objects.clip.patcher)
        return encode(prompts)

    return get_learned_conditioning


def with_parts(model: nn.Module, *, applied: bool) -> nn.Module:
    """The model itself as `sd_model`, with the patchers of its parts.

    Args:
        applied: whether there are `forge_objects_after_applying_lora` before a LoRA was applied.
    """
    model.forge_objects_original = parts_of(model)
    model.forge_objects = model.forge_objects_original.shallow_copy()
    model.forge_objects_after_applying_lora = model.forge_objects.shallow_copy() if applied else None
    model.current_lora_hash = str([])
    model.get_learned_conditioning = encoding(model, model.get_learned_conditioning)
    return model


class ForgeDiffusionEngine:
    """`sd_model` of a host that has nothing but the patchers, and is no module."""

    first_stage_model = cond_stage_model = None
    is_sd2 = is_sd3 = tiling_enabled = use_distilled_cfg_scale = False
    # What the processing asks for that all families share here. The hosts' have none of it.
    parameterization, cond_stage_key, lowvram = "eps", "txt", False

    def __init__(self, model: nn.Module) -> None:
        self.is_sd1, self.is_sdxl = model.is_sd1, model.is_sdxl
        self.sd_checkpoint_info, self.sd_model_hash = model.sd_checkpoint_info, model.sd_model_hash
        self.alphas_cumprod = self.alphas_cumprod_original = model.alphas_cumprod
        self.forge_objects = parts_of(model)
        self.forge_objects.unet.model.storage_dtype = model.dtype
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()
        self.current_lora_hash = str([])
        self.get_learned_conditioning = encoding(self, model.get_learned_conditioning)
        self.encode_first_stage, self.decode_first_stage = model.encode_first_stage, model.decode_first_stage
        self.get_first_stage_encoding = model.get_first_stage_encoding
        self.comments: list[str] = []
        self.extra_generation_params: dict[str, Any] = {}

    @property
    def is_inpaint(self) -> bool:
        return self.forge_objects.unet.model.diffusion_model.config.image_channels > 0


class FakeInitialModel:
    """`sd_model` of a host that loads none before the first generation."""

    chunk_length = 75
    cond_stage_model = None
