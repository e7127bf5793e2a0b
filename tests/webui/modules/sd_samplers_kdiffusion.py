"""Samplers over noise levels: which there are, and one pass of any of them."""

from __future__ import annotations

import torch

from modules import devices, family, sd_samplers_cfg_denoiser, sd_samplers_common, sd_schedulers
from modules.sampling import denoisers, dpm_solver, ode, sde
from modules.script_callbacks import ExtraNoiseParams, extra_noise_callback
from modules.sd_samplers_cfg_denoiser import CFGDenoiser  # noqa: F401  (extensions import it from here)
from modules.shared import opts

_KARRAS, _EXPONENTIAL = {"scheduler": "karras"}, {"scheduler": "exponential"}
_TWO, _SDE = {"second_order": True}, {"brownian_noise": True}
_DISCARD, _ENSD = {"discard_next_to_last_sigma": True}, {"uses_ensd": True}

samplers_k_diffusion = [
    ("DPM++ 2M", ode.sample_dpmpp_2m, ["k_dpmpp_2m"], _KARRAS),
    ("DPM++ SDE", sde.sample_dpmpp_sde, ["k_dpmpp_sde"], {**_KARRAS, **_TWO, **_SDE}),
    ("DPM++ 2M SDE", sde.sample_dpmpp_2m_sde, ["k_dpmpp_2m_sde"], {**_EXPONENTIAL, **_SDE}),
    ("DPM++ 2M SDE Heun", sde.sample_dpmpp_2m_sde, ["k_dpmpp_2m_sde_heun"],
     {**_EXPONENTIAL, **_SDE, "solver_type": "heun"}),
    ("DPM++ 2S a", sde.sample_dpmpp_2s_ancestral, ["k_dpmpp_2s_a"], {**_KARRAS, **_ENSD, **_TWO}),
    ("DPM++ 3M SDE", sde.sample_dpmpp_3m_sde, ["k_dpmpp_3m_sde"], {**_EXPONENTIAL, **_DISCARD, **_SDE}),
    ("Euler a", sde.sample_euler_ancestral, ["k_euler_a", "k_euler_ancestral"], _ENSD),
    ("Euler", ode.sample_euler, ["k_euler"], {}),
    ("LMS", ode.sample_lms, ["k_lms"], {}),
    ("Heun", ode.sample_heun, ["k_heun"], _TWO),
    ("DPM2", ode.sample_dpm_2, ["k_dpm_2"], {**_KARRAS, **_DISCARD, **_TWO}),
    ("DPM2 a", sde.sample_dpm_2_ancestral, ["k_dpm_2_a"], {**_KARRAS, **_DISCARD, **_ENSD, **_TWO}),
    ("DPM fast", dpm_solver.sample_dpm_fast, ["k_dpm_fast"], _ENSD),
    ("DPM adaptive", dpm_solver.sample_dpm_adaptive, ["k_dpm_ad"], _ENSD),
    ("Restart", ode.sample_restart, ["restart"], {**_KARRAS, **_TWO}),
]

_CHURN = ["s_churn", "s_tmin", "s_tmax", "s_noise"]
sampler_extra_params = {
    ode.sample_euler: _CHURN, ode.sample_heun: _CHURN, ode.sample_dpm_2: _CHURN,
    dpm_solver.sample_dpm_fast: ["s_noise"], sde.sample_dpm_2_ancestral: ["s_noise"],
    sde.sample_dpmpp_2s_ancestral: ["s_noise"], sde.sample_dpmpp_sde: ["s_noise"],
    sde.sample_dpmpp_2m_sde: ["s_noise"], sde.sample_dpmpp_3m_sde: ["s_noise"],
}


class CFGDenoiserKDiffusion(sd_samplers_cfg_denoiser.CFGDenoiser):
    def wrap_model(self, sd_model):
        if hasattr(sd_model, "create_denoiser"):
            return sd_model.create_denoiser()
        wrapper = denoisers.VDenoiser if sd_model.parameterization == "v" else denoisers.EpsDenoiser
        return wrapper(sd_model, quantize=opts.enable_quantization)


class KDiffusionSampler(sd_samplers_common.Sampler):
    denoiser_class = CFGDenoiserKDiffusion

    def __init__(self, func, sd_model, options: dict | None = None):
        super().__init__(func)
        self.extra_params = sampler_extra_params.get(func, [])
        self.options = options or {}
        self.model_wrap_cfg = self.denoiser_class(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def _scheduler(self, p) -> sd_schedulers.Scheduler | None:
        name = (p.hr_scheduler if p.is_hr_pass else p.scheduler) or "Automatic"
        if name == "Automatic":
            name = self.config.options.get("scheduler")
        return sd_schedulers.schedulers_map.get(name)

    def _schedule_arguments(self, p, scheduler: sd_schedulers.Scheduler) -> dict:
        """Range and shape of the schedule; what the settings change is noted in the infotext."""
        model_min, model_max = self.model_wrap.sigmas[0].item(), self.model_wrap.sigmas[-1].item()
        arguments = {"sigma_min": model_min, "sigma_max": model_max, "device": devices.cpu}
        if opts.use_old_karras_scheduler_sigmas:
            arguments.update(sigma_min=0.1, sigma_max=10)
        chosen = {"sigma_min": opts.sigma_min, "sigma_max": opts.sigma_max}
        if scheduler.default_rho != -1:
            chosen["rho"] = opts.rho
        texts = {"sigma_min": "Schedule min sigma", "sigma_max": "Schedule max sigma", "rho": "Schedule rho"}
        usual = {"sigma_min": model_min, "sigma_max": model_max, "rho": scheduler.default_rho}
        for name, value in chosen.items():
            if value not in (0, usual[name]):
                arguments[name] = value
                p.extra_generation_params[texts[name]] = value
        if scheduler.need_inner_model:
            arguments["inner_model"] = self.model_wrap
        return arguments

    def get_sigmas(self, p, steps: int) -> torch.Tensor:
        """The noise levels of a pass, zero at the end, on the CPU."""
        discard = self.config is not None and self.config.options.get("discard_next_to_last_sigma", False)
        if opts.always_discard_next_to_last_sigma and not discard:
            discard = True
            p.extra_generation_params["Discard penultimate sigma"] = True
        count = steps + 1 if discard else steps
        scheduler = self._scheduler(p)
        if p.sampler_noise_scheduler_override:
            sigmas = p.sampler_noise_scheduler_override(count)
        elif scheduler is None or scheduler.function is None:
            sigmas = self.model_wrap.get_sigmas(count)
        else:
            if not p.is_hr_pass:
                p.extra_generation_params["Schedule type"] = scheduler.label
            elif scheduler.label != p.extra_generation_params.get("Schedule type"):
                p.extra_generation_params["Hires schedule type"] = scheduler.label
            sigmas = scheduler.function(n=count, **self._schedule_arguments(p, scheduler))
        if discard:
            sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
        return sigmas.cpu()

    def _run(self, p, x, steps: int, sigmas, noise_levels, sigma_limits, conds: tuple):
        """Hand the algorithm what its signature asks for. `noise_levels` is the schedule that the noise belongs to."""
        arguments = self.initialize(p)
        sigma_min, sigma_max = sigma_limits
        offered = {"sigmas": sigmas, "sigma_min": sigma_min, "sigma_max": sigma_max, "n": len(sigmas) - 1}
        arguments.update({name: value for name, value in offered.items() if name in self.parameters})
        if self.config.options.get("brownian_noise", False) and not opts.no_dpmpp_sde_batch_determinism:
            arguments["noise_sampler"] = self.create_noise_sampler(x, noise_levels, p)
        if "solver_type" in self.config.options:
            arguments["solver_type"] = self.config.options["solver_type"]
        self.sampler_extra_args = self.sampling_arguments(p, *conds)
        samples = self.launch_sampling(steps, lambda: self.func(
            self.model_wrap_cfg, x, extra_args=self.sampler_extra_args, callback=self.callback_state, **arguments))
        self.add_infotext(p)
        return samples

    def _first_noise_level(self, p, sigma: torch.Tensor) -> torch.Tensor:
        """What noise of variance 1 is multiplied by, to start a pass at `sigma`."""
        if not opts.sgm_noise_multiplier:
            return sigma
        p.extra_generation_params["SGM noise multiplier"] = True
        return (sigma.square() + 1.0).sqrt()

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        family.current.prepare_sampling()
        count = steps if steps else p.steps
        sigmas = self.get_sigmas(p, count)
        self.last_latent = x = x * self._first_noise_level(p, sigmas[0])
        limits = self.model_wrap.sigmas[0].item(), self.model_wrap.sigmas[-1].item()
        conds = conditioning, unconditional_conditioning, image_conditioning
        return self._run(p, x, count, sigmas, sigmas, limits, conds)

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ):
        family.current.prepare_sampling()
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        all_sigmas = self.get_sigmas(p, steps)
        sigmas = all_sigmas[steps - t_enc - 1:]
        xi = x + noise * sigmas[0]
        if opts.img2img_extra_noise > 0:
            p.extra_generation_params["Extra noise"] = opts.img2img_extra_noise
            params = ExtraNoiseParams(noise, x, xi)
            extra_noise_callback(params)
            xi = xi + params.noise * opts.img2img_extra_noise
        self.model_wrap_cfg.init_latent = x
        self.last_latent = x
        conds = conditioning, unconditional_conditioning, image_conditioning
        # Zero is no level for solvers in log sigma: they get the one before it.
        return self._run(p, xi, t_enc + 1, sigmas, all_sigmas, (sigmas[-2], sigmas[0]), conds)


def sampler_data(table: list[tuple], constructor) -> list[sd_samplers_common.SamplerData]:
    """Make a table of (name, algorithm, aliases, options) into entries that construct samplers."""
    return [
        sd_samplers_common.SamplerData(name, lambda model, func=func: constructor(func, model), aliases, options)
        for name, func, aliases, options in table
    ]


samplers_data_k_diffusion = sampler_data(samplers_k_diffusion, KDiffusionSampler)
k_diffusion_samplers_map = {data.name: data for data in samplers_data_k_diffusion}
k_diffusion_scheduler = {scheduler.name: scheduler.function for scheduler in sd_schedulers.schedulers}
