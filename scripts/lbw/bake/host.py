"""What baking needs to know of a WebUI."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from lbw.engine.ledger import Ledger
from lbw.engine.meter import StrengthMeter
from lbw.engine.parameters import Layer
from lbw.engine.parts import Network, Parts


class BakeError(Exception):
    """Nothing can be baked, and nothing was written; the message says why, and what to do."""


class CancelledError(BakeError):
    """Whoever asked for it wants it no longer."""


class Host(Protocol):
    """One model of a WebUI, for as long as something is baked with it."""

    ledger: Ledger
    parts: Parts
    meter: StrengthMeter
    device: torch.device
    """Where there is most power to compute with."""

    def turn(self) -> AbstractContextManager[Mapping[str, Layer]]:
        """While the block runs no image is made, and the layers of the model, {the host's name: layer}, are what they
        are. Waits for a generation that is under way to end.

        Raises:
            BakeError: another model has been put into use.
        """
        ...

    def network_of(self, file: Any, tensors: Mapping[str, Tensor], dyn_dim: int | None = None) -> Network:
        """What the host makes of some of a file's tensors, or of others in its place, and does not put into use.

        Args:
            file: the host's object for a network file.
            tensors: by the names that they have in a file.
            dyn_dim: up to which rank LoRAs count, where the host knows of that.

        Raises:
            BakeError: it cannot read them.
        """
        ...
