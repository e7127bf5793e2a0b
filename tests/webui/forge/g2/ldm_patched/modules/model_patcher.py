"""A model with patches: merged into it by `patch_model`, taken out by `unpatch_model`. Copies share the model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from modules_forge import formulas, parameters
from torch import Tensor, nn

logger = logging.getLogger("forge")


class ModelPatcher:
    """`patches` are {parameter: [(strength, values, strength of the model)]}. `backup` has the tensors that were in the
    parameters before: all copies have the same one."""

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        self.load_device, self.offload_device = load_device, offload_device
        self.patches: dict[str, list[tuple]] = {}
        self.backup: dict[str, Tensor] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.model_keys = set(model.state_dict())

    def clone(self) -> ModelPatcher:
        made = type(self)(self.model, self.load_device, self.offload_device)
        made.patches = {key: [*entries] for key, entries in self.patches.items()}
        made.backup = self.backup
        made.model_options = copy.deepcopy(self.model_options)
        return made

    def is_clone(self, other: Any) -> bool:
        return getattr(other, "model", None) is self.model

    def add_patches(
        self, patches: Mapping[str, tuple], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[str]:
        known = [key for key in patches if key in self.model_keys]
        for key in known:
            self.patches.setdefault(key, []).append((strength_patch, patches[key], strength_model))
        return known

    def patch_model(self, device_to: torch.device) -> nn.Module:
        weights = self.model.state_dict()
        for key, entries in self.patches.items():
            weight = weights[key]
            if key not in self.backup:
                self.backup[key] = weight.to(self.offload_device)  # the very storage where it is on that device
            merged = self.calculate_weight(entries, weight.to(device_to, torch.float32, copy=True), key)
            parameters.put(self.model, key, merged.to(weight.dtype))
        return self.model.to(device_to)

    def unpatch_model(self, device_to: torch.device | None = None) -> None:
        """Take the patches out again. The model leaves the device, if one is given."""
        for key, weight in self.backup.items():
            parameters.put(self.model, key, weight.to(parameters.get(self.model, key).device))
        self.backup.clear()
        if device_to is not None:
            self.model.to(device_to)

    def calculate_weight(self, patches: Sequence[tuple], weight: Tensor, key: str) -> Tensor:
        """The weight with patches. One that does not fit is left out, with a line in the log."""
        for strength, (kind, *found), strength_model in (entry[:3] for entry in patches):
            weight = weight * strength_model
            values = found[0] if found else (kind,)
            kind = kind if found else "diff"
            if kind in formulas.DELTAS:
                try:
                    weight = formulas.added(kind, values, weight, strength)
                except RuntimeError as error:
                    logger.error("%s: %s", key, error)
            elif kind == "diff" and values[0].shape == weight.shape:
                weight = weight + strength * values[0].to(weight)
            else:
                logger.warning("%s: a patch of the kind %s is left out", key, kind)
        return weight


class UnetPatcher(ModelPatcher):
    """The U-Net's."""
