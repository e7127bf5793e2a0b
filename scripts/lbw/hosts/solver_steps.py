"""The solver's step that a model evaluation belongs to, from the sampler that runs.

The host's own count lags, and how many evaluations make a step depends on the sampler and, for some, on the step.
Nearly every sampler is a function with a loop over ``i``, in which it evaluates the model as often as it likes.
"""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

_TWO_EVALUATIONS = {
    "Restart",  # its loop over i only lays out the steps
    "RES Solver",  # its last step comes after the loop
    "DPM++ 2S Ancestral CFG++ Intern",  # its first step comes before the loop
}

_SAMPLERS = ("sample_", "dpm_solver_")
"""How functions begin to whose loop over ``i`` a sampler leaves its steps. Others loop over images, or orders."""


def of(denoiser: Any, sampling_step: int) -> int:
    """The step, 0-based, of the evaluation that ``denoiser`` is about to make.

    Args:
        denoiser: the host's.
        sampling_step: the host's own count.
    """
    sampler, evaluation = denoiser.sampler, int(denoiser.step)
    if sampler.config.name in _TWO_EVALUATIONS:
        return evaluation // 2
    frames = _frames(sampler)
    for frame in frames:
        step = _of_loop(frame, is_sampler=frame is frames[0])
        if step is not None:
            return step
    schedule, level = frames[0].f_locals.get("sigmas") if frames else None, _level(frames, denoiser)
    if schedule is not None and level is not None:
        return _of_level(schedule.tolist(), level)
    if sampler.config.options.get("second_order", False):
        return evaluation // 2
    if sampler.config.name == "UniPC":  # of this one, the first step evaluates twice
        return max(evaluation - 1, 0)
    return min(evaluation, sampling_step + 1)


def _frames(sampler: Any) -> list[FrameType]:
    """What runs between the sampler's function and this one, outermost first; none if the sampler is no function."""
    code = getattr(inspect.unwrap(sampler.func), "__code__", None) if hasattr(sampler, "func") else None
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append(frame)
        if frame.f_code is code:
            return frames[::-1]
        frame = frame.f_back
    return []


def _of_loop(frame: FrameType, *, is_sampler: bool) -> int | None:
    """The step that a function's loop over steps is at; None if it has none."""
    names, function = frame.f_locals, frame.f_code.co_name
    if function == "dpm_solver_adaptive":
        return _whole(names.get("info", {}).get("steps"))
    if is_sampler or function.startswith(_SAMPLERS):
        return _whole(names.get("i"))
    return _whole(names.get("step_index"))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _level(frames: list[FrameType], denoiser: Any) -> float | None:
    """The noise level that the denoiser has been called with."""
    for frame in frames:
        if frame.f_locals.get("self") is denoiser and "sigma" in frame.f_locals:
            return float(frame.f_locals["sigma"].max())
    return None


def _of_level(schedule: list[float], level: float) -> int:
    """The step of a schedule within which the noise goes down past ``level``, for solvers that step as they like."""
    return min(sum(level <= end for end in schedule[1:]), max(len(schedule) - 2, 0))
