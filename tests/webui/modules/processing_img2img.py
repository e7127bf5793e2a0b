"""img2img, with a mask or without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from modules import devices, family, images, masking, scripts, sd_hijack, sd_samplers
from modules.processing_base import StableDiffusionProcessing, create_random_tensors, opt_f
from modules.processing_txt2img import image_to_tensor
from modules.sd_samplers_common import images_tensor_to_samples
from modules.shared import opts

FILL, ORIGINAL, LATENT_NOISE, LATENT_NOTHING = range(4)
LATENT_UPSCALE = 3


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    init_images: list | None = None
    resize_mode: int = 0
    denoising_strength: float = 0.75
    image_cfg_scale: float | None = None
    mask: Any = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: int | None = None
    mask_round: bool = True
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float | None = None
    latent_mask: Any = None
    force_task_id: str | None = None

    image_mask: Any = field(default=None, init=False)
    nmask: Any = field(default=None, init=False)
    image_conditioning: Any = field(default=None, init=False)
    init_img_hash: str | None = field(default=None, init=False)
    mask_for_overlay: Any = field(default=None, init=False)
    init_latent: Any = field(default=None, init=False)

    def __post_init__(self):
        super().__post_init__()
        # `mask` is the user's image until here; from now on it is the latent mask of the denoiser.
        self.image_mask, self.mask = self.mask, None
        if self.initial_noise_multiplier is None:
            self.initial_noise_multiplier = opts.initial_noise_multiplier

    def _blurred_mask(self, mask: Image.Image) -> Image.Image:
        mask = masking.create_binary_mask(mask, round=self.mask_round)
        if self.inpainting_mask_invert:
            mask = ImageOps.invert(mask)
            self.extra_generation_params["Mask mode"] = "Inpaint not masked"
        if self.mask_blur_x > 0 or self.mask_blur_y > 0:
            mask = mask.filter(ImageFilter.GaussianBlur((self.mask_blur_x, self.mask_blur_y)))
            self.extra_generation_params["Mask blur"] = self.mask_blur
        return mask

    def _prepare_mask(self) -> tuple[Image.Image | None, tuple | None]:
        """The mask in the size of the generation, and the region of the image that is inpainted if not all of it."""
        if self.image_mask is None:
            return None, None
        self.overlay_images = []
        mask = self._blurred_mask(self.image_mask)
        if not self.inpaint_full_res:
            mask = images.resize_image(self.resize_mode, mask, self.width, self.height).convert("L")
            self.mask_for_overlay = mask.point(lambda value: min(value * 2, 255))
            return mask, None
        region = masking.get_crop_region(mask, self.inpaint_full_res_padding)
        if region is None:
            sd_hijack.model_hijack.comments.append("The mask is empty: this was made by img2img without one.")
            self.inpaint_full_res = False
            return None, None
        self.mask_for_overlay = mask
        region = masking.expand_crop_region(region, self.width, self.height, mask.width, mask.height)
        self.paste_to = (region[0], region[1], region[2] - region[0], region[3] - region[1])
        self.extra_generation_params["Inpaint area"] = "Only masked"
        self.extra_generation_params["Masked area padding"] = self.inpaint_full_res_padding
        return images.resize_image(2, mask.crop(region), self.width, self.height).convert("L"), region

    def _prepare_image(self, image: Image.Image, mask, region) -> Image.Image:
        """One start image in the size of the generation; notes what is to be laid over the result."""
        image = images.flatten(image, opts.img2img_background_color)
        if region is None and self.resize_mode != LATENT_UPSCALE:
            image = images.resize_image(self.resize_mode, image, self.width, self.height)
        if mask is not None:
            if self.mask_for_overlay.size != image.size:
                self.mask_for_overlay = images.resize_image(self.resize_mode, self.mask_for_overlay, *image.size)
            kept = Image.new("RGBa", image.size)
            kept.paste(
                image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(self.mask_for_overlay.convert("L")))
            self.overlay_images.append(kept.convert("RGBA"))
        if region is not None:
            image = images.resize_image(2, image.crop(region), self.width, self.height)
        if mask is not None and self.inpainting_fill != ORIGINAL:
            image = masking.fill(image, self.latent_mask or mask)
            if self.inpainting_fill == FILL:
                self.extra_generation_params["Masked content"] = "fill"
        return image

    def init(self, all_prompts, all_seeds, all_subseeds) -> None:
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        self.image_cfg_scale = self.image_cfg_scale if self.sd_model.cond_stage_key == "edit" else None
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        mask, region = self._prepare_mask()
        batch = [image_to_tensor(self._prepare_image(image, mask, region)) for image in self.init_images]
        if len(batch) == 1:
            batch = batch * self.batch_size
            self.overlay_images = self.overlay_images * self.batch_size if self.overlay_images is not None else None
        elif len(batch) <= self.batch_size:
            self.batch_size = len(batch)
        else:
            raise RuntimeError(f"{len(batch)} start images for a batch of {self.batch_size}")
        image = torch.stack(batch)
        self.init_latent = images_tensor_to_samples(image, model=self.sd_model)
        if self.resize_mode == LATENT_UPSCALE:
            self.init_latent = torch.nn.functional.interpolate(
                self.init_latent, size=(self.height // opt_f, self.width // opt_f), mode="bilinear")
        if mask is not None:
            self._prepare_latent_mask(self.latent_mask or mask, all_seeds)
        self.image_conditioning = self.img2img_image_conditioning(
            image * 2 - 1, self.init_latent, mask, self.mask_round)

    def _prepare_latent_mask(self, mask: Image.Image, all_seeds) -> None:
        """`nmask` is 1 where the image is made anew, `mask` where the original stays."""
        size = (self.init_latent.shape[3], self.init_latent.shape[2])
        values = np.array(mask.convert("L").resize(size), dtype=np.float32) / 255
        values = torch.from_numpy(np.around(values) if self.mask_round else values)
        self.nmask = values.expand(self.init_latent.shape[1:]).to(devices.device, devices.dtype)
        self.mask = 1.0 - self.nmask
        if self.inpainting_fill == LATENT_NOISE:
            noise = create_random_tensors(self.init_latent.shape[1:], all_seeds[:self.init_latent.shape[0]])
            self.init_latent = self.init_latent * self.mask + noise * self.nmask
            self.extra_generation_params["Masked content"] = "latent noise"
        elif self.inpainting_fill == LATENT_NOTHING:
            self.init_latent = self.init_latent * self.mask
            self.extra_generation_params["Masked content"] = "latent nothing"

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        start, strength = self.init_latent, self.initial_noise_multiplier
        noise = self.rng.next()
        if strength != 1.0:
            noise = noise * strength
            self.extra_generation_params["Noise multiplier"] = strength
        family.current.use_networks(self)
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(
                p=self, x=start, noise=noise, c=conditioning, uc=unconditional_conditioning)
        samples = self.sampler.sample_img2img(
            self, self.init_latent, noise, conditioning, unconditional_conditioning,
            image_conditioning=self.image_conditioning)
        if self.mask is not None:
            mba = scripts.MaskBlendArgs(
                samples, self.nmask, self.init_latent, self.mask,
                samples * self.nmask + self.init_latent * self.mask)
            if self.scripts is not None:
                self.scripts.on_mask_blend(self, mba)
            samples = mba.blended_latent
        devices.torch_gc()
        return samples

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        return self.token_merging_ratio or opts.token_merging_ratio_img2img or opts.token_merging_ratio


def _mask_blur(self) -> int | None:
    return self.mask_blur_x if self.mask_blur_x == self.mask_blur_y else None


def _set_mask_blur(self, value) -> None:
    if isinstance(value, int):
        self.mask_blur_x = self.mask_blur_y = value


# A field for the constructor, a property over the two directions ever after.
StableDiffusionProcessingImg2Img.mask_blur = property(_mask_blur, _set_mask_blur)
