"""Which shapes fit a layer's weight."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from lbw.engine.deltas.kinds import UnsupportedPartError

INPAINTING_CHANNELS, LATENT_CHANNELS = 9, 4


def misfit(found: Sequence[int], shape: torch.Size) -> UnsupportedPartError:
    """The error for a module whose delta is of the shape ``found``."""
    return UnsupportedPartError(f"the shape is {'x'.join(map(str, found))}, the layer's is {tuple(shape)}")


def require_size(found: Sequence[int], shape: torch.Size) -> None:
    """Raises:
    UnsupportedPartError: a delta of the shape ``found`` has another number of elements than a weight of ``shape``.
    """
    if prod(found) != shape.numel():
        raise misfit(found, shape)


def require_factors(up: Tensor, down: Tensor, shape: torch.Size) -> None:
    """Raises:
    UnsupportedPartError: ``up @ down`` is none, or is not of a weight of ``shape``.
    """
    if up.shape[1] != len(down):
        raise UnsupportedPartError(f"its factors have the ranks {up.shape[1]} and {len(down)}")
    if len(up) != shape[0] or len(up) * down.shape[1] != shape.numel():
        raise misfit((len(up), down.shape[1]), shape)


def reads_inpainting_channels(shape: torch.Size) -> bool:
    """Whether this is the first convolution of an inpainting model: four channels of latents, four of the masked image
    and the mask. The host takes every convolution with nine channels for one."""
    return len(shape) == 4 and shape[1] == INPAINTING_CHANNELS


def trained_shape(shape: torch.Size) -> torch.Size:
    """The shape for which the host expects a delta; it knows LoRAs for the four channels of latents only."""
    return torch.Size((shape[0], LATENT_CHANNELS, *shape[2:])) if reads_inpainting_channels(shape) else shape


def pad_channels(tensor: Tensor, shape: torch.Size) -> Tensor:
    """``tensor`` [rows, channels * height * width], with zeros for the channels that only an inpainting model has."""
    if not reads_inpainting_channels(shape):
        return tensor
    kernel = shape[2:].numel()
    return F.pad(tensor, (0, (INPAINTING_CHANNELS - LATENT_CHANNELS) * kernel))
