"""The book of what is merged into a model, and the merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from modules_forge import formulas, parameters
from torch import Tensor, nn


def _fitted(delta: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """As this host does it: columns that one of the two has more count as zeros in the other."""
    if delta.numel() == weight.numel():
        return formulas.reshaped(delta, weight)
    more = delta.shape[1] - weight.shape[1]
    return F.pad(delta, (0, max(-more, 0))), F.pad(weight, (0, max(more, 0)))


@torch.inference_mode()
def merge_lora_to_weight(
    patches: Sequence[Sequence[Any]], weight: Tensor, key: str = "online_lora",
    computation_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A copy of the weight with patches, each (strength, values, strength of the model, offset, function).

    Raises:
        RuntimeError: a patch does not fit the weight.
    """
    stored = weight.dtype
    merged = weight.to(computation_dtype, copy=True)
    for strength, values, strength_model, offset, function in patches:
        if function is not None:
            raise NotImplementedError(f"{key}: a patch with a function")
        part = merged if offset is None else merged.narrow(*offset)
        changed = _patched(key, values, part * strength_model, strength)
        if offset is None:
            merged = changed
        else:
            part.copy_(changed)
    return merged.to(stored)


def _patched(key: str, values: tuple, weight: Tensor, strength: float) -> Tensor:
    kind, found = ("diff", values) if len(values) == 1 else values
    if kind in formulas.DELTAS:
        return formulas.added(kind, found, weight, strength, _fitted)
    if kind == "set":
        return found[0].to(weight)
    if kind != "diff" or found[0].shape != weight.shape:
        print(f"{key}: a patch of the kind {kind} is left out")
        return weight
    return weight + strength * found[0].to(weight)


class LoraLoader:
    """One for each model. `backup` has the parameters that were taken out of it, `loaded_hash` what was merged last."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.backup: dict[str, Tensor] = {}
        self.online_backup: list[nn.Module] = []
        self.loaded_hash = str([])

    @torch.inference_mode()
    def refresh(
        self, lora_patches: Mapping[tuple, Mapping[str, list]], offload_device: torch.device | None = None,
        force_refresh: bool = False,
    ) -> None:
        """Restore what was merged before, and merge these patches, unless they are the same.

        Raises:
            RuntimeError: a patch does not fit. What was merged until then stays, and `loaded_hash` is of before.
        """
        hashes = str(list(lora_patches))
        if hashes == self.loaded_hash and not force_refresh:
            return
        wanted: dict[str, list] = {}
        for patches in lora_patches.values():
            for key, entries in patches.items():
                wanted.setdefault(key, []).extend(entries)

        for key, weight in self.backup.items():
            device = parameters.get(self.model, key).device
            parameters.put(self.model, key, weight if weight.device == device else weight.to(device))
        self.backup = {}
        for key, entries in wanted.items():
            weight = parameters.get(self.model, key)
            self.backup[key] = weight.to(offload_device or "cpu")  # the very parameter where it is on that device
            parameters.put(self.model, key, merge_lora_to_weight(entries, weight, key))
        self.loaded_hash = hashes
