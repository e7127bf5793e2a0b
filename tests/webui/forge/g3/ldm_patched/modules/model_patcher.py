"""A model with patches. Copies share the model; the model knows whose patches are in it by their `patches_uuid`."""

from __future__ import annotations

import copy
import uuid
from collections import namedtuple
from collections.abc import Mapping
from typing import Any

import torch
from modules_forge import parameters
from torch import nn

from ldm_patched.modules.lora import calculate_weight

Backup = namedtuple("Backup", ["weight", "inplace_update"])


class ModelPatcher:
    """`patches` are {parameter: [(strength, values, strength of the model, offset, function)]}. `backup` has what was
    in the parameters before: all copies have the same one."""

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        self.load_device, self.offload_device = load_device, offload_device
        self.patches: dict[str, list[tuple]] = {}
        self.backup: dict[str, Backup] = {}
        self.patches_uuid = uuid.uuid4()
        self.parent: ModelPatcher | None = None
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        if not hasattr(model, "current_weight_patches_uuid"):
            model.current_weight_patches_uuid = None
            model.model_loaded_weight_memory = 0

    def clone(self) -> ModelPatcher:
        made = type(self)(self.model, self.load_device, self.offload_device)
        made.patches = {key: [*entries] for key, entries in self.patches.items()}
        made.patches_uuid, made.backup, made.parent = self.patches_uuid, self.backup, self
        made.model_options = copy.deepcopy(self.model_options)
        return made

    def is_clone(self, other: Any) -> bool:
        return getattr(other, "model", None) is self.model

    def add_patches(
        self, patches: Mapping[str, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[str]:
        own = self.model.state_dict()
        known = [key for key in patches if key in own]
        for key in known:
            self.patches.setdefault(key, []).append((strength_patch, patches[key], strength_model, None, None))
        self.patches_uuid = uuid.uuid4()
        return known

    def patch_weight_to_device(self, key: str, device_to: torch.device) -> None:
        """Merge what there is for a parameter."""
        if key not in self.patches:
            return
        weight = parameters.get(self.model, key)
        if key not in self.backup:  # the very parameter where it is on that device
            self.backup[key] = Backup(weight.to(self.offload_device), False)
        merged = calculate_weight(self.patches[key], weight.to(device_to, torch.float32, copy=True), key)
        parameters.put(self.model, key, merged.to(weight.dtype))

    def load(self, device_to: torch.device) -> None:
        for key in [key for key, _parameter in self.model.named_parameters()]:
            self.patch_weight_to_device(key, device_to)
        self.model.to(device_to)
        self.model.model_loaded_weight_memory = sum(each.nbytes for each in self.model.parameters())
        self.model.current_weight_patches_uuid = self.patches_uuid

    def unpatch_model(self, device_to: torch.device) -> None:
        """Take the patches out again, whichever copy has put them in; the model leaves the device."""
        for key, backup in self.backup.items():
            parameters.put(self.model, key, backup.weight.detach())
        self.backup.clear()
        self.model.current_weight_patches_uuid = None
        self.model.model_loaded_weight_memory = 0
        self.model.to(device_to)

    def partially_load(self, device_to: torch.device) -> None:
        """Bring the model onto the device with these patches; nothing is done where it is there with them."""
        if self.model.current_weight_patches_uuid not in (None, self.patches_uuid):
            self.unpatch_model(self.offload_device)
        if self.model.model_loaded_weight_memory == 0:
            self.load(device_to)

    def detach(self, unpatch_all: bool = True) -> None:
        if unpatch_all:
            self.unpatch_model(self.offload_device)


class UnetPatcher(ModelPatcher):
    """The U-Net's."""
