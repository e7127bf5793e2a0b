"""A sampling pass: when it is over, and once more from its start if the GPU's memory ran out beside what we hold."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch

from lbw.generation.session import Session
from modules import scripts, sd_samplers, shared

logger = logging.getLogger("lbw")

OutOfMemoryError = torch.cuda.OutOfMemoryError


class Sampling:
    """Stands in for one sampler's ``launch_sampling``, which runs all steps of a pass.

    Args:
        p: the host's processing object.
        session: of its generation.
    """

    def __init__(self, p: Any, session: Session) -> None:
        self._p, self._session = p, session
        self._launch = p.sampler.launch_sampling

    def __call__(self, steps: int, function: Callable[[], Any]) -> Any:
        weights, noise = _weights_in_use(), Noise(self._p.rng)
        try:
            return self._launch(steps, function)
        except OutOfMemoryError as error:
            if not self._session.gives_way(error):
                raise
            if _weights_in_use() != weights:  # a refiner has taken over, in the same model even
                _tell_of_room(error)
                raise
        finally:
            self._has_sampled()
        # The failed attempt is gone with its exception, and so is what it had in memory.
        torch.cuda.empty_cache()
        noise.restore()
        self._p.sampler.model_wrap_cfg.step = 0
        try:
            return self._launch(steps, function)
        finally:
            self._has_sampled()

    def _has_sampled(self) -> None:
        """An error of ours must not take the place of the sampler's."""
        try:
            self._session.has_sampled()
        except Exception:
            logger.exception("LoRA Block Weight: the weights could not be brought back after sampling")


def announces_sampling() -> bool:
    """Whether the host has a hook before each pass is sampled."""
    return hasattr(scripts.ScriptRunner, "process_before_every_sampling")


class Announcement:
    """Stands in for one processing object's ``sample`` on a host without such a hook. The host makes a sampler for each
    pass in there, or has made one before: that one, and whatever is made while this object samples, is watched.

    Args:
        p: the host's processing object.
        before: called before the object's sampler runs all steps of a pass.
    """

    def __init__(self, p: Any, before: Callable[[Any], None]) -> None:
        self._p, self._before = p, before
        self._sample = p.sample

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._p.sampler is not None:
            self._watched(self._p.sampler)
        create = sd_samplers.create_sampler
        sd_samplers.create_sampler = lambda *named, **more: self._watched(create(*named, **more))
        try:
            return self._sample(*args, **kwargs)
        finally:
            sd_samplers.create_sampler = create

    def _watched(self, sampler: Any) -> Any:
        def launch(*args: Any) -> Any:
            vars(sampler).pop("launch_sampling", None)
            if self._p.sampler is sampler:
                self._before(self._p)
            _running.append(sampler.model_wrap_cfg)
            try:
                return sampler.launch_sampling(*args)
            finally:
                _running.pop()

        sampler.launch_sampling = launch
        return sampler


_running: list[Any] = []
"""The denoisers of samplers that run now, the innermost last, on a host that does not tell them."""


def denoiser_of(params: Any) -> Any:
    """The denoiser whose evaluation a callback is told of; hosts before 1.8 do not say which. None if it is not one of
    our generations."""
    denoiser = getattr(params, "denoiser", None)
    return _running[-1] if denoiser is None and _running else denoiser


def _weights_in_use() -> tuple[int, Any]:
    return id(shared.sd_model), shared.sd_model.sd_checkpoint_info


class Noise:
    """Where the random numbers of an image stand, those that torch draws included."""

    def __init__(self, rng: Any) -> None:
        self._rng = rng
        self._generators = [
            (each, each.get_state() if isinstance(each, torch.Generator) else copy.copy(vars(each)))
            for each in rng.generators
        ]
        self._of_torch = torch.get_rng_state()
        self._of_cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self) -> None:
        self._rng.generators = [each for each, _state in self._generators]
        for each, state in self._generators:
            if isinstance(each, torch.Generator):
                each.set_state(state)
            else:
                vars(each).update(state)
        torch.set_rng_state(self._of_torch)
        if self._of_cuda is not None:
            torch.cuda.set_rng_state(self._of_cuda)


def tell_out_of_memory(session: Session) -> None:
    """A generation ends. If it failed for lack of memory while we held some, the error says so."""
    error = sys.exc_info()[1]
    if isinstance(error, OutOfMemoryError) and session.gives_way(error):
        _tell_of_room(error)


def _tell_of_room(error: OutOfMemoryError) -> None:
    error.args = (f"{error} (LoRA Block Weight has given back what it held: try again)", *error.args[1:])
