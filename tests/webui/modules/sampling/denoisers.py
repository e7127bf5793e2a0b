"""Wrap a latent diffusion model, which predicts noise at integer timesteps, as a denoiser D(x, sigma).

As in Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022), section 5.
"""

from __future__ import annotations

import torch
from torch import nn


def expand(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One value for each image, shaped so that it multiplies images."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def append_zero(sigmas: torch.Tensor) -> torch.Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


class DiscreteSchedule(nn.Module):
    """The noise levels at which a model was trained, and the way between level and timestep."""

    def __init__(self, alphas_cumprod: torch.Tensor, quantize: bool = False):
        super().__init__()
        sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
        self.quantize = quantize
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())

    @property
    def sigma_min(self) -> torch.Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> torch.Tensor:
        return self.sigmas[-1]

    def get_sigmas(self, n: int) -> torch.Tensor:
        """`n` levels at evenly spaced timesteps, the noisiest first, then zero."""
        t = torch.linspace(len(self.sigmas) - 1, 0, n, device=self.sigmas.device)
        return append_zero(self.t_to_sigma(t))

    def t_to_sigma(self, t: torch.Tensor) -> torch.Tensor:
        """Level at a timestep; between two timesteps log sigma is linear."""
        t = t.float()
        low = t.floor().long().clamp(0, len(self.sigmas) - 1)
        high = (low + 1).clamp(max=len(self.sigmas) - 1)
        return torch.lerp(self.log_sigmas[low], self.log_sigmas[high], t - low).exp()

    def sigma_to_t(self, sigma: torch.Tensor) -> torch.Tensor:
        """Timestep of a level: the inverse of `t_to_sigma`, or the nearest timestep if the schedule is quantized."""
        log_sigma = sigma.log()
        if self.quantize:
            return (log_sigma[..., None] - self.log_sigmas).abs().argmin(dim=-1)
        low = (torch.searchsorted(self.log_sigmas, log_sigma.contiguous(), right=True) - 1)
        low = low.clamp(0, len(self.sigmas) - 2)
        below, above = self.log_sigmas[low], self.log_sigmas[low + 1]
        return low + ((log_sigma - below) / (above - below)).clamp(0, 1)


class EpsDenoiser(DiscreteSchedule):
    """For a model that predicts the noise."""

    def __init__(self, model, quantize: bool = False):
        super().__init__(model.alphas_cumprod, quantize)
        self.inner_model = model

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs) -> torch.Tensor:
        s = expand(sigma, x)
        eps = self.inner_model.apply_model(x / (s**2 + 1).sqrt(), self.sigma_to_t(sigma), **kwargs)
        return x - s * eps


class VDenoiser(EpsDenoiser):
    """For a model that predicts the velocity v = alpha * noise - sigma * image."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs) -> torch.Tensor:
        s = expand(sigma, x)
        root = (s**2 + 1).sqrt()
        v = self.inner_model.apply_model(x / root, self.sigma_to_t(sigma), **kwargs)
        return x / root**2 - v * s / root


class LCMDenoiser(DiscreteSchedule):
    """For a latent consistency model, which was distilled on every 20th timestep (Luo et al. 2023)."""

    DISTILLED_STEPS = 50

    def __init__(self, model):
        self.skip = len(model.alphas_cumprod) // self.DISTILLED_STEPS
        super().__init__(model.alphas_cumprod[self.skip - 1 :: self.skip], quantize=True)
        self.inner_model = model

    def get_sigmas(self, n: int) -> torch.Tensor:
        start, end = float(self.sigma_to_t(self.sigma_max)), float(self.sigma_to_t(self.sigma_min))
        return append_zero(self.t_to_sigma(torch.linspace(start, end, n, device=self.sigmas.device)))

    def sigma_to_t(self, sigma: torch.Tensor) -> torch.Tensor:
        return super().sigma_to_t(sigma) * self.skip + self.skip - 1

    def t_to_sigma(self, t: torch.Tensor) -> torch.Tensor:
        index = (t.float() - (self.skip - 1)) / self.skip
        return super().t_to_sigma(index.clamp(0, len(self.sigmas) - 1))

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs) -> torch.Tensor:
        s, t = expand(sigma, x), self.sigma_to_t(sigma)
        eps = self.inner_model.apply_model(x / (s**2 + 1).sqrt(), t, **kwargs)
        # Boundary scaling of the paper: the nearer to t = 0, the more of the input is kept.
        scaled_t, sigma_data = expand(t, x) * 10.0, 0.5
        norm = scaled_t**2 + sigma_data**2
        return scaled_t / norm.sqrt() * (x - s * eps) + sigma_data**2 / norm * x
