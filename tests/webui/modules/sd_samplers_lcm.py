"""The sampler for latent consistency models."""

from __future__ import annotations

from modules import sd_samplers_cfg_denoiser
from modules.sampling import denoisers, sde
from modules.sd_samplers_kdiffusion import KDiffusionSampler, sampler_data


class CFGDenoiserLCM(sd_samplers_cfg_denoiser.CFGDenoiser):
    def wrap_model(self, sd_model):
        return denoisers.LCMDenoiser(sd_model)


class LCMSampler(KDiffusionSampler):
    denoiser_class = CFGDenoiserLCM


samplers_data_lcm = sampler_data([("LCM", sde.sample_lcm, ["k_lcm"], {})], LCMSampler)
