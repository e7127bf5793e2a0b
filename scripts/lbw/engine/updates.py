"""What updates of the weights did, one by one and all together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """What one call of :meth:`lbw.engine.engine.LoraEngine.manual_lora_update` did."""

    layers_updated: int = 0
    seconds: float = 0.0


def total(updates: Iterable[Update]) -> tuple[int, Update]:
    """How many of the updates were switches, and what all of them did."""
    switches = [update for update in updates if update.layers_updated]
    layers, seconds = sum(each.layers_updated for each in switches), sum(each.seconds for each in switches)
    return len(switches), Update(layers, seconds)
