"""The models on the device. Patches are merged when a patcher is loaded that was not loaded before, and taken out when
it makes room for another one of the same model."""

from __future__ import annotations

from modules_forge.loaded import LoadedModels

from ldm_patched.modules.model_patcher import ModelPatcher


def _load(patcher: ModelPatcher) -> None:
    try:
        patcher.patch_model(patcher.load_device)
    except Exception:
        patcher.unpatch_model(patcher.offload_device)
        raise


def _unload(patcher: ModelPatcher, leaves: bool) -> None:
    patcher.unpatch_model(patcher.offload_device if leaves else None)


_models = LoadedModels(_load, _unload)
current_loaded_models = _models.entries
load_models_gpu, unload_all_models = _models.load_models_gpu, _models.unload_all_models


def load_model_gpu(model: ModelPatcher) -> None:
    load_models_gpu([model])
