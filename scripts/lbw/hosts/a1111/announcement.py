"""Passes and evaluations on hosts that announce neither: before 1.10 there is no hook ahead of sampling, and before 1.8
an evaluation does not say whose it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ref

from modules import scripts, sd_samplers

Run = Callable[..., Any]
"""A sampler's ``launch_sampling``, which runs all steps of a pass."""


@dataclass(eq=False)
class Watch:
    """``around`` makes of a processing object and the launch of its sampler the one that is called instead."""

    p: ref[Any]
    around: Callable[[Any, Run], Run]


_watches: list[Watch] = []
_running: list[Any] = []
"""The denoisers of samplers that run now, the innermost last."""


def is_needed() -> bool:
    """Whether the host has no hook ahead of sampling."""
    return not hasattr(scripts.ScriptRunner, "process_before_every_sampling")


def watch(p: Any, around: Callable[[Any, Run], Run]) -> None:
    """Have all samplers watched that the host makes from now on, for those of ``p``."""
    if not isinstance(sd_samplers.create_sampler, Creation):
        sd_samplers.create_sampler = Creation()
    _watches.append(Watch(ref(p), around))


def unwatch(p: Any) -> None:
    """Watch for ``p`` no longer, nor for objects that are gone."""
    _watches[:] = [each for each in _watches if each.p() is not None and each.p() is not p]
    create = sd_samplers.create_sampler
    if not _watches and isinstance(create, Creation):
        sd_samplers.create_sampler = create.original


def denoiser_of(params: Any) -> Any:
    """The denoiser whose evaluation a callback is told of; None if it is not known to be one of our generations."""
    denoiser = getattr(params, "denoiser", None)
    if denoiser is not None:
        return denoiser
    if _running:
        return _running[-1]
    # A sampler that was made past the host's usual way: it can only be the one of whom we watch.
    sampler = getattr(_watches[-1].p(), "sampler", None) if _watches else None
    return getattr(sampler, "model_wrap_cfg", None)


class Creation:
    """Stands in for the host's ``create_sampler``. It does nothing while nobody is watched."""

    def __init__(self) -> None:
        self.original = sd_samplers.create_sampler

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sampler = self.original(*args, **kwargs)
        if _watches and not isinstance(vars(sampler).get("launch_sampling"), Launch):
            sampler.launch_sampling = Launch(sampler)
        return sampler


class Launch:
    """Stands in for one sampler's ``launch_sampling``."""

    def __init__(self, sampler: Any) -> None:
        self._sampler, self._launch = sampler, sampler.launch_sampling

    def __call__(self, *args: Any) -> Any:
        p, launch = self._sampler.p, self._launch
        for each in _watches:
            if each.p() is p:
                launch = each.around(p, launch)
        _running.append(self._sampler.model_wrap_cfg)
        try:
            return launch(*args)
        finally:
            _running.pop()
