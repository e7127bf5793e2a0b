"""Multipliers that another extension writes in the middle of an evaluation, as regional prompters do for each region.

The host compares them in the forward of each layer, and patches a layer anew where they have changed: slowly, and
without block weights. To have them written there, such an extension stands in the forward of a class of layers, or has
networks added to the output of layers (``lora_functional``), which would leave our weights out. Nothing is watched
where nobody does either, since it takes time in each forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import networks as host_networks
from modules import shared

Names = Callable[[], tuple[Any, ...]]


class Application:
    """Stands in for the host's ``network_apply_weights``, which each forward of a layer calls."""

    def __init__(self, names: Names, call: Callable[[], None]) -> None:
        self.original = host_networks.network_apply_weights
        self.call: Callable[[], None] | None = call
        self._names, self._known = names, names()
        self.is_asked = self.is_asked_for_linear = False

    def __call__(self, layer: Any) -> None:
        self.is_asked = True
        self.is_asked_for_linear = self.is_asked_for_linear or isinstance(layer, torch.nn.Linear)
        names = self._names()
        if names != self._known and self.call is not None:
            self._known = names
            self.call()
        self.original(layer)


class ForwardWatch:
    """
    Args:
        names: tells the names and multipliers of the loaded networks, as the host compares them.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._application: Application | None = None
        self._was_functional = False

    def begin(self, call: Callable[[], None]) -> None:
        """From now on have ``call`` called as soon as multipliers are others in a forward than they were."""
        self.end()
        is_functional = bool(shared.opts.lora_functional)
        if torch.nn.Linear.forward is host_networks.network_Linear_forward and not is_functional:
            return
        self._application = host_networks.network_apply_weights = Application(self._names, call)
        if is_functional:
            shared.opts.lora_functional, self._was_functional = False, True

    def left_out_by(self) -> str | None:
        """The name of the module whose forward stands in the place of the host's and has not asked for what should be
        in the weights, as that of an extension that adds networks to the output of layers; None if it has."""
        application = self._application
        if application is None or not application.is_asked or application.is_asked_for_linear:
            return None
        return str(getattr(torch.nn.Linear.forward, "__module__", "unknown"))

    def end(self) -> None:
        """As before; what has been put over ours meanwhile stays."""
        application, self._application = self._application, None
        if application is not None:
            application.call = None
            if host_networks.network_apply_weights is application:
                host_networks.network_apply_weights = application.original
        if self._was_functional:
            shared.opts.lora_functional, self._was_functional = True, False
