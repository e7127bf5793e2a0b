"""One generation, as far as txt2img and img2img agree on it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch

from modules import (
    devices,
    extra_networks,
    family,
    prompt_parser,
    rng,
    scripts,
    sd_samplers,
    sd_samplers_common,
    shared,
)
from modules.sd_samplers_common import decode_first_stage
from modules.shared import opts, state

opt_C = 4
opt_f = 8


class DecodedSamples(list):
    """Images that stand where latents are expected: the hires pass decodes by itself."""

    already_decoded = True


def decode_latent_batch(model, batch, target_device=None, check_for_nans: bool = False) -> DecodedSamples:
    """Decode latents one by one, so that a batch equals its images made alone."""
    samples = DecodedSamples()
    if check_for_nans:
        devices.test_for_nans(batch, "unet")
    for latent in batch:
        sample = decode_first_stage(model, latent[None])[0]
        if check_for_nans:
            devices.test_for_nans(sample, "vae")
        samples.append(sample if target_device is None else sample.to(target_device))
    return samples


def create_random_tensors(
    shape, seeds, subseeds=None, subseed_strength=0.0, seed_resize_from_h=0, seed_resize_from_w=0, p=None
) -> torch.Tensor:
    return rng.ImageRNG(
        shape, seeds, subseeds=subseeds, subseed_strength=subseed_strength, seed_resize_from_h=seed_resize_from_h,
        seed_resize_from_w=seed_resize_from_w).next()


def empty_image_conditioning(x: torch.Tensor) -> torch.Tensor:
    """What stands for an image conditioning with models that take none; only its batch size counts."""
    return x.new_zeros(x.shape[0], 5, 1, 1)


@dataclass(repr=False)
class StableDiffusionProcessing:
    """What the user asked for, and, from `process_images` on, how far it has come."""

    sd_model: object = None
    outpath_samples: str | None = None
    outpath_grids: str | None = None
    prompt: str = ""
    prompt_for_display: str | None = None
    negative_prompt: str = ""
    styles: list[str] | None = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    seed_enable_extras: bool = True
    sampler_name: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    extra_generation_params: dict[str, Any] | None = None
    overlay_images: list | None = None
    eta: float | None = None
    do_not_reload_embeddings: bool = False
    denoising_strength: float | None = None
    ddim_discretize: str | None = None
    s_min_uncond: float | None = None
    s_churn: float | None = None
    s_tmax: float | None = None
    s_tmin: float | None = None
    s_noise: float | None = None
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool = True
    sampler_index: int | None = None
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    disable_extra_networks: bool = False
    firstpass_image: Any = None

    scripts_value: scripts.ScriptRunner | None = field(default=None, init=False)
    script_args_value: list | None = field(default=None, init=False)
    scripts_setup_complete: bool = field(default=False, init=False)
    comments: dict | None = None
    sampler: sd_samplers_common.Sampler | None = field(default=None, init=False)
    is_using_inpainting_conditioning: bool = field(default=False, init=False)
    paste_to: tuple | None = field(default=None, init=False)
    is_hr_pass: bool = field(default=False, init=False)
    c: Any = field(default=None, init=False)
    uc: Any = field(default=None, init=False)
    rng: Any = field(default=None, init=False)
    step_multiplier: int = field(default=1, init=False)
    color_corrections: list | None = field(default=None, init=False)
    all_prompts: list | None = field(default=None, init=False)
    all_negative_prompts: list | None = field(default=None, init=False)
    all_seeds: list | None = field(default=None, init=False)
    all_subseeds: list | None = field(default=None, init=False)
    iteration: int = field(default=0, init=False)
    main_prompt: str | None = field(default=None, init=False)
    main_negative_prompt: str | None = field(default=None, init=False)
    prompts: list | None = field(default=None, init=False)
    negative_prompts: list | None = field(default=None, init=False)
    seeds: list | None = field(default=None, init=False)
    subseeds: list | None = field(default=None, init=False)
    extra_network_data: dict | None = field(default=None, init=False)
    user: str | None = field(default=None, init=False)
    sd_model_name: str | None = field(default=None, init=False)
    sd_model_hash: str | None = field(default=None, init=False)
    sd_vae_name: str | None = field(default=None, init=False)
    sd_vae_hash: str | None = field(default=None, init=False)
    is_api: bool = field(default=False, init=False)

    def __post_init__(self):
        if self.sampler_index is not None:
            print("sampler_index has no effect, sampler_name chooses the sampler", file=sys.stderr)
        self.comments = {}
        self.styles = self.styles or []
        self.refiner_checkpoint_info = self.sampler_noise_scheduler_override = None
        for name, kind in (("extra_generation_params", dict), ("override_settings", dict), ("script_args", list)):
            setattr(self, name, getattr(self, name) or kind())
        if not self.seed_enable_extras:
            self.subseed, self.subseed_strength = -1, 0
            self.seed_resize_from_h = self.seed_resize_from_w = 0
        # One object for all generations, so that an encoded prompt outlives the generation it was made for.
        self.cached_uc = StableDiffusionProcessing.cached_uc
        self.cached_c = StableDiffusionProcessing.cached_c

    @property
    def scripts(self) -> scripts.ScriptRunner | None:
        return self.scripts_value

    @scripts.setter
    def scripts(self, value) -> None:
        self.scripts_value = value
        self._setup_scripts_once_ready()

    @property
    def script_args(self):
        return self.script_args_value

    @script_args.setter
    def script_args(self, value) -> None:
        self.script_args_value = value
        self._setup_scripts_once_ready()

    def _setup_scripts_once_ready(self) -> None:
        if self.scripts_value and self.script_args_value and not self.scripts_setup_complete:
            self.setup_scripts()

    def setup_scripts(self) -> None:
        self.scripts_setup_complete = True
        self.scripts.setup_scrips(self, is_ui=not self.is_api)

    def comment(self, text: str) -> None:
        """A remark for the user, shown with the result; the same remark is shown once."""
        self.comments[text] = 1

    def activate_extra_networks(self, tags: dict | None) -> None:
        """Make the tags of a pass effective, unless the job does without networks."""
        if self.disable_extra_networks:
            return
        with devices.autocast():
            extra_networks.activate(self, tags)

    def fill_fields_from_opts(self) -> None:
        for name in ("s_min_uncond", "s_churn", "s_tmin", "s_tmax", "s_noise"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(opts, name))
        self.s_tmax = self.s_tmax or float("inf")

    def txt2img_image_conditioning(self, x, width=None, height=None) -> torch.Tensor:
        """For an inpainting model: all is masked, and the image below the mask is grey."""
        if family.current.conditioning_key(self.sd_model) != "hybrid":
            return empty_image_conditioning(x)
        model = self.sd_model
        grey = torch.full((len(x), 3, *(8 * side for side in x.shape[2:])), 0.5, device=x.device)
        latent = model.get_first_stage_encoding(model.encode_first_stage(grey.to(devices.dtype_vae)))
        return torch.cat([torch.ones_like(latent[:, :1]), latent], dim=1).to(x.dtype)

    def img2img_image_conditioning(
        self, source_image, latent_image, image_mask=None, round_image_mask=True
    ) -> torch.Tensor:
        """Of an image in -1..1: the latents of the image itself for a model that edits it."""
        if self.sd_model.cond_stage_key == "edit":
            return self.sd_model.encode_first_stage(source_image.to(devices.dtype_vae)).mode().to(latent_image.dtype)
        return self.txt2img_image_conditioning(latent_image)

    def init(self, all_prompts, all_seeds, all_subseeds) -> None:
        """Get ready, once, before the first batch."""

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        """Make the latents of one batch."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what the generation used; the cond cache stays, unless the settings say otherwise."""
        self.sampler = None
        self.c = self.uc = None
        if not opts.persistent_cond_cache:
            StableDiffusionProcessing.cached_c = [None, None]
            StableDiffusionProcessing.cached_uc = [None, None]

    def clear_prompt_cache(self) -> None:
        """Forget all encoded prompts, in caches that are new objects."""
        self.cached_c = StableDiffusionProcessing.cached_c = [None, None]
        self.cached_uc = StableDiffusionProcessing.cached_uc = [None, None]

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        own = self.token_merging_ratio or opts.token_merging_ratio
        return (self.token_merging_ratio_hr or opts.token_merging_ratio_hr or own) if for_hr else own

    def setup_prompts(self) -> None:
        """Prompts of all images of the job, styles applied."""
        count = self.batch_size * self.n_iter
        if isinstance(self.prompt, list):
            prompts = self.prompt
        else:
            count = len(self.negative_prompt) if isinstance(self.negative_prompt, list) else count
            prompts = [self.prompt] * count
        negative = self.negative_prompt
        negative_prompts = negative if isinstance(negative, list) else [negative] * len(prompts)
        if len(prompts) != len(negative_prompts):
            raise RuntimeError(f"{len(prompts)} prompts, but {len(negative_prompts)} negative prompts")
        styles = shared.prompt_styles
        self.all_prompts = [styles.apply_styles_to_prompt(text, self.styles) for text in prompts]
        self.all_negative_prompts = [
            styles.apply_negative_styles_to_prompt(text, self.styles) for text in negative_prompts]
        self.main_prompt, self.main_negative_prompt = self.all_prompts[0], self.all_negative_prompts[0]

    def cached_params(self, required_prompts, steps, extra_network_data, hires_steps=None, use_old_scheduling=False):
        """The key of the cond cache: everything that an encoded prompt depends on, as far as the host knows.

        Of networks it knows the text of their tags, not what the text stands for.
        """
        return (
            required_prompts, steps, hires_steps, use_old_scheduling, opts.CLIP_stop_at_last_layers,
            shared.sd_model.sd_checkpoint_info, extra_network_data, opts.sdxl_crop_left, opts.sdxl_crop_top,
            self.width, self.height, opts.fp8_storage, opts.cache_fp16_weight, opts.emphasis,
        )

    def get_conds_with_caching(self, function, required_prompts, steps, caches, extra_network_data, hires_steps=None):
        """Encode prompts by `function`, unless one of `caches`, each [key, value], has them; fills the first."""
        old = opts.use_old_scheduling
        if old:
            schedules = [
                prompt_parser.get_learned_conditioning_prompt_schedules(required_prompts, steps, hires_steps, way)
                for way in (False, True)
            ]
            if schedules[0] != schedules[1]:
                self.extra_generation_params["Old prompt editing timelines"] = True
        key = self.cached_params(required_prompts, steps, extra_network_data, hires_steps, old)
        for cache in caches:
            if cache[0] is not None and cache[0] == key:
                return cache[1]
        with devices.autocast():
            caches[0][1] = function(shared.sd_model, required_prompts, steps, hires_steps, old)
        caches[0][0] = key
        return caches[0][1]

    def setup_conds(self) -> None:
        """Encode the batch's prompts. Networks act on the text encoder with the strength they have at this moment."""
        prompts = prompt_parser.SdConditioning(self.prompts, width=self.width, height=self.height)
        negative_prompts = prompt_parser.SdConditioning(
            self.negative_prompts, width=self.width, height=self.height, is_negative_prompt=True)
        config = sd_samplers.find_sampler_config(self.sampler_name)
        total_steps = config.total_steps(self.steps) if config else self.steps
        self.step_multiplier = total_steps // self.steps
        self.firstpass_steps = total_steps
        self.uc = self.get_conds_with_caching(
            prompt_parser.get_learned_conditioning, negative_prompts, total_steps, [self.cached_uc],
            self.extra_network_data)
        self.c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning, prompts, total_steps, [self.cached_c],
            self.extra_network_data)

    def get_conds(self) -> tuple:
        return self.c, self.uc

    def parse_extra_network_prompts(self) -> None:
        """Take the tags out of the batch's prompts; negative prompts keep theirs, as text."""
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    def save_samples(self) -> bool:
        """Whether images of the running batch go to disk."""
        complete = not state.interrupted and not state.skipped
        return opts.samples_save and not self.do_not_save_samples and (opts.save_incomplete_images or complete)


# Not fields: shared by all generations, and replaced on the class when the settings turn persistence off.
StableDiffusionProcessing.cached_uc = [None, None]
StableDiffusionProcessing.cached_c = [None, None]
StableDiffusionProcessing.token_merging_ratio = 0
StableDiffusionProcessing.token_merging_ratio_hr = 0
# There is one model, the shared one: whatever a caller passes, a generation sees that.
StableDiffusionProcessing.sd_model = property(lambda self: shared.sd_model, lambda self, value: None)
