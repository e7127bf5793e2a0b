"""A model with patches that are yet to be merged. Copies share the model, and have patches of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from backend.patcher.lora import LoraLoader


class ModelPatcher:
    """`lora_patches` are {(file, strength, strength of the model, added in each forward): {parameter: patches}}."""

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        self.load_device, self.offload_device = load_device, offload_device
        self.lora_patches: dict[tuple, dict[str, list]] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        if not hasattr(model, "lora_loader"):
            model.lora_loader = LoraLoader(model)
        self.lora_loader: LoraLoader = model.lora_loader

    def clone(self) -> ModelPatcher:
        made = type(self)(self.model, self.load_device, self.offload_device)
        made.lora_patches = self.lora_patches.copy()
        made.model_options = copy.deepcopy(self.model_options)
        return made

    def is_clone(self, other: Any) -> bool:
        return getattr(other, "model", None) is self.model

    def add_patches(
        self, *, filename: str, patches: Mapping[str, tuple], strength_patch: float = 1.0, strength_model: float = 1.0,
        online_mode: bool = False,
    ) -> set[str]:
        """Note patches under the file and its strengths: a second time with the same, they count once."""
        known = {key for key, _parameter in self.model.named_parameters()} & patches.keys()
        self.lora_patches[filename, strength_patch, strength_model, online_mode] = {
            key: [[strength_patch, patches[key], strength_model, None, None]] for key in patches if key in known
        }
        return known

    def has_online_lora(self) -> bool:
        return any(online for *_, online in self.lora_patches)

    def refresh_loras(self) -> None:
        self.lora_loader.refresh(self.lora_patches, self.offload_device)

    def forge_patch_model(self, target_device: torch.device) -> nn.Module:
        return self.model.to(target_device)

    def forge_unpatch_model(self, target_device: torch.device | None = None) -> None:
        """The model leaves the device, if one is given, and takes along what is merged into it."""
        if target_device is not None:
            self.model.to(target_device)


class UnetPatcher(ModelPatcher):
    """The U-Net's."""
