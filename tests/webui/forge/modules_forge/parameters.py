"""Parameters of a model by their names, such as `diffusion_model.out.2.weight`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def owner_of(model: nn.Module, key: str) -> tuple[nn.Module, str]:
    """The layer that has the parameter, and its name there."""
    path, _, name = key.rpartition(".")
    return model.get_submodule(path), name


def get(model: nn.Module, key: str) -> nn.Parameter:
    layer, name = owner_of(model, key)
    return getattr(layer, name)


def put(model: nn.Module, key: str, value: Tensor) -> None:
    """Put another parameter in its place: a tensor becomes a new one, a parameter is taken as the object it is."""
    layer, name = owner_of(model, key)
    setattr(layer, name, value if isinstance(value, nn.Parameter) else torch.nn.Parameter(value, requires_grad=False))
