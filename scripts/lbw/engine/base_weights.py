"""The pristine weights of a layer: where they live, bit for bit.

They live where the host looks for them, in the layer's ``network_weights_backup`` and ``network_bias_backup``, so that
the host, or anybody else, can restore a layer at any time. No second copy exists that could become stale: a checkpoint
loaded into the same layers resets the backup, and with it what is known here.

A parameter that nothing has changed needs no copy: :class:`Unchanged` stands for one until somebody asks for it. What
is kept of those that networks change, and where, the :class:`Policy` says.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger("lbw")

Layer = Any
"""A torch module that carries the host's attributes."""


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


class MissingBaseError(Exception):
    """The weights are patched and nothing tells what they were before."""


class StandIn:
    """A backup that is no tensor, and knows how to make one: when somebody reads it, the copy takes its place.

    Torch takes an object with ``__torch_function__`` wherever it takes a tensor, and asks it first; whatever else is
    asked of it is answered by the copy.
    """

    def __init__(self, layer: Layer, parameter: str) -> None:
        self._layer = weakref.ref(layer)
        self._parameter = parameter
        self._copy: Tensor | None = None

    @property
    def layer(self) -> Layer:
        layer = self._layer()
        if layer is None:
            raise MissingBaseError(f"the layer of this backup of {self._parameter} is gone")
        return layer

    @property
    def parameter(self) -> Tensor:
        """The layer's parameter, wherever it is at this moment."""
        return parameter_of(self.layer, self._parameter).detach()

    def values(self) -> Tensor:
        """The pristine values."""
        raise NotImplementedError

    def made(self) -> Tensor:
        """The copy, on the CPU, as the host would have made it."""
        if self._copy is None:
            self._copy = self.values().to("cpu", copy=True)
            _replace_backup(self.layer, self, self._copy)
        return self._copy

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*_made(args), **{key: _made(value) for key, value in (kwargs or {}).items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made(), name)


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *args: getattr(self.made(), name)(*_made(args))


# Python looks for operators in the class and does not ask __getattr__.
for _name in ("getitem", "len", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "neg"):
    setattr(StandIn, f"__{_name}__", _operator(f"__{_name}__"))


def _made(value: Any) -> Any:
    """``value`` with copies for all stand-ins in it."""
    if isinstance(value, StandIn):
        return value.made()
    return type(value)(map(_made, value)) if type(value) in (list, tuple) else value


def _replace_backup(layer: Layer, old: StandIn, new: Tensor) -> None:
    for name in ("network_weights_backup", "network_bias_backup"):
        backup = layer.__dict__.get(name)
        if backup is old:
            setattr(layer, name, new)
        elif isinstance(backup, tuple) and any(part is old for part in backup):
            setattr(layer, name, tuple(new if part is old else part for part in backup))


class Unchanged(StandIn):
    """Stands for a copy of a parameter that is as it was.

    The host restores a layer from its backup before it patches it, so the copy is always made in time. It goes when
    the host loads other weights into the layer, so what has been found out of the weights holds as long as it is there.
    """

    def values(self) -> Tensor:
        return self.parameter if self._copy is None else self._copy


def parameter_of(layer: Layer, path: str) -> Tensor:
    """The parameter ``weight``, ``out_proj.weight`` and so on of a layer."""
    owner, _, name = path.rpartition(".")
    module = layer.get_submodule(owner) if owner else layer
    parameter: Tensor | None = module._parameters.get(name)  # as an attribute it takes torch a microsecond to find
    return getattr(module, name) if parameter is None else parameter


def weight_names(layer: Layer) -> tuple[str, ...]:
    """The parameters of a layer that the host backs up, but for the bias."""
    return ("in_proj_weight", "out_proj.weight") if isinstance(layer, nn.MultiheadAttention) else ("weight",)


def backups_of(layer: Layer) -> tuple[Any, ...]:
    """The weight's backups, one for each of :func:`weight_names`; each is None where the host has made none."""
    backup = layer.__dict__.get("network_weights_backup")
    return backup if isinstance(backup, tuple) else (backup,)


def set_backups(layer: Layer, backups: Sequence[Any]) -> None:
    """Have the host find these as the weight's backups, one for each of :func:`weight_names`."""
    backup = tuple(backups) if isinstance(layer, nn.MultiheadAttention) else backups[0]
    layer.__dict__["network_weights_backup"] = backup


def _bias_name(layer: Layer) -> str:
    """The bias that the host backs up for ``layer``."""
    return "out_proj.bias" if isinstance(layer, nn.MultiheadAttention) else "bias"


def bias_of(layer: Layer) -> Tensor | None:
    """The bias that goes with the layer's weight, if it has one."""
    owner = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer
    bias: Tensor | None = getattr(owner, "bias", None)
    return bias


def device_of(layer: Layer) -> torch.device:
    """The device of the layer's weight, at this moment."""
    return parameter_of(layer, weight_names(layer)[0]).device


def keep(layer: Layer) -> None:
    """See to it that the layer has its backups: stand-ins for copies, where it has none.

    Raises:
        MissingBaseError: there is no backup although the weights are patched.
    """
    attributes = layer.__dict__
    if attributes.get("network_weights_backup") is None:
        if attributes.get("network_current_names", ()) != ():
            raise MissingBaseError("its weights are patched and have no backup")
        set_backups(layer, [Unchanged(layer, name) for name in weight_names(layer)])
    if attributes.get("network_bias_backup") is None and bias_of(layer) is not None:
        attributes["network_bias_backup"] = Unchanged(layer, _bias_name(layer))


def is_unchanged(layer: Layer) -> bool:
    """Whether stand-ins are all that the layer has as backups of its weight."""
    return all(isinstance(part, Unchanged) for part in backups_of(layer))


def place(layers: Sequence[Layer], device: torch.device | None, memory: PinnedMemory) -> None:
    """Have copies of the weights of ``layers``; copies that are elsewhere move, bit for bit.

    Args:
        layers: each has to have its backups already, see :func:`keep`.
        device: where to; None for each layer's own.
        memory: for copies on the CPU of what is on a GPU.

    Raises:
        torch.cuda.OutOfMemoryError: they do not fit there.
    """
    for layer in layers:
        home = device_of(layer)
        _place(layer, device or home, memory.copy if home.type == "cuda" and device not in (None, home) else _copy_to)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _copy_to(source: Tensor, device: torch.device) -> Tensor:
    return source.to(device, copy=True)


def _place(layer: Layer, device: torch.device, copy: Callable[[Tensor, torch.device], Tensor]) -> None:
    """Have the weight's copies that are not on ``device`` made there by ``copy``."""
    parts = backups_of(layer)
    placed = []
    for part in parts:
        if isinstance(part, StandIn):
            placed.append(copy(part.values(), device))
        else:
            placed.append(part if part.device == device else copy(part, device))
    if any(new is not old for new, old in zip(placed, parts, strict=True)):
        set_backups(layer, placed)


class PinnedMemory:
    """Copies in page-locked host memory, taken in large pieces: the driver is slow to lock, and torch rounds each piece
    up to a power of two. Where nothing can be locked any more, other memory does."""

    PIECE = 2**28

    def __init__(self) -> None:
        self._piece = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def copy(self, tensor: Tensor, _device: torch.device | None = None) -> Tensor:
        """A copy with the shape, strides and bits of ``tensor``; under way until the device is synchronized."""
        size = -(-tensor.nbytes // 256) * 256
        if self._used + size > len(self._piece):
            self._piece = _page_locked(max(size, min(self.PIECE, 2 * len(self._piece) or 2**24)))
            self._used = 0
        room = self._piece[self._used : self._used + tensor.nbytes].view(tensor.dtype)
        self._used += size
        copied = room.as_strided(tensor.size(), tensor.stride())
        return copied.copy_(tensor.detach(), non_blocking=True)


def _page_locked(size: int) -> Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)


def pristine(layer: Layer, parameter: str) -> Tensor:
    """The pristine ``weight``, ``in_proj_weight`` or ``out_proj.weight``: nothing that is about to be overwritten."""
    part = backups_of(layer)[weight_names(layer).index(parameter)]
    if isinstance(part, Unchanged):
        return part.made()
    values: Tensor = part.values() if isinstance(part, StandIn) else part
    return values


def pristine_view(layer: Layer, parameter: str) -> Tensor:
    """The pristine values wherever they are at this moment, to be read and not kept: nothing is copied for it.

    Raises:
        MissingBaseError: the weights are patched and have no backup.
    """
    if layer.__dict__.get("network_current_names", ()) == ():
        return parameter_of(layer, parameter).detach()
    backups = dict(zip(weight_names(layer), backups_of(layer), strict=False))
    part = backups.get(parameter)
    if part is None:
        raise MissingBaseError("its weights are patched and have no backup")
    values: Tensor = part.values() if isinstance(part, StandIn) else part
    return values


def pristine_bias(layer: Layer) -> Tensor | None:
    """The copy of the bias that goes with the layer's weight, made now if there is none; None without a bias."""
    return _made(getattr(layer, "network_bias_backup", None))


def origin(layer: Layer, parameter: str, *, is_changed: bool) -> Tensor:
    """What networks are added to: with weights in 8 bits the master that the host may keep of them in 16 bits.

    The pristine copy is made in any case, if there is none.
    """
    base = pristine(layer, parameter)
    master: Tensor | None = getattr(layer, "fp16_weight", None)
    return master if is_changed and master is not None else base


def bias_origin(layer: Layer, *, is_changed: bool) -> Tensor | None:
    """As :func:`origin`; None where the layer has no bias."""
    base = pristine_bias(layer)
    master: Tensor | None = getattr(layer, "fp16_bias", None)
    return master if is_changed and master is not None else base


def restore(layer: Layer) -> None:
    """Write the pristine weights and bias back into the layer."""
    for name, part in zip(weight_names(layer), backups_of(layer), strict=False):
        if part is not None and not isinstance(part, Unchanged):
            parameter_of(layer, name).copy_(part.values() if isinstance(part, StandIn) else part)
    restore_bias(layer)


def restore_bias(layer: Layer) -> None:
    """Write the pristine bias back into the layer, if a copy of it was made."""
    bias, base = bias_of(layer), getattr(layer, "network_bias_backup", None)
    if bias is not None and isinstance(base, Tensor):
        bias.copy_(base)


def forget(layer: Layer) -> None:
    """Leave a restored layer as the host has it before any network was loaded."""
    layer.network_current_names = ()
    layer.network_weights_backup = None
    layer.network_bias_backup = None


def copies_on_gpu(layers: Sequence[Layer]) -> Iterator[Tensor]:
    """The copies of the weights of ``layers`` that take GPU memory."""
    for layer in layers:
        yield from (part for part in backups_of(layer) if isinstance(part, Tensor) and part.device.type == "cuda")


def drop_copies_on_gpu(layer: Layer) -> None:
    """Have stand-ins instead of the copies that a restored layer has on a GPU."""
    backups = [
        Unchanged(layer, name) if isinstance(part, Tensor) and part.device.type == "cuda" else part
        for name, part in zip(weight_names(layer), backups_of(layer), strict=True)
    ]
    set_backups(layer, backups)


def park(layer: Layer) -> None:
    """Take the weight's copies off the GPU, as the model itself is no longer in use.

    Of a model that the host has thrown away nothing is left to copy.
    """
    copies = [part for part in backups_of(layer) if part is not None and not isinstance(part, Unchanged)]
    if copies and device_of(layer).type != "meta":
        _place(layer, torch.device("cpu"), _copy_to)


def size_of(layer: Layer) -> int:
    """Bytes of the layer's weights."""
    return sum(parameter_of(layer, name).nbytes for name in weight_names(layer))
