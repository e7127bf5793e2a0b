"""The solver's step, from the loop of the sampler that runs."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

_LOOPS_MEAN_OTHER_THINGS = {"Restart"}


def of_loop(sampler: Any) -> int | None:
    """The step that the sampler's own loop is at, 0-based; None if it has no such loop.

    Nearly all samplers are a function with a loop over ``i``, in which they evaluate the model as often as they like.
    """
    function = getattr(sampler, "func", None)
    if function is None or sampler.config.name in _LOOPS_MEAN_OTHER_THINGS:
        return None
    code = getattr(inspect.unwrap(function), "__code__", None)
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is code:
            step = frame.f_locals.get("i")
            return step if isinstance(step, int) else None
        frame = frame.f_back
    return None
