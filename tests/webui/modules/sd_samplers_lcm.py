"""The sampler for latent consistency models."""

from __future__ import annotations

from modules import sd_samplers_cfg_denoiser, shared
from modules.sampling import denoisers, sde
from modules.sd_samplers_kdiffusion import KDiffusionSampler, sampler_data


class CFGDenoiserLCM(sd_samplers_cfg_denoiser.CFGDenoiser):
    @property
    def inner_model(self):
        if self.model_wrap is None:
            self.model_wrap = denoisers.LCMDenoiser(shared.sd_model)
        return self.model_wrap


class LCMSampler(KDiffusionSampler):
    denoiser_class = CFGDenoiserLCM


samplers_data_lcm = sampler_data([("LCM", sde.sample_lcm, ["k_lcm"], {})], LCMSampler)
