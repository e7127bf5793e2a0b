"""Autoencoders in files of their own, which take the place of a checkpoint's."""
from __future__ import annotations

import copy
import glob
import os
from typing import Any

from torch import nn

from modules import devices, lowvram, paths, script_callbacks, sd_checkpoints, sd_hijack, shared

vae_path = os.path.abspath(os.path.join(paths.models_path, "VAE"))
vae_dict: dict[str, str] = {}


def refresh_vae_list() -> None:
    vae_dict.clear()
    for path in sorted(glob.glob(os.path.join(vae_path, "**", "*.safetensors"), recursive=True)):
        vae_dict[os.path.basename(path)] = path


def use_checkpoints_own(model: nn.Module) -> None:
    """A checkpoint has just been loaded, and its own autoencoder with it; that of the settings replaces it."""
    model.base_vae = model.loaded_vae_file = None
    wanted = vae_dict.get(shared.opts.sd_vae)
    if wanted is not None:
        _load(model, wanted)


def _load(model: nn.Module, file: str | None) -> None:
    """Put a file's weights, or the checkpoint's own again, into the model's autoencoder."""
    vae = model.first_stage_model
    if file is None:
        weights, model.base_vae = model.base_vae, None
    else:
        weights = sd_checkpoints.read_state_dict(file)
        model.base_vae = model.base_vae or copy.deepcopy(vae.state_dict())
    vae.load_state_dict(weights)
    vae.to(devices.dtype_vae)
    model.loaded_vae_file = file


def reload_vae_weights(sd_model: nn.Module | None = None, vae_file: Any = ...) -> None:
    """Bring the autoencoder to the settings, or to `vae_file`. The model counts as newly loaded afterwards."""
    model = sd_model or shared.sd_model
    wanted = vae_dict.get(shared.opts.sd_vae) if vae_file is ... else vae_file
    if model.loaded_vae_file == wanted:
        return
    if model.lowvram:
        lowvram.send_everything_to_cpu()
    else:
        model.to(devices.cpu)
    sd_hijack.model_hijack.undo_hijack(model)
    _load(model, wanted)
    sd_hijack.model_hijack.hijack(model)
    if not model.lowvram:
        model.to(devices.device)
    script_callbacks.model_loaded_callback(model)
