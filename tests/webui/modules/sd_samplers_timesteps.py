"""Samplers over the model's timesteps, where `sigma` of a callback is a timestep, or not: it is the family's choice."""

from __future__ import annotations

import torch

from modules import devices, family, sd_samplers_common, shared
from modules.sampling import timesteps as algorithms
from modules.script_callbacks import ExtraNoiseParams, extra_noise_callback
from modules.sd_samplers_cfg_denoiser import CFGDenoiser
from modules.sd_samplers_kdiffusion import sampler_data
from modules.shared import opts

samplers_timesteps = [
    ("DDIM", algorithms.ddim, ["ddim"], {}),
    ("PLMS", algorithms.plms, ["plms"], {}),
    ("UniPC", algorithms.unipc, ["unipc"], {}),
]


class TimestepsDenoiser(torch.nn.Module):
    """The model as it is: it predicts the noise."""

    def __init__(self, model):
        super().__init__()
        self.inner_model = model

    def forward(self, x, timesteps, **kwargs):
        return self.inner_model.apply_model(x, timesteps, **kwargs)


class TimestepsVDenoiser(TimestepsDenoiser):
    """Noise from a model that predicts the velocity."""

    def forward(self, x, timesteps, **kwargs):
        v = super().forward(x, timesteps, **kwargs)
        alpha = self.inner_model.alphas_cumprod[timesteps.long()][:, None, None, None]
        return alpha.sqrt() * v + (1 - alpha).sqrt() * x


class CFGDenoiserTimesteps(CFGDenoiser):
    def __init__(self, sampler):
        super().__init__(sampler)
        self.mask_before_denoising = True
        self.alphas = shared.sd_model.alphas_cumprod
        self.classic_ddim_eps_estimation = not family.current.sigmas_are_timesteps

    def get_pred_x0(self, x_in, x_out, sigma):
        if self.classic_ddim_eps_estimation:
            return x_out
        alpha = self.alphas[sigma.long()].reshape(-1, 1, 1, 1)
        return (x_in - (1 - alpha).sqrt() * x_out) / alpha.sqrt()

    def wrap_model(self, sd_model):
        return (TimestepsVDenoiser if sd_model.parameterization == "v" else TimestepsDenoiser)(sd_model)


class CompVisSampler(sd_samplers_common.Sampler):
    eta_option_field = "eta_ddim"
    eta_infotext_field = "Eta DDIM"
    eta_default = 0.0

    def __init__(self, func, sd_model):
        super().__init__(func)
        self.model_wrap_cfg = CFGDenoiserTimesteps(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def get_timesteps(self, p, steps: int) -> torch.Tensor:
        """Evenly spaced timesteps upwards from 1, within 0..999."""
        if opts.always_discard_next_to_last_sigma:
            p.extra_generation_params["Discard penultimate sigma"] = True
            steps += 1
        return (torch.arange(0, 1000, 1000 // steps, device=devices.device) + 1).clamp(0, 999)

    def _run(self, p, x, steps: int, timesteps, is_img2img: bool, conds: tuple):
        """Hand the algorithm what its signature asks for, UniPC's settings among it."""
        arguments = self.initialize(p)
        offered = {
            "timesteps": timesteps, "is_img2img": is_img2img, "order": opts.uni_pc_order,
            "variant": opts.uni_pc_variant, "lower_order_final": opts.uni_pc_lower_order_final,
        }
        arguments.update({name: value for name, value in offered.items() if name in self.parameters})
        self.sampler_extra_args = self.sampling_arguments(p, *conds)
        samples = self.launch_sampling(steps, lambda: self.func(
            self.model_wrap_cfg, x, extra_args=self.sampler_extra_args, callback=self.callback_state, **arguments))
        self.add_infotext(p)
        return samples

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        family.current.prepare_sampling()
        count = steps if steps else p.steps
        self.last_latent = x
        conds = conditioning, unconditional_conditioning, image_conditioning
        return self._run(p, x, count, self.get_timesteps(p, count), False, conds)

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ):
        family.current.prepare_sampling()
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        timesteps = self.get_timesteps(p, steps)
        alpha = shared.sd_model.alphas_cumprod[timesteps[t_enc]]
        xi = x * alpha.sqrt() + noise * (1 - alpha).sqrt()
        if opts.img2img_extra_noise > 0:
            p.extra_generation_params["Extra noise"] = opts.img2img_extra_noise
            params = ExtraNoiseParams(noise, x, xi)
            extra_noise_callback(params)
            xi = xi + params.noise * opts.img2img_extra_noise * alpha.sqrt()
        self.model_wrap_cfg.init_latent = x
        self.last_latent = x
        conds = conditioning, unconditional_conditioning, image_conditioning
        return self._run(p, xi, t_enc + 1, timesteps[:t_enc], True, conds)


samplers_data_timesteps = sampler_data(samplers_timesteps, CompVisSampler)
VanillaStableDiffusionSampler = CompVisSampler  # its name before 1.6, which some extensions still import
