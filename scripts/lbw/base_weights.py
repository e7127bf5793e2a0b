"""The pristine weights of a layer: where they live, bit for bit.

They live where the host looks for them, in the layer's ``network_weights_backup`` and ``network_bias_backup``, so that
the host, or anybody else, can restore a layer at any time. No second copy exists that could become stale: a checkpoint
loaded into the same layers resets the backup, and with it what is known here.

The backup of a layer that a network touches stays on the layer's own device, where a switch reads it at memory speed; a
layer that no network touches has its backup on the CPU, as the host would have made it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

Backup = Tensor | tuple[Tensor, Tensor] | None

Layer = Any
"""A torch module that carries the host's attributes."""


class MissingBaseError(Exception):
    """The weights are patched and nothing tells what they were before."""


def _copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    try:
        return tensor.detach().to(device, copy=True)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return tensor.detach().to("cpu", copy=True)


def _weights(layer: Layer) -> tuple[Tensor, ...]:
    if isinstance(layer, nn.MultiheadAttention):
        return layer.in_proj_weight, layer.out_proj.weight
    return (layer.weight,)


def bias_owner(layer: Layer) -> Layer:
    """The module whose ``bias`` the host backs up for ``layer``."""
    return layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer


def _is_on(layer: Layer, device: torch.device) -> bool:
    backup: Backup = getattr(layer, "network_weights_backup", None)
    first = backup[0] if isinstance(backup, tuple) else backup
    return first is not None and first.device == device


def keep(layer: Layer, device: torch.device) -> None:
    """Make the layer's backups on ``device`` if it has none.

    Raises:
        MissingBaseError: there is no backup although the weights are patched.
    """
    if getattr(layer, "network_weights_backup", None) is None:
        if getattr(layer, "network_current_names", ()) != ():
            raise MissingBaseError("its weights are patched and have no backup")
        copies = tuple(_copy_to(weight, device) for weight in _weights(layer))
        layer.network_weights_backup = copies if isinstance(layer, nn.MultiheadAttention) else copies[0]
    bias = getattr(bias_owner(layer), "bias", None)
    if bias is not None and getattr(layer, "network_bias_backup", None) is None:
        layer.network_bias_backup = _copy_to(bias, device)


def move(layer: Layer, device: torch.device) -> None:
    """Move an existing backup to ``device``; its bits stay."""
    backup = getattr(layer, "network_weights_backup", None)
    if isinstance(backup, tuple):
        layer.network_weights_backup = tuple(tensor.to(device) for tensor in backup)
    elif backup is not None:
        layer.network_weights_backup = backup.to(device)


def pristine(layer: Layer, parameter: str) -> Tensor:
    """The pristine value of ``weight``, ``in_proj_weight`` or ``out_proj.weight``."""
    backup: Backup = layer.network_weights_backup
    if isinstance(backup, tuple):
        return backup[0 if parameter == "in_proj_weight" else 1]
    assert backup is not None
    return backup


def origin(layer: Layer, parameter: str, is_changed: bool) -> Tensor:
    """What networks are added to: with weights in 8 bits the master that the host may keep of them in 16 bits."""
    master: Tensor | None = getattr(layer, "fp16_weight", None)
    return master if is_changed and master is not None else pristine(layer, parameter)


def bias_origin(layer: Layer, is_changed: bool) -> Tensor | None:
    """As :func:`origin`; None where the layer has no bias."""
    backup: Tensor | None = getattr(layer, "network_bias_backup", None)
    return getattr(layer, "fp16_bias", backup) if is_changed else backup


def restore(layer: Layer) -> None:
    """Write the pristine weights and bias back into the layer."""
    backup: Backup = getattr(layer, "network_weights_backup", None)
    if backup is not None:
        for weight, base in zip(_weights(layer), backup if isinstance(backup, tuple) else (backup,), strict=True):
            weight.copy_(base)
    bias = getattr(layer, "network_bias_backup", None)
    if bias is not None:
        bias_owner(layer).bias.copy_(bias)


def forget(layer: Layer) -> None:
    """Leave a restored layer as the host has it before any network was loaded."""
    layer.network_current_names = ()
    layer.network_weights_backup = None
    layer.network_bias_backup = None


def fits(layers: Iterable[Layer], device: torch.device) -> bool:
    """Whether copies of the layers that have none there fit into the device's memory with as much again to spare."""
    if device.type != "cuda":
        return True
    needed = sum(weight.nbytes for layer in layers if not _is_on(layer, device) for weight in _weights(layer))
    free, _total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return 2 * needed < free + unused
