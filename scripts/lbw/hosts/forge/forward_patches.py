"""Patches that the host adds in each forward of a layer: where the weight is quantised, or waits in RAM and only a copy
of it comes to the GPU. The host has an attribute for them, which is not the same on all hosts:

* ``forge_online_loras``, {parameter: patches}, that every forward of the layer looks at; and
* ``weight_function`` and ``bias_function``, either lists of functions or one function, for a copy of the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lbw.hosts.forge.networks import Entry, Merge

Entries = dict[str, list[Entry]]
"""{a parameter's name: patches}"""

_ONLINE = "forge_online_loras"
_MISSING: Any = object()

_MULTIPLY_IN_8_BITS = ("fp8Operations", "fp8_ops", "scaled_fp8_op")
"""Classes around layers whose forwards do not look at patches, or do it with numbers of 8 bits."""


def can_patch(layer: nn.Module) -> bool:
    """Whether the host adds anything in this layer's forward."""
    kind = type(layer)
    if any(name in kind.__qualname__ for name in _MULTIPLY_IN_8_BITS):
        return False
    looks = hasattr(layer, "parameters_manual_cast") or kind.__module__.startswith("backend.operations")
    return looks or _has_functions(layer)


def _has_functions(layer: nn.Module) -> bool:
    """Only the class tells: hosts that look at the other attribute set these, too, and do not call them."""
    return hasattr(type(layer), "weight_function")


@dataclass(frozen=True)
class _Change:
    """An attribute that has been set on a layer, and what was there before."""

    name: str
    before: Any
    ours: Any

    def take_back(self, layer: nn.Module) -> None:
        """If somebody has set it since, it is theirs."""
        if vars(layer).get(self.name) is not self.ours:
            return
        if self.before is _MISSING:
            delattr(layer, self.name)
        else:
            setattr(layer, self.name, self.before)


class ForwardPatches:
    """Sets them, beside those of the host and of others, and takes them back.

    Args:
        merge: the host's.
    """

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._changes: dict[nn.Module, tuple[_Change, ...]] = {}

    def set(self, wanted: Mapping[nn.Module, Entries]) -> None:
        """Have just these patches added; those that were set before are taken back."""
        for layer, changes in self._changes.items():
            for change in changes:
                change.take_back(layer)
        self._changes = {}
        for layer, entries in wanted.items():
            if entries:
                self._changes[layer] = self._put(layer, entries)

    def _put(self, layer: nn.Module, entries: Entries) -> tuple[_Change, ...]:
        if not _has_functions(layer):
            others = vars(layer).get(_ONLINE, _MISSING)
            known = {} if others is _MISSING else others
            more = {name: [*known.get(name, ()), *map(list, each)] for name, each in entries.items()}
            return (self._change(layer, _ONLINE, {**known, **more}),)
        return tuple(
            self._change(layer, f"{name}_function", self._function(getattr(layer, f"{name}_function"), each))
            for name, each in entries.items()
        )

    def _function(self, others: Any, entries: Sequence[Entry]) -> Any:
        def add(parameter: Tensor) -> Tensor:
            return self._merge(entries, parameter)

        if isinstance(others, list):
            return [*others, add]
        return add if others is None else lambda parameter: add(others(parameter))

    @staticmethod
    def _change(layer: nn.Module, name: str, ours: Any) -> _Change:
        change = _Change(name, vars(layer).get(name, _MISSING), ours)
        setattr(layer, name, ours)
        return change
