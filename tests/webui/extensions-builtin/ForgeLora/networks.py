"""LoRAs of a pass: their files become patches of copies of the model's parts, which are merged when those are loaded.

Networks in use have no parts of their own, and nothing is done to a layer here.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache

from forge_books import load_lora_for_models
from torch import Tensor

import network
from modules import family, sd_models
from modules.lora.lists import (  # noqa: F401  (part of this module's interface)
    available_network_aliases,
    available_network_hash_lookup,
    available_networks,
    files_by_names,
    forbidden_network_aliases,
    list_available_networks,
    process_network_files,
)

extra_network_lora = None
loaded_networks: list[network.Network] = []
networks_in_memory: dict[str, network.Network] = {}


def load_lora_state_dict(filename: str) -> Mapping[str, Tensor]:
    return sd_models.read_state_dict(filename)


if family.current.name != "forge-g2":
    update_available_networks_by_names = process_network_files
    load_lora_state_dict = lru_cache(maxsize=5)(load_lora_state_dict)  # a file that is replaced is not read again


def load_network(name: str, network_on_disk: network.NetworkOnDisk) -> network.Network:
    net = network.Network(name, network_on_disk)
    net.mtime = os.path.getmtime(network_on_disk.filename)
    net.mentioned_name = name
    network_on_disk.read_hash()
    return net


def load_networks(
    names: list[str],
    te_multipliers: list[float] | None = None,
    unet_multipliers: list[float] | None = None,
    dyn_dims: list[int | None] | None = None,
) -> None:
    """Make these LoRAs the ones in use, unless they are in use already with these strengths.

    Raises:
        AttributeError: one of them has no file, or the model is not loaded yet.
    """
    model = sd_models.model_data.get_sd_model()
    if model is None:
        return
    loaded_networks.clear()
    files = files_by_names(names)
    for name, file in zip(names, files, strict=True):
        loaded_networks.append(load_network(name, file))
    targets = [[file.filename, *strengths] for file, *strengths in
               zip(files, unet_multipliers, te_multipliers, strict=True)]
    if family.current.is_in_use(model, targets):
        return
    for filename, of_unet, of_text_encoder in targets:
        tensors = load_lora_state_dict(filename)
        parts = model.forge_objects
        parts.unet, parts.clip = load_lora_for_models(
            parts.unet, parts.clip, tensors, of_unet, of_text_encoder, filename=filename)
    model.forge_objects_after_applying_lora = model.forge_objects.shallow_copy()


list_available_networks()
