"""The host's samplers: how many steps a pass has, and the noise level of each."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


def steps_from_image(steps: int, denoising_strength: float) -> int:
    """The number of steps that the host runs in img2img where ``steps`` are asked for."""
    asked = SimpleNamespace(steps=steps, denoising_strength=denoising_strength)
    return int(sd_samplers_common.setup_img2img_steps(asked)[1]) + 1


@dataclass(frozen=True)
class Steps:
    """The steps of a pass: how many, and the noise level at which each begins, if its sampler tells.

    They ``are_open`` where the solver makes as many as it likes: these are then those of the schedule that was asked
    for.
    """

    count: int
    levels: tuple[float, ...] = ()
    are_open: bool = False


def expected_steps(p: Any, is_hires: bool) -> Steps:
    """The steps of the coming pass.

    The host computes the schedule when sampling begins. The text encoder runs before that, and its strength may follow
    the steps or the noise level, too: so the same computation is asked for here, with a sampler of its own.
    """
    name = (p.hr_sampler_name or p.sampler_name) if is_hires else p.sampler_name
    notes = dict(p.extra_generation_params)
    try:
        return _steps(p, sd_samplers.create_sampler(name, shared.sd_model), is_hires)
    except Exception as error:
        logger.debug("sampler %s does not tell its steps: %s: %s", name, type(error).__name__, error)
        return Steps(_schedule_length(p, is_hires)[1])
    finally:
        p.extra_generation_params.clear()
        p.extra_generation_params.update(notes)


_START_AT_THE_TOP = {"UniPC"}
"""Samplers that begin at the model's highest noise level, whatever timesteps they are given."""


def _steps(p: Any, sampler: Any, is_hires: bool) -> Steps:
    steps, run = _schedule_length(p, is_hires)
    if hasattr(sampler, "get_timesteps"):
        timesteps = sampler.get_timesteps(p, steps)
        if _starts_from_image(p, is_hires):
            timesteps = timesteps[: run - 1]
        levels = [_level_of_timestep(timestep) for timestep in reversed(timesteps.tolist())]
        if sampler.config.name in _START_AT_THE_TOP and not _starts_from_image(p, is_hires):
            levels[:1] = [_level_of_timestep(math.inf)]
        count = _intervals(timesteps)
        return Steps(count, tuple(levels[:count]))
    sigmas = sampler.get_sigmas(p, steps)[steps - run :]
    parameters = inspect.signature(sampler.func).parameters
    if "sigmas" in parameters or "sigma_min" not in parameters:
        return Steps(_intervals(sigmas), tuple(sigmas[:-1].tolist()))
    if "n" not in parameters:
        return Steps(run, tuple(sigma for sigma in sigmas.tolist() if sigma > 0), are_open=True)
    if _starts_from_image(p, is_hires):
        count, first, last = _of_evaluations(_intervals(sigmas)), float(sigmas[0]), float(sigmas[-2])
    else:
        of_model = sampler.model_wrap.sigmas
        count, first, last = _of_evaluations(steps), float(of_model[-1]), float(of_model[0])
    return Steps(count, tuple(first * (last / first) ** (step / count) for step in range(count)))


def _intervals(points: Sequence[Any]) -> int:
    """The steps between the points of a schedule. The least that a sampler can be given is evaluated once, too."""
    return max(len(points) - 1, 1)


def _of_evaluations(count: int) -> int:
    """The steps of a solver that shares a number of evaluations out among them, up to three for each, and begins a
    further one for what is left, or for less."""
    return count // 3 + 1


class Function:
    """Stands in for a sampler's function: knows how many steps it runs, from what it is given."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.steps: int | None = None

    def __call__(self, *args: Any, **given: Any) -> Any:
        points = given.get("timesteps", given.get("sigmas"))
        if points is not None:
            self.steps = _intervals(points)
        elif "n" in given:
            self.steps = _of_evaluations(given["n"])
        return self._function(*args, **given)


def steps_now(params: Any, denoiser: Any) -> int:
    """How many steps the pass has that a callback is told of: as many as the sampler runs, if it tells."""
    function = getattr(denoiser.sampler, "func", None)
    counted = function.steps if isinstance(function, Function) else None
    return counted or int(params.total_sampling_steps)


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
