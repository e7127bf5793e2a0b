"""Noise schedules that the user can choose. "Automatic" is the one that the sampler prefers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modules.sampling import schedules


@dataclass
class Scheduler:
    name: str
    label: str
    function: Callable | None
    default_rho: float = -1
    need_inner_model: bool = False
    aliases: list[str] | None = None


def uniform(n, sigma_min, sigma_max, inner_model, device):
    """Evenly spaced in the model's timesteps."""
    return inner_model.get_sigmas(n).to(device)


schedulers = [
    Scheduler("automatic", "Automatic", None),
    Scheduler("uniform", "Uniform", uniform, need_inner_model=True),
    Scheduler("karras", "Karras", schedules.karras, default_rho=7.0),
    Scheduler("exponential", "Exponential", schedules.exponential),
    Scheduler("polyexponential", "Polyexponential", schedules.polyexponential, default_rho=1.0),
]
schedulers_map = {key: scheduler for scheduler in schedulers for key in (scheduler.name, scheduler.label)}
