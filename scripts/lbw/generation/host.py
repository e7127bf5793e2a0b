"""What an adapter tells of its WebUI."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import nn


class Host(Protocol):
    """What the program needs to know of a WebUI."""

    def model(self) -> Any:
        """The model that is in use now."""
        ...

    def layers(self) -> Mapping[str, nn.Module]:
        """{layer name: layer} of all layers that the host would patch. A name has the path of the layer below
        ``diffusion_model`` or a text encoder, with underscores."""
        ...

    def networks(self) -> Sequence[Any]:
        """The loaded networks in the host's order; one that the prompt names twice stands there twice."""
        ...

    def file_of(self, network: Any) -> str | None:
        """The path of the file that a loaded network was read from; None if it is not known."""
        ...

    def load_again(self, networks: Sequence[Any]) -> None:
        """Put networks into use with the model in use now, of which the host has unloaded all to load that model."""
        ...

    def moves_parts(self) -> bool:
        """Whether the host has parts of the model on the GPU only while they are at work."""
        ...

    def prepares_late(self) -> bool:
        """Whether the host moves and patches a model up to the first evaluation of a pass."""
        ...

    def before_departure(self, call: Callable[[], None] | None) -> None:
        """Have ``call`` called before the model in use, or its U-Net, leaves the GPU; None: no longer."""
        ...

    def before_forward(self, calls: Mapping[nn.Module, Callable[[], None]]) -> None:
        """Have the call of a layer called whenever the layer is about to be at work. No other that was named before
        counts any more, whoever named it."""
        ...

    def add_in_forward(self, wanted: Mapping[str, tuple[nn.Module, Sequence[float]]]) -> Collection[str]:
        """Have what networks add to weights that cannot be written added in each forward of their layers. What was
        wanted before does not count any more.

        Args:
            wanted: {layer name: (layer, one coefficient for each network, each once)}.

        Returns:
            The names of layers for which that is done.
        """
        ...

    def wanted_names(self) -> tuple[Any, ...]:
        """What the host would note in a layer that has the loaded networks, and compares with at each forward."""
        ...
