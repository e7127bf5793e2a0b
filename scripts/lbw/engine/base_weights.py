"""The pristine weights of a layer: where they live, bit for bit.

They live on the layer's page of the ledger, where the host looks for backups if it makes any, so that the host, or
anybody else, can restore a layer at any time. No second copy exists that could become stale: a checkpoint loaded into
the same layers resets the backup, and with it what is known here.

A parameter that nothing has changed needs no copy: :class:`Unchanged` stands for one until somebody asks for it. What
is kept of those that networks change, and where, the :class:`Policy` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import torch
from torch import Tensor

from lbw.engine.ledger import Page
from lbw.engine.parameters import bias_name, bias_of, device_of, parameter_of, weight_names
from lbw.engine.pinned_memory import PinnedMemory
from lbw.engine.stand_ins import MissingBaseError, StandIn, Unchanged, made, values_of

_CPU = torch.device("cpu")


class Policy(str, Enum):
    """Where the pristine weights of layers live that networks change."""

    AUTO = "auto"
    """Lean, or on the GPU where there is much more room than the host has ever needed."""
    GPU = "gpu"
    """On the layer's own device, where a switch reads them at memory speed."""
    LEAN = "lean"
    """Not at all: recovered from the patched weights with two bits a weight on the GPU, see :mod:`lbw.engine.lean`."""
    RAM = "ram"
    """In host memory, from where each switch brings what it needs of them to the GPU."""


def keep(page: Page) -> None:
    """See to it that a layer has its backups: stand-ins for copies, where it has none.

    Raises:
        MissingBaseError: there is no backup although the weights are patched.
    """
    if page.weights[0] is None:
        if page.names != ():
            raise MissingBaseError("its weights are patched and have no backup")
        page.weights = [Unchanged(page, name) for name in weight_names(page.layer)]
    if page.bias is None and bias_of(page.layer) is not None:
        page.bias = Unchanged(page, bias_name(page.layer))


def place(pages: Sequence[Page], device: torch.device | None, memory: PinnedMemory) -> None:
    """Have copies of the weights of layers; copies that are elsewhere move, bit for bit.

    Args:
        pages: each has to have its backups already, see :func:`keep`.
        device: where to; None for each layer's own.
        memory: for copies on the CPU of what is on a GPU.

    Raises:
        torch.cuda.OutOfMemoryError: they do not fit there.
    """
    for page in pages:
        home = device_of(page.layer)
        _place(page, device or home, memory.copy if home.type == "cuda" and device not in (None, home) else _copy_to)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _copy_to(source: Tensor, device: torch.device) -> Tensor:
    return source.to(device, copy=True)


def _place(page: Page, device: torch.device, copy: Callable[[Tensor, torch.device], Tensor]) -> None:
    """Have the weight's copies that are not on ``device`` made there by ``copy``."""
    backups = page.weights
    placed = []
    for backup in backups:
        if isinstance(backup, StandIn):
            placed.append(copy(backup.values(), device))
        else:
            placed.append(backup if backup.device == device else copy(backup, device))
    if any(new is not old for new, old in zip(placed, backups, strict=True)):
        page.weights = placed


def pristine(page: Page, parameter: str) -> Tensor:
    """The pristine ``weight``, ``in_proj_weight`` or ``out_proj.weight``: nothing that is about to be overwritten."""
    backup = page.weights[weight_names(page.layer).index(parameter)]
    return backup.made() if isinstance(backup, Unchanged) else values_of(backup)


def pristine_view(page: Page, parameter: str) -> Tensor:
    """The pristine values wherever they are at this moment, to be read and not kept: nothing is copied for it.

    Raises:
        MissingBaseError: the weights are patched and have no backup.
    """
    if page.names == ():
        return parameter_of(page.layer, parameter).detach()
    backup = dict(zip(weight_names(page.layer), page.weights, strict=False)).get(parameter)
    if backup is None:
        raise MissingBaseError("its weights are patched and have no backup")
    return values_of(backup)


def origin(page: Page, parameter: str, *, is_changed: bool) -> Tensor:
    """What networks are added to: with weights in 8 bits the master that the host may keep of them in 16 bits.

    The pristine copy is made in any case, if there is none.
    """
    base = pristine(page, parameter)
    master = page.master(parameter) if is_changed else None
    return base if master is None else master


def bias_origin(page: Page, *, is_changed: bool) -> Tensor | None:
    """As :func:`origin`; None where the layer has no bias."""
    base: Tensor | None = made(page.bias)
    master = page.master(bias_name(page.layer)) if is_changed else None
    return base if master is None else master


def restore(page: Page) -> None:
    """Write the pristine weights and bias back into a layer."""
    for name, backup in zip(weight_names(page.layer), page.weights, strict=False):
        if backup is not None and not isinstance(backup, Unchanged):
            parameter_of(page.layer, name).copy_(values_of(backup))
    restore_bias(page)


def restore_bias(page: Page) -> None:
    """Write the pristine bias back into a layer, if a copy of it was made."""
    bias, base = bias_of(page.layer), page.bias
    if bias is not None and isinstance(base, Tensor):
        bias.copy_(base)


def copies_on_gpu(pages: Sequence[Page]) -> Iterator[Tensor]:
    """The copies of the weights of layers that take GPU memory."""
    for page in pages:
        yield from filter(_is_copy_on_gpu, page.weights)


def _is_copy_on_gpu(backup: object) -> bool:
    return isinstance(backup, Tensor) and backup.device.type == "cuda"


def drop_copies(page: Page) -> None:
    """Have stand-ins instead of the copies that a restored layer has: all of them, or, where the host may have made
    them, those on a GPU."""
    page.weights = [
        Unchanged(page, name) if _is_copy_on_gpu(backup) or not page.ledger.is_shared else backup
        for name, backup in zip(weight_names(page.layer), page.weights, strict=True)
    ]
    drop_bias_copy(page)


def drop_bias_copy(page: Page) -> None:
    """Have a stand-in instead of the copy that a restored layer has of its bias, unless the host may have made it."""
    if page.bias is not None and not page.ledger.is_shared:
        page.bias = Unchanged(page, bias_name(page.layer))


def park(page: Page) -> None:
    """Take the weight's copies off the GPU, as the model itself is no longer in use.

    Of a model that the host has thrown away nothing is left to copy.
    """
    copies = [backup for backup in page.weights if backup is not None and not isinstance(backup, Unchanged)]
    if copies and device_of(page.layer).type != "meta":
        _place(page, _CPU, _copy_to)
