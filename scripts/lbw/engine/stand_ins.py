"""Backups that are no tensors, and know how to make one when somebody asks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lbw.engine.ledger import Page
from lbw.engine.parameters import Layer, parameter_of


class MissingBaseError(Exception):
    """The weights are patched and nothing tells what they were before."""


class StandIn:
    """A backup that is no tensor: when somebody reads it, the copy that it makes takes its place.

    Torch takes an object with ``__torch_function__`` wherever it takes a tensor, and asks it first; whatever else is
    asked of it is answered by the copy.

    Args:
        page: of the layer that it is the backup of.
        parameter: which of the layer's.
    """

    def __init__(self, page: Page, parameter: str) -> None:
        # A page has its layer, and the layer may have this.
        self._layer, self._ledger = weakref.ref(page.layer), page.ledger
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
            self._yield_to(self._copy)
        return self._copy

    def _yield_to(self, copied: Tensor) -> None:
        """The copy takes this one's place."""
        page = Page(self.layer, self._ledger)
        if any(backup is self for backup in page.weights):
            page.weights = [copied if backup is self else backup for backup in page.weights]
        if page.bias is self:
            page.bias = copied

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*made(args), **{key: made(value) for key, value in (kwargs or {}).items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made(), name)


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *args: getattr(self.made(), name)(*made(args))


# Python looks for operators in the class and does not ask __getattr__.
for _name in ("getitem", "len", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "neg"):
    setattr(StandIn, f"__{_name}__", _operator(f"__{_name}__"))


def made(value: Any) -> Any:
    """``value`` with copies for all stand-ins in it."""
    if isinstance(value, StandIn):
        return value.made()
    return type(value)(map(made, value)) if type(value) in (list, tuple) else value


def values_of(backup: Any) -> Tensor:
    """The pristine values that a backup has or stands for."""
    values: Tensor = backup.values() if isinstance(backup, StandIn) else backup
    return values


class Unchanged(StandIn):
    """Stands for a copy of a parameter that is as it was.

    A host restores a layer from its backup before it patches it, so the copy is always made in time. It goes when the
    host loads other weights into the layer, so what has been found out of the weights holds as long as it is there.
    """

    def values(self) -> Tensor:
        return self.parameter if self._copy is None else self._copy
