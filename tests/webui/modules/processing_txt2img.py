"""txt2img, with its second pass in a higher resolution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from modules import devices, extra_networks, family, images, prompt_parser, rng, sd_models, sd_samplers, shared
from modules.processing_base import StableDiffusionProcessing, decode_latent_batch, opt_f
from modules.processing_result import create_infotext
from modules.sd_samplers_common import images_tensor_to_samples
from modules.shared import opts, state

_CONDS = prompt_parser.get_multicond_learned_conditioning
_UNCONDS = prompt_parser.get_learned_conditioning


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """An image as numbers in 0..1, channels first."""
    return torch.from_numpy(np.moveaxis(np.array(image).astype(np.float32) / 255.0, 2, 0))


def tensor_to_image(tensor: torch.Tensor) -> Image.Image:
    pixels = 255.0 * np.moveaxis(tensor.cpu().numpy(), 0, 2)
    return Image.fromarray(pixels.astype(np.uint8))


def old_hires_fix_first_pass_dimensions(width: int, height: int) -> tuple[int, int]:
    """First pass size of old versions: about 512 x 512 pixels, in multiples of 64."""
    scale = (512 * 512 / (width * height)) ** 0.5
    return tuple(int(-(-scale * size // 64) * 64) for size in (width, height))


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    enable_hr: bool = False
    denoising_strength: float = 0.75
    firstphase_width: int = 0
    firstphase_height: int = 0
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    force_task_id: str | None = None
    hr_additional_modules: list | None = None
    """Of Forges that load text encoders from files of their own; without effect."""

    hr_checkpoint_info: Any = field(default=None, init=False)
    hr_upscale_to_x: int = field(default=0, init=False)
    hr_upscale_to_y: int = field(default=0, init=False)
    truncate_x: int = field(default=0, init=False)
    truncate_y: int = field(default=0, init=False)
    applied_old_hires_behavior_to: tuple | None = field(default=None, init=False)
    latent_scale_mode: dict | None = field(default=None, init=False)
    hr_c: Any = field(default=None, init=False)
    hr_uc: Any = field(default=None, init=False)
    all_hr_prompts: list | None = field(default=None, init=False)
    all_hr_negative_prompts: list | None = field(default=None, init=False)
    hr_prompts: list | None = field(default=None, init=False)
    hr_negative_prompts: list | None = field(default=None, init=False)
    hr_extra_network_data: dict | None = field(default=None, init=False)

    def __post_init__(self):
        super().__post_init__()
        if self.firstphase_width or self.firstphase_height:
            self.hr_upscale_to_x, self.hr_upscale_to_y = self.width, self.height
            self.width, self.height = self.firstphase_width, self.firstphase_height
        self.cached_hr_uc = StableDiffusionProcessingTxt2Img.cached_hr_uc
        self.cached_hr_c = StableDiffusionProcessingTxt2Img.cached_hr_c

    def calculate_target_resolution(self) -> None:
        """Size after the hires pass; where it has other proportions than the first, what to cut off."""
        if opts.use_old_hires_fix_width_height and self.applied_old_hires_behavior_to != (self.width, self.height):
            self.hr_resize_x, self.hr_resize_y = self.width, self.height
            self.width, self.height = old_hires_fix_first_pass_dimensions(self.width, self.height)
            self.applied_old_hires_behavior_to = (self.width, self.height)
        to_x, to_y = self.hr_resize_x, self.hr_resize_y
        if to_x == 0 and to_y == 0:
            self.extra_generation_params["Hires upscale"] = self.hr_scale
            self.hr_upscale_to_x = int(self.width * self.hr_scale)
            self.hr_upscale_to_y = int(self.height * self.hr_scale)
            return
        self.extra_generation_params["Hires resize"] = f"{to_x}x{to_y}"
        by_width = to_y == 0 or (to_x != 0 and self.width / self.height < to_x / to_y)
        if by_width:
            self.hr_upscale_to_x, self.hr_upscale_to_y = to_x, to_x * self.height // self.width
        else:
            self.hr_upscale_to_x, self.hr_upscale_to_y = to_y * self.width // self.height, to_y
        if to_x and to_y:
            self.truncate_x = (self.hr_upscale_to_x - to_x) // opt_f
            self.truncate_y = (self.hr_upscale_to_y - to_y) // opt_f

    def init(self, all_prompts, all_seeds, all_subseeds) -> None:
        if not self.enable_hr:
            return
        if self.hr_checkpoint_name and self.hr_checkpoint_name != "Use same checkpoint":
            self.hr_checkpoint_info = sd_models.get_closet_checkpoint_match(self.hr_checkpoint_name)
            if self.hr_checkpoint_info is None:
                raise ValueError(f"there is no checkpoint {self.hr_checkpoint_name}")
        if self.hr_scheduler is None:
            self.hr_scheduler = self.scheduler
        self.latent_scale_mode = shared.latent_upscale_modes.get(
            shared.latent_upscale_default_mode if self.hr_upscaler is None else self.hr_upscaler)
        if self.latent_scale_mode is None and self.hr_upscaler not in [u.name for u in shared.sd_upscalers]:
            raise ValueError(f"there is no upscaler {self.hr_upscaler}")
        self._note_hires_params()
        self.calculate_target_resolution()
        self._count_hires_job()

    def _note_hires_params(self) -> None:
        notes = self.extra_generation_params
        notes["Denoising strength"] = self.denoising_strength
        if self.hr_checkpoint_info is not None:
            notes["Hires checkpoint"] = self.hr_checkpoint_info.short_title
        if self.hr_sampler_name is not None and self.hr_sampler_name != self.sampler_name:
            notes["Hires sampler"] = self.hr_sampler_name

        def hr_prompt(p, index, prompt_text, **kwargs):
            return p.all_hr_prompts[index] if p.all_hr_prompts[index] != prompt_text else None

        def hr_negative_prompt(p, index, negative_prompt, **kwargs):
            return p.all_hr_negative_prompts[index] if p.all_hr_negative_prompts[index] != negative_prompt else None

        notes["Hires prompt"] = hr_prompt
        notes["Hires negative prompt"] = hr_negative_prompt
        notes["Hires schedule type"] = None  # the sampler fills it in; named here for its place in the line
        if self.hr_second_pass_steps:
            notes["Hires steps"] = self.hr_second_pass_steps
        if self.hr_upscaler is not None:
            notes["Hires upscaler"] = self.hr_upscaler

    def _count_hires_job(self) -> None:
        """Each batch counts as two jobs, once for all generations that a script makes."""
        if state.processing_has_refined_job_count:
            return
        if state.job_count == -1:
            state.job_count = self.n_iter
        steps = self.hr_second_pass_steps or self.steps
        if not getattr(self, "txt2img_upscale", False):
            steps += self.steps
        shared.total_tqdm.updateTotal(steps * state.job_count)
        state.job_count *= 2
        state.processing_has_refined_job_count = True

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        """Latents; with a hires pass, the decoded images that it makes of them."""
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        if not self.enable_hr:
            return self._denoise_from_noise(conditioning, unconditional_conditioning)
        if self.firstpass_image is None:
            start = self._start_from_latents(self._denoise_from_noise(conditioning, unconditional_conditioning))
        else:
            start = self._start_from_image(self.firstpass_image)
        devices.torch_gc()
        with sd_models.SkipWritingToConfig():
            family.current.change_model(self.hr_checkpoint_info)
        return self.sample_hr_pass(*start, seeds, subseeds, subseed_strength, prompts)

    def _announce_sampling(self, x: torch.Tensor, noise: torch.Tensor, c, uc) -> None:
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(p=self, x=x, noise=noise, c=c, uc=uc)

    def _denoise_from_noise(self, c, uc) -> torch.Tensor:
        """The first pass."""
        noise = self.rng.next()
        family.current.use_networks(self)
        self._announce_sampling(noise, noise, c, uc)
        return self.sampler.sample(self, noise, c, uc, image_conditioning=self.txt2img_image_conditioning(noise))

    def _start_from_latents(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the hires pass begins with after a first pass: latents, and pixels in -1..1 if those get stretched."""
        if self.latent_scale_mode is not None:
            return latents, None
        pixels = decode_latent_batch(self.sd_model, latents, target_device=devices.cpu, check_for_nans=True)
        return latents, torch.stack(pixels).float()

    def _start_from_image(self, image: Image.Image) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The same where an image stands for the first pass: only the one that gets stretched."""
        batch = image_to_tensor(image).unsqueeze(0)
        if self.latent_scale_mode is not None:
            return images_tensor_to_samples(batch, model=self.sd_model), None
        return None, 2.0 * batch - 1.0

    def _upscaled(self, samples, decoded_samples, seeds, prompts) -> torch.Tensor:
        """The first pass's result in the size of the second, by stretching the latents or the pixels."""
        width, height = self.hr_upscale_to_x, self.hr_upscale_to_y
        if self.latent_scale_mode is not None:
            for index in range(samples.shape[0]):
                self._save_first_pass(sd_samplers.sample_to_image, samples, index, seeds, prompts)
            return torch.nn.functional.interpolate(
                samples, size=(height // opt_f, width // opt_f), mode=self.latent_scale_mode["mode"],
                antialias=self.latent_scale_mode["antialias"])
        resized = []
        for index, sample in enumerate(torch.clamp((decoded_samples + 1.0) / 2.0, 0.0, 1.0)):
            image = tensor_to_image(sample)
            self._save_first_pass(lambda *_, image=image: image, samples, index, seeds, prompts)
            resized.append(image_to_tensor(
                images.resize_image(0, image, width, height, upscaler_name=self.hr_upscaler)))
        return images_tensor_to_samples(torch.stack(resized), model=self.sd_model)

    def _save_first_pass(self, to_image, samples, index: int, seeds, prompts) -> None:
        if not self.save_samples() or not opts.save_images_before_highres_fix:
            return
        info = create_infotext(
            self, self.all_prompts, self.all_seeds, self.all_subseeds, [], iteration=self.iteration,
            position_in_batch=index)
        images.save_image(
            to_image(samples, index), self.outpath_samples, "", seeds[index], prompts[index], opts.samples_format,
            info=info, p=self, suffix="-before-highres-fix")

    def _cut_to_target(self, latents: torch.Tensor) -> torch.Tensor:
        """Cut off what is too much at opposite sides; the far side loses the odd row or column."""
        for dim, surplus in ((2, self.truncate_y), (3, self.truncate_x)):
            latents = latents.narrow(dim, surplus // 2, latents.shape[dim] - surplus)
        return latents

    def _restart_noise(self, shape) -> torch.Tensor:
        """The batch's seeds once more, for latents of another size."""
        self.rng = rng.ImageRNG(shape, self.seeds, **{
            name: getattr(self, name)
            for name in ("subseeds", "subseed_strength", "seed_resize_from_h", "seed_resize_from_w")
        })
        return self.rng.next()

    def _use_hires_prompts(self) -> None:
        self.activate_extra_networks(self.hr_extra_network_data)
        with devices.autocast():
            self.calculate_hr_conds()
        if self.scripts is not None:
            self.scripts.before_hr(self)

    def sample_hr_pass(self, samples, decoded_samples, seeds, subseeds, subseed_strength, prompts):
        """The second pass: networks and prompts of its own, its own step 0; returns decoded images."""
        if state.interrupted:
            return samples
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.hr_sampler_name or self.sampler_name, self.sd_model)
        stretched = self._upscaled(samples, decoded_samples, seeds, prompts)
        image_conditioning = self.txt2img_image_conditioning(stretched)
        state.nextjob()

        start = self._cut_to_target(stretched)
        noise = self._restart_noise(start.shape[1:])
        self._use_hires_prompts()
        family.current.announce_hires(self, lambda: self._announce_sampling(start, noise, self.hr_c, self.hr_uc))
        latents = self.sampler.sample_img2img(
            self, start, noise, self.hr_c, self.hr_uc, steps=self.hr_second_pass_steps or self.steps,
            image_conditioning=image_conditioning)
        self.sampler = None
        devices.torch_gc()
        finished = decode_latent_batch(self.sd_model, latents, target_device=devices.cpu, check_for_nans=True)
        self.is_hr_pass = False
        return finished

    def close(self) -> None:
        super().close()
        self.hr_c = self.hr_uc = None
        if not opts.persistent_cond_cache:
            StableDiffusionProcessingTxt2Img.cached_hr_uc = [None, None]
            StableDiffusionProcessingTxt2Img.cached_hr_c = [None, None]

    def setup_prompts(self) -> None:
        super().setup_prompts()
        if not self.enable_hr:
            return
        self.hr_prompt = self.prompt if self.hr_prompt == "" else self.hr_prompt
        self.hr_negative_prompt = self.negative_prompt if self.hr_negative_prompt == "" else self.hr_negative_prompt
        count, styles = self.batch_size * self.n_iter, shared.prompt_styles
        prompts = self.hr_prompt if isinstance(self.hr_prompt, list) else [self.hr_prompt] * count
        negative = self.hr_negative_prompt
        negative = negative if isinstance(negative, list) else [negative] * count
        self.all_hr_prompts = [styles.apply_styles_to_prompt(text, self.styles) for text in prompts]
        self.all_hr_negative_prompts = [styles.apply_negative_styles_to_prompt(text, self.styles) for text in negative]

    def calculate_hr_conds(self) -> None:
        """Encode the hires prompts, once a batch. What the first pass has encoded under the same key is taken over."""
        if self.hr_c is not None:
            return
        size = {"width": self.hr_upscale_to_x, "height": self.hr_upscale_to_y}
        prompts = prompt_parser.SdConditioning(self.hr_prompts, **size)
        negative_prompts = prompt_parser.SdConditioning(self.hr_negative_prompts, **size, is_negative_prompt=True)
        config = sd_samplers.find_sampler_config(self.hr_sampler_name or self.sampler_name)
        steps = self.hr_second_pass_steps or self.steps
        total_steps = config.total_steps(steps) if config else steps
        self.hr_uc = self.get_conds_with_caching(
            _UNCONDS, negative_prompts, self.firstpass_steps, [self.cached_hr_uc, self.cached_uc],
            self.hr_extra_network_data, total_steps)
        self.hr_c = self.get_conds_with_caching(
            _CONDS, prompts, self.firstpass_steps, [self.cached_hr_c, self.cached_c],
            self.hr_extra_network_data, total_steps)

    def setup_conds(self) -> None:
        self.hr_c = None
        # In the second pass it is the refiner that asks, and the first pass's prompts are of no more use.
        if self.is_hr_pass:
            self.calculate_hr_conds()
            return
        super().setup_conds()
        self.hr_uc = None
        if not self.enable_hr or self.hr_checkpoint_info is not None:
            return
        if opts.hires_fix_use_firstpass_conds:
            self.calculate_hr_conds()
        elif family.current.encodes_hires_prompts_early(self):
            # Now, before the text encoder makes room for the U-Net; with the networks that the second pass will have.
            self._activate(self.hr_extra_network_data)
            self.calculate_hr_conds()
            self._activate(self.extra_network_data)

    def _activate(self, tags: dict) -> None:
        with devices.autocast():
            extra_networks.activate(self, tags)

    def get_conds(self) -> tuple:
        return (self.hr_c, self.hr_uc) if self.is_hr_pass else super().get_conds()

    def parse_extra_network_prompts(self) -> None:
        super().parse_extra_network_prompts()
        if self.enable_hr:
            batch = slice(self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size)
            self.hr_negative_prompts = self.all_hr_negative_prompts[batch]
            self.hr_prompts, self.hr_extra_network_data = extra_networks.parse_prompts(self.all_hr_prompts[batch])


StableDiffusionProcessingTxt2Img.cached_hr_uc = [None, None]
StableDiffusionProcessingTxt2Img.cached_hr_c = [None, None]
