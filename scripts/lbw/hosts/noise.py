"""The host's samplers: how many steps a pass has, and the noise level of each."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lbw.hosts.serving import adapter
from modules import sd_samplers, sd_samplers_common, shared
from modules.processing import StableDiffusionProcessingImg2Img

logger = logging.getLogger("lbw")


def _starts_from_image(p: Any, is_hires: bool) -> bool:
    return is_hires or isinstance(p, StableDiffusionProcessingImg2Img)


def _schedule_length(p: Any, is_hires: bool) -> tuple[int, int]:
    """The steps of the whole noise schedule, and how many of its last ones the pass runs."""
    if not _starts_from_image(p, is_hires):
        return p.steps, p.steps
    asked = (p.hr_second_pass_steps or p.steps) if is_hires else None
    steps, last = sd_samplers_common.setup_img2img_steps(p, asked)
    return steps, last + 1


def steps_of_pass(p: Any, is_hires: bool) -> int:
    """The number of steps that the host is going to run in a pass."""
    return _schedule_length(p, is_hires)[1]


def steps_from_image(steps: int, denoising_strength: float) -> int:
    """The number of steps that the host runs in img2img where ``steps`` are asked for."""
    asked = SimpleNamespace(steps=steps, denoising_strength=denoising_strength)
    return int(sd_samplers_common.setup_img2img_steps(asked)[1]) + 1


def expected_levels(p: Any, is_hires: bool) -> tuple[float, ...]:
    """The noise level at which each step of the coming pass begins; none where its sampler does not tell.

    The host computes the schedule when sampling begins. The text encoder runs before that, and its strength may follow
    the noise level, too: so the same computation is asked for here, with a sampler of its own.
    """
    name = (p.hr_sampler_name or p.sampler_name) if is_hires else p.sampler_name
    notes = dict(p.extra_generation_params)
    try:
        return _levels(p, sd_samplers.create_sampler(name, shared.sd_model), is_hires)
    except Exception as error:
        logger.debug("sampler %s does not tell its noise levels: %s: %s", name, type(error).__name__, error)
        return ()
    finally:
        p.extra_generation_params.clear()
        p.extra_generation_params.update(notes)


_START_AT_THE_TOP = {"UniPC"}
"""Samplers that begin at the model's highest noise level, whatever timesteps they are given."""


def _levels(p: Any, sampler: Any, is_hires: bool) -> tuple[float, ...]:
    steps, run = _schedule_length(p, is_hires)
    if hasattr(sampler, "get_timesteps"):
        timesteps = sampler.get_timesteps(p, steps)
        if _starts_from_image(p, is_hires):
            timesteps = timesteps[: run - 1]
        levels = [_level_of_timestep(timestep) for timestep in reversed(timesteps.tolist())]
        if sampler.config.name in _START_AT_THE_TOP and not _starts_from_image(p, is_hires):
            levels[:1] = [_level_of_timestep(math.inf)]
        return tuple(levels)
    sigmas = sampler.get_sigmas(p, steps)
    return tuple(sigmas[len(sigmas) - 1 - run : -1].tolist())


def level(denoiser: Any, sigma: Tensor) -> float:
    """The noise level of a model evaluation, from what its sampler calls sigma: some have timesteps there."""
    value = float(sigma.max())
    return _level_of_timestep(value) if adapter.counts_timesteps(denoiser) else value


_LEAST_SIGNAL = 1e-8
"""A model that is trained down to no signal at all would have an infinite noise level."""


def _level_of_timestep(timestep: float) -> float:
    """The noise level of one of the model's timesteps; between two whole ones, interpolated in its logarithm."""
    signal = shared.sd_model.alphas_cumprod
    position = min(max(timestep, 0.0), len(signal) - 1.0)
    lower = int(position)
    near = signal[lower : lower + 2].double().clamp(min=_LEAST_SIGNAL)
    logarithms = ((1 - near) / near).log() / 2
    return float(torch.lerp(logarithms[0], logarithms[-1], position - lower).exp())
