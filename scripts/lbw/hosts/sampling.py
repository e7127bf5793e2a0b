"""A sampling pass: when it is over, and once more from its start if the GPU's memory ran out beside what we hold."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lbw.generation.session import Session
from lbw.hosts import played_prompts
from lbw.hosts.noise import Function
from modules import shared

logger = logging.getLogger("lbw")

OutOfMemoryError = torch.cuda.OutOfMemoryError


class Sampling:
    """Stands in for one sampler's ``launch_sampling``, which runs all steps of a pass.

    Args:
        p: the host's processing object.
        session: of its generation.
        launch: what it stands in for.
    """

    def __init__(self, p: Any, session: Session, launch: Callable[..., Any]) -> None:
        self._p, self._session, self._launch = p, session, launch

    def __call__(self, steps: int, function: Callable[[], Any]) -> Any:
        with _counted(self._p.sampler):
            samples = self._run(steps, function)
        self._write_prompts()
        if not (shared.state.interrupted or shared.state.skipped):
            self._session.is_through()
        return samples

    def _write_prompts(self) -> None:
        """The host may save the image as it is before the hires pass. An error of ours must not take it away."""
        try:
            played_prompts.write(self._p, self._session)
        except Exception:
            logger.exception("LoRA Block Weight: what was played could not be brought into the infotext")

    def _run(self, steps: int, function: Callable[[], Any]) -> Any:
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


@contextmanager
def _counted(sampler: Any) -> Iterator[None]:
    """Inside, the function of a sampler is one that knows its steps."""
    original = getattr(sampler, "func", None)
    if original is None:
        yield
        return
    sampler.func = Function(original)
    try:
        yield
    finally:
        sampler.func = original


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
