"""Puts the host's LoRA between every call of a layer class and the class's own code."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import networks
from modules import patches

PATCHED_CLASSES = ("Linear", "Conv2d", "GroupNorm", "LayerNorm", "MultiheadAttention")


class LoraPatches:
    """Holds the functions that were replaced, as `Linear_forward`, `Linear_load_state_dict` and so on.

    After `undo` those attributes are None.
    """

    Linear_forward: Callable[..., Any]
    Linear_load_state_dict: Callable[..., Any]
    Conv2d_forward: Callable[..., Any]
    Conv2d_load_state_dict: Callable[..., Any]
    GroupNorm_forward: Callable[..., Any]
    GroupNorm_load_state_dict: Callable[..., Any]
    LayerNorm_forward: Callable[..., Any]
    LayerNorm_load_state_dict: Callable[..., Any]
    MultiheadAttention_forward: Callable[..., Any]
    MultiheadAttention_load_state_dict: Callable[..., Any]

    def __init__(self):
        for name in PATCHED_CLASSES:
            layer_class = getattr(torch.nn, name)
            forward = getattr(networks, f"network_{name}_forward")
            load = getattr(networks, f"network_{name}_load_state_dict")
            original_load = patches.patch(__name__, layer_class, "_load_from_state_dict", load)
            setattr(self, f"{name}_forward", patches.patch(__name__, layer_class, "forward", forward))
            setattr(self, f"{name}_load_state_dict", original_load)

    def undo(self) -> None:
        for name in PATCHED_CLASSES:
            layer_class = getattr(torch.nn, name)
            setattr(self, f"{name}_forward", patches.undo(__name__, layer_class, "forward"))
            setattr(self, f"{name}_load_state_dict", patches.undo(__name__, layer_class, "_load_from_state_dict"))
