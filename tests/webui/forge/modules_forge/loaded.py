"""The models on the device, as those Forges keep a list of them that patch a model when it comes onto it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass
class LoadedModel:
    """An entry of the list. `model` is a patcher: what is loaded is one patched copy of a model, and not the others."""

    model: Any


class LoadedModels:
    """The list, last used first. There is always room here, so nothing leaves the device unless it has to.

    Args:
        load: brings a patcher's model onto the device, with its patches.
        unload: takes back what `load` did; says whether the model leaves the device.
    """

    def __init__(self, load: Callable[[Any], None], unload: Callable[[Any, bool], None]) -> None:
        self.entries: list[LoadedModel] = []
        self._load, self._unload = load, unload

    def load_models_gpu(self, models: Iterable[Any], *_memory: Any, **_of_memory: Any) -> None:
        """Nothing happens to a patcher that is in the list; for another one of the same model, that one goes."""
        missing = []
        for patcher in models:
            entry = next((each for each in self.entries if each.model is patcher), None)
            if entry is None:
                missing.append(patcher)
            else:
                self.entries.remove(entry)
                self.entries.insert(0, entry)
        for patcher in missing:
            for entry in [each for each in self.entries if patcher.is_clone(each.model)]:
                self.entries.remove(entry)
                self._unload(entry.model, False)
        for patcher in missing:
            self._load(patcher)
            self.entries.insert(0, LoadedModel(patcher))

    def unload_all_models(self) -> None:
        while self.entries:
            self._unload(self.entries.pop().model, True)
