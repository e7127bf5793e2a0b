"""Noise levels from `sigma_max` down to `sigma_min`, and zero at the end."""

from __future__ import annotations

import math

import torch

from modules.sampling.denoisers import append_zero


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device="cpu") -> torch.Tensor:
    """Karras et al. (2022), equation 5: evenly spaced in sigma ** (1 / rho)."""
    ramp = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n, device=device)
    return append_zero(ramp**rho)


def exponential(n: int, sigma_min: float, sigma_max: float, device="cpu") -> torch.Tensor:
    """Evenly spaced in log sigma."""
    return append_zero(torch.linspace(math.log(sigma_max), math.log(sigma_min), n, device=device).exp())


def polyexponential(n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, device="cpu") -> torch.Tensor:
    """In log sigma, denser towards `sigma_min` the larger `rho`."""
    ramp = torch.linspace(1, 0, n, device=device) ** rho
    return append_zero((ramp * math.log(sigma_max / sigma_min) + math.log(sigma_min)).exp())
