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
        self._module, self._before = module, before
        self._earlier = vars(module).get("to")
        vars(module)["to"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        named = [value for value in (*args, *kwargs.values()) if isinstance(value, str | torch.device)]
        if any(torch.device(device).type == "cpu" for device in named):
            self._before()
        if self._earlier is not None:
            return self._earlier(*args, **kwargs)
        return type(self._module).to(self._module, *args, **kwargs)

    def end(self) -> None:
        """The module has the ``to`` again that it had, unless somebody else has put another in its place since."""
        if vars(self._module).get("to") is not self:
            self._before = lambda: None
        elif self._earlier is not None:
            vars(self._module)["to"] = self._earlier
        else:
            delattr(self._module, "to")


class Departures:
    """Watches the modules of one model at a time."""

    def __init__(self) -> None:
        self._watched: list[Departure] = []

    def watch(self, modules: list[nn.Module], before: Callable[[], None]) -> None:
        """Have ``before`` called before one of these modules leaves the GPU, and for no others any more."""
        for departure in reversed(self._watched):
            departure.end()
        self._watched = [Departure(module, before) for module in modules]
