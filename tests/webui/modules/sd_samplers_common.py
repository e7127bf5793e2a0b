"""What all samplers share: the table entry, decoding, the step counter, noise, and the switch to a refiner."""

from __future__ import annotations

import hashlib
import inspect
import struct
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from modules import devices, family, images, sd_models, shared
from modules.shared import opts, state

SamplerDataTuple = namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])

approximation_indexes = {"Full": 0}


class SamplerData(SamplerDataTuple):
    def total_steps(self, steps: int) -> int:
        """Model evaluations in that many steps; for a second order sampler two for each, although the last has one."""
        return steps * 2 if self.options.get("second_order", False) else steps


class InterruptedException(BaseException):
    """Ends a sampling pass; not an `Exception`, so that hooks which catch those do not swallow it."""


def setup_img2img_steps(p, steps: int | None = None) -> tuple[int, int]:
    """Steps of the whole schedule, and the index from its end at which img2img enters it."""
    strength = min(p.denoising_strength, 0.999)
    if opts.img2img_fix_steps or steps is not None:
        requested = steps or p.steps
        return (int(requested / strength) if p.denoising_strength > 0 else 0), requested - 1
    return p.steps, int(strength * p.steps)


def samples_to_images_tensor(sample: torch.Tensor, approximation=None, model=None) -> torch.Tensor:
    """Decode latents to images in -1..1. `approximation` is of the host's interface; all are full decodings here."""
    model = model or shared.sd_model
    with torch.no_grad(), devices.without_autocast():
        return model.decode_first_stage(sample.to(devices.dtype_vae))


def decode_first_stage(model, x: torch.Tensor) -> torch.Tensor:
    return samples_to_images_tensor(x, approximation_indexes.get(opts.sd_vae_decode_method, 0), model)


def images_tensor_to_samples(image: torch.Tensor, approximation=None, model=None) -> torch.Tensor:
    """Encode images in 0..1 to latents, one by one, so that a batch equals its images alone."""
    model = model or shared.sd_model
    image = image.to(devices.device, dtype=devices.dtype_vae) * 2 - 1
    encoded = [model.get_first_stage_encoding(model.encode_first_stage(single[None])) for single in image]
    return torch.cat(encoded)


def single_sample_to_image(sample: torch.Tensor, approximation=None) -> Image.Image:
    decoded = samples_to_images_tensor(sample.unsqueeze(0), approximation)[0] * 0.5 + 0.5
    pixels = 255.0 * np.moveaxis(decoded.clamp(0.0, 1.0).cpu().float().numpy(), 0, 2)
    return Image.fromarray(pixels.astype(np.uint8))


def sample_to_image(samples: torch.Tensor, index: int = 0, approximation=None) -> Image.Image:
    return single_sample_to_image(samples[index], approximation)


def samples_to_image_grid(samples: torch.Tensor, approximation=None) -> Image.Image:
    return images.image_grid([single_sample_to_image(sample, approximation) for sample in samples])


def store_latent(decoded: torch.Tensor) -> None:
    """Keep the current estimate for previews, which whoever asks for progress decodes."""
    state.current_latent = decoded
    period = opts.show_progress_every_n_steps
    due = opts.live_previews_enable and period > 0 and state.sampling_step % period == 0
    if due and not shared.parallel_processing_allowed:
        state.assign_current_image(sample_to_image(decoded))


def _completed_ratio(cfg_denoiser, sigma) -> float:
    """How far sampling has come: in steps, or in the model's own timesteps."""
    if not family.current.refiner_goes_by_noise:
        return cfg_denoiser.step / cfg_denoiser.total_steps
    if opts.refiner_switch_by_sample_steps or sigma is None:
        cfg_denoiser.p.extra_generation_params["Refiner switch by sampling steps"] = True
        return cfg_denoiser.step / cfg_denoiser.total_steps
    sigmas = getattr(cfg_denoiser.inner_model, "sigmas", None)
    level = torch.max(sigma)
    timestep = int(level) if sigmas is None else int((sigmas.to(sigma.device) - level).abs().argmin())
    return (999 - timestep) / 1000


def apply_refiner(cfg_denoiser, sigma=None) -> bool:
    """Switch to the refiner if its time has come: load it, encode the prompts with it, go on. Says whether it did."""
    p = cfg_denoiser.p
    info = p.refiner_checkpoint_info
    if info is None or shared.sd_model.sd_checkpoint_info == info:
        return False
    if p.refiner_switch_at is not None and _completed_ratio(cfg_denoiser, sigma) < p.refiner_switch_at:
        return False
    if getattr(p, "enable_hr", False):
        excluded = "second pass" if not p.is_hr_pass else "first pass"
        if opts.hires_fix_refiner_pass == excluded:
            return False
        if opts.hires_fix_refiner_pass != "second pass":
            p.extra_generation_params["Hires refiner"] = opts.hires_fix_refiner_pass
    p.extra_generation_params["Refiner"] = info.short_title
    p.extra_generation_params["Refiner switch at"] = p.refiner_switch_at
    with sd_models.SkipWritingToConfig():
        family.current.change_model(info)
    devices.torch_gc()
    family.current.refine(p)
    p.setup_conds()
    cfg_denoiser.update_inner_model()
    family.current.prepare_sampling()
    return True


class PerSeedNoise:
    """Noise for SDE samplers, drawn for each image from its own seed: a batch equals its images made alone.

    As the host's Brownian tree has it, the noise of an interval is that of its ends, whatever was drawn before.
    """

    def __init__(self, x: torch.Tensor, seeds: list[int]):
        self.shape = x.shape[1:]
        self.device, self.dtype = x.device, x.dtype
        self.seeds = [int(seed) for seed in seeds]

    def __call__(self, sigma, sigma_next) -> torch.Tensor:
        ends = float(sigma), float(sigma_next)
        noise = torch.stack([torch.randn(self.shape, generator=self._generator(seed, *ends)) for seed in self.seeds])
        return noise.to(device=self.device, dtype=self.dtype)

    @staticmethod
    def _generator(seed: int, sigma: float, sigma_next: float) -> torch.Generator:
        digest = hashlib.blake2b(struct.pack("<qdd", seed, sigma, sigma_next), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Sampler:
    """One sampling pass. Owns the guided denoiser `model_wrap_cfg`, and reports steps to `shared.state`."""

    eta_option_field = "eta_ancestral"
    eta_infotext_field = "Eta"
    eta_default = 1.0

    def __init__(self, func: Callable):
        self.funcname = func.__name__
        self.func = func
        self.extra_params: list[str] = []
        self.stop_at: int | None = None
        self.eta: float | None = None
        self.config: SamplerData | None = None
        self.last_latent = None
        self.s_noise, self.s_churn = 1.0, 0.0
        self.s_tmin, self.s_tmax = 0.0, float("inf")
        self.s_min_uncond = None
        self.conditioning_key = family.current.conditioning_key(shared.sd_model)
        self.p = None
        self.model_wrap_cfg = None
        self.sampler_extra_args: dict | None = None
        self.options: dict = {}

    @property
    def parameters(self):
        return inspect.signature(self.func).parameters

    def callback_state(self, d: dict) -> None:
        """The algorithm's report of step `d["i"]`: only from here on does the world see that step."""
        if self.stop_at is not None and d["i"] > self.stop_at:
            raise InterruptedException
        state.sampling_step = d["i"]
        shared.total_tqdm.update()

    def launch_sampling(self, steps: int, func: Callable):
        """Run the algorithm from step 0; when interrupted, what there is so far is the result."""
        denoiser = self.model_wrap_cfg
        denoiser.steps, denoiser.total_steps = steps, self.config.total_steps(steps)
        state.sampling_step, state.sampling_steps = 0, steps
        try:
            return func()
        except InterruptedException:
            return self.last_latent

    def number_of_needed_noises(self, p) -> int:
        return p.steps

    def initialize(self, p) -> dict:
        """Get ready for a pass of `p`; returns the arguments that the algorithm takes from settings and `p`."""
        self.p = p
        denoiser = self.model_wrap_cfg
        denoiser.p = p
        denoiser.mask, denoiser.nmask = getattr(p, "mask", None), getattr(p, "nmask", None)
        denoiser.step = 0
        denoiser.image_cfg_scale = getattr(p, "image_cfg_scale", None)
        self.eta = p.eta if p.eta is not None else getattr(opts, self.eta_option_field, 0.0)
        self.s_min_uncond = getattr(p, "s_min_uncond", 0.0)
        arguments = self._stochasticity(p)
        if "eta" in self.parameters:
            if self.eta != self.eta_default:
                p.extra_generation_params[self.eta_infotext_field] = self.eta
            arguments["eta"] = self.eta
        if "noise_sampler" in self.parameters:
            arguments["noise_sampler"] = lambda sigma, sigma_next: p.rng.next()
        return arguments

    def _stochasticity(self, p) -> dict:
        """s_churn, s_tmin, s_tmax and s_noise, as far as the algorithm has them; noted in the infotext if unusual."""
        arguments = {}
        for name in self.extra_params:
            value = getattr(p, name)
            value = getattr(self, name) if value is None else value
            if name == "s_tmax":
                value = value or self.s_tmax  # 0 stands for no limit
            arguments[name] = value
            if value != getattr(self, name):
                p.extra_generation_params[f"Sigma {name.removeprefix('s_')}"] = value
        return arguments

    def create_noise_sampler(self, x, sigmas, p) -> PerSeedNoise:
        seeds = p.all_seeds[p.iteration * p.batch_size:(p.iteration + 1) * p.batch_size]
        return PerSeedNoise(x, seeds)

    def sampling_arguments(self, p, conditioning, unconditional_conditioning, image_conditioning) -> dict:
        """What every evaluation hands to the guided denoiser; a refiner switch replaces the conditionings in it."""
        return {
            "cond": conditioning, "image_cond": image_conditioning, "uncond": unconditional_conditioning,
            "cond_scale": p.cfg_scale, "s_min_uncond": self.s_min_uncond,
        }

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        raise NotImplementedError

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ):
        raise NotImplementedError

    def add_infotext(self, p) -> None:
        if self.model_wrap_cfg.padded_cond_uncond:
            p.extra_generation_params["Pad conds"] = True
