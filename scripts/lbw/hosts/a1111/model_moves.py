"""When the host takes a model off the GPU: it tells nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Departure:
    """Stands in for a module's ``to``. Before the module leaves the GPU, ``before`` is called.

    Args:
        module: a model, or a part that the host moves as a whole.
    """

    def __init__(self, module: nn.Module, before: Callable[[], None]) -> None:
        self._to, self._before = module.to, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        named = [value for value in (*args, *kwargs.values()) if isinstance(value, str | torch.device)]
        if any(torch.device(device).type == "cpu" for device in named):
            self._before()
        return self._to(*args, **kwargs)


class Departures:
    """Watches the modules of one model at a time."""

    def __init__(self) -> None:
        self._watched: list[nn.Module] = []

    def watch(self, modules: list[nn.Module], before: Callable[[], None]) -> None:
        """Have ``before`` called before one of these modules leaves the GPU, and for no others any more."""
        for module in self._watched:
            if isinstance(vars(module).get("to"), Departure):
                delattr(module, "to")
        self._watched = modules
        for module in modules:
            vars(module)["to"] = Departure(module, before)
