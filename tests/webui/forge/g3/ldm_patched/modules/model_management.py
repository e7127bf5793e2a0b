"""The models on the device. Every load of a patcher asks the model whether it has the patches in it already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modules_forge.loaded import LoadedModel

from ldm_patched.modules.model_patcher import ModelPatcher

current_loaded_models: list[LoadedModel] = []


def load_models_gpu(models: Iterable[ModelPatcher], memory_required: Any = 0, **_of_memory: Any) -> None:
    """What another copy has put into a model stays until this one finds that it is not what it wants."""
    for patcher in models:
        for entry in [each for each in current_loaded_models if patcher.is_clone(each.model)]:
            current_loaded_models.remove(entry)
            entry.model.detach(unpatch_all=False)
        patcher.partially_load(patcher.load_device)
        current_loaded_models.insert(0, LoadedModel(patcher))


def load_model_gpu(model: ModelPatcher) -> None:
    load_models_gpu([model])


def unload_all_models() -> None:
    while current_loaded_models:
        current_loaded_models.pop().model.detach()
