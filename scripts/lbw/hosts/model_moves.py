"""When the host takes a model off the GPU, or puts other weights into it: it tells nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import nn


class Watch:
    """Stands in for a function, and calls ``before`` first.

    Args:
        owner: whose method it is, as of a model that the host moves as a whole; or the Python module that has it.
        name: of the function.
        counts: whether a call with such arguments does.
    """

    def __init__(
        self, owner: nn.Module | ModuleType, name: str, counts: Callable[..., bool], before: Callable[[], None]
    ) -> None:
        self._owner, self._name, self._counts, self._before = owner, name, counts, before
        self._earlier = vars(owner).get(name)
        vars(owner)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._counts(*args, **kwargs):
            self._before()
        if self._earlier is not None:
            return self._earlier(*args, **kwargs)
        return getattr(type(self._owner), self._name)(self._owner, *args, **kwargs)

    def end(self) -> None:
        """The owner has the function again that it had, unless somebody else has put another in its place since."""
        if vars(self._owner).get(self._name) is not self:
            self._before = lambda: None
        elif self._earlier is not None:
            vars(self._owner)[self._name] = self._earlier
        else:
            delattr(self._owner, self._name)


def _leaves(*args: Any, **kwargs: Any) -> bool:
    """Whether ``to`` with such arguments takes a module off the GPU."""
    named = [value for value in (*args, *kwargs.values()) if isinstance(value, str | torch.device)]
    return any(torch.device(device).type == "cpu" for device in named)


class Departures:
    """Watches the modules of one model at a time.

    Args:
        memory: the host's memory management, if it merges what patches it finds when it loads a model.
    """

    def __init__(self, memory: ModuleType | None = None) -> None:
        self._memory = memory
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
        if self._memory is not None and modules:
            counts = _merges_into(self._memory, modules)
            self._watched.append(Watch(self._memory, "load_models_gpu", counts, before))


def _merges_into(memory: Any, modules: list[nn.Module]) -> Callable[..., bool]:
    def merges(models: Iterable[Any], *_args: Any, **_kwargs: Any) -> bool:
        """Whether there is a patcher of a module among them that is not the one whose patches are in it."""
        loaded = {id(each.model) for each in memory.current_loaded_models}
        return any(id(each) not in loaded and getattr(each, "model", None) in modules for each in models)

    return merges
