"""When the host takes a model off the GPU, or loads other weights into it: it tells nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Watch:
    """Stands in for a method of a module, and calls ``before`` first.

    Args:
        module: a model, or a part that the host moves or loads as a whole.
        name: of the method.
        counts: whether a call with such arguments does.
    """

    def __init__(
        self, module: nn.Module, name: str, counts: Callable[..., bool], before: Callable[[], None]
    ) -> None:
        self._module, self._name, self._counts, self._before = module, name, counts, before
        self._earlier = vars(module).get(name)
        vars(module)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._counts(*args, **kwargs):
            self._before()
        if self._earlier is not None:
            return self._earlier(*args, **kwargs)
        return getattr(type(self._module), self._name)(self._module, *args, **kwargs)

    def end(self) -> None:
        """The module has the method again that it had, unless somebody else has put another in its place since."""
        if vars(self._module).get(self._name) is not self:
            self._before = lambda: None
        elif self._earlier is not None:
            vars(self._module)[self._name] = self._earlier
        else:
            delattr(self._module, self._name)


def _leaves(*args: Any, **kwargs: Any) -> bool:
    """Whether ``to`` with such arguments takes a module off the GPU."""
    named = [value for value in (*args, *kwargs.values()) if isinstance(value, str | torch.device)]
    return any(torch.device(device).type == "cpu" for device in named)


class Departures:
    """Watches the modules of one model at a time."""

    def __init__(self) -> None:
        self._watched: list[Watch] = []

    def watch(self, modules: list[nn.Module], before: Callable[[], None]) -> None:
        """Have ``before`` called before one of these modules leaves the GPU or gets other weights, and for no others
        any more."""
        for watch in reversed(self._watched):
            watch.end()
        self._watched = [
            Watch(module, name, counts, before)
            for module in modules
            for name, counts in (("to", _leaves), ("load_state_dict", lambda *_args, **_kwargs: True))
        ]
