"""A host for sessions without a WebUI: layers and networks, all of them in place all the time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tests.unit.networks import Network


@dataclass(eq=False)
class SessionHost:
    """The :class:`lbw.generation.host.Host` of layers and networks that no WebUI has loaded."""

    all_layers: Mapping[str, nn.Module]
    loaded: Sequence[Network]

    def model(self) -> Any:
        return self

    def layers(self) -> Mapping[str, nn.Module]:
        return self.all_layers

    def networks(self) -> Sequence[Any]:
        return self.loaded

    def file_of(self, network: Network) -> str | None:
        return network.path

    def load_again(self, networks: Sequence[Any]) -> None:
        self.loaded = networks

    def moves_parts(self) -> bool:
        return False

    def prepares_late(self) -> bool:
        return False

    def before_departure(self, call: Any) -> None:
        pass

    def before_forward(self, calls: Any) -> None:
        pass

    def add_in_forward(self, wanted: Any) -> Collection[str]:
        return ()

    def wanted_names(self) -> tuple[Any, ...]:
        return tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in self.loaded)
