"""What comes before the first switch, and behind the last one: everything that a generation pays beside its switches.

Part of ``python -m tests.bench.switch``. All figures are wall times until the device is done, in ms, of one engine that
goes through generations as on a small GPU: between two of them the weights are pristine, and nothing is held.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lbw.engine.base_weights import Policy
from lbw.plan.plan import Coefficients
from tests.unit.networks import Network, lora_engine

if TYPE_CHECKING:
    from tests.bench.switch import Bench, Case

Layers = dict[str, nn.Module]


class Generations:
    """Passes in which all networks have one strength, which changes from step to step."""

    def __init__(self, bench: Bench, layers: Layers, policy: Policy) -> None:
        self.bench, self.layers = bench, layers
        self.engine = lora_engine(policy, device=torch.device(bench.device))
        self._groups = dict.fromkeys(layers, 0)
        self._networks: list[Network] = []

    def begin(self, networks: list[Network]) -> None:
        """The host has loaded the networks of a pass."""
        self._networks = networks
        self.engine.bind(self, self.layers, networks)
        self.engine.begin_pass(self._coefficients(1.0))

    def step(self, strength: float) -> None:
        """Bring the weights to a strength."""
        names = tuple((net.name, 1.0, 1.0, None) for net in self._networks)
        self.engine.manual_lora_update(self._coefficients(strength), names)

    def _coefficients(self, strength: float) -> Coefficients:
        return Coefficients(self._groups, [(strength,) * len(self._networks)])

    def ms(self, work: Callable[[], Any]) -> float:
        """How long ``work`` takes, in ms."""
        return self.bench.once(work) * 1e3

    def start(self, networks: list[Network], strength: float = 1.0) -> float:
        """The time until the weights have the pass's first strength."""
        return self.ms(lambda: (self.begin(networks), self.step(strength)))

    def switch(self, strength: float) -> float:
        return self.ms(lambda: self.step(strength))


def measure(bench: Bench, case: Case, policy: Policy) -> dict[str, Any]:
    """One row: a first network, the switches of its first pass, its end, the next generation, and another network."""
    layers = bench.layers(case)
    networks, others = bench.networks(case, layers), bench.networks(case, layers, first_seed=100)
    row: dict[str, Any] = {"case": case.name, "policy": policy.value}
    warm = Generations(bench, layers, policy)
    warm.start(networks)
    warm.engine.release()
    before = bench.gpu_memory()
    made = Generations(bench, layers, policy)
    row["first_network_ms"] = made.start(networks)
    row["first_switch_ms"] = made.switch(0.5)
    row["held_mb"] = (bench.gpu_memory() - before) / 1e6
    row["warm_switch_ms"] = statistics.median(made.switch(0.1 * step) for step in range(bench.repeat))
    row["end_ms"] = made.ms(made.engine.settle)
    row["held_afterwards_mb"] = (bench.gpu_memory() - before) / 1e6
    row["again_ms"] = made.start(networks, 0.0)
    row["first_switch_from_0_ms"] = made.switch(0.5)
    made.engine.settle()
    if bench.device == "cuda":
        row["after_a_move_ms"] = _after_a_move(made, networks)
    row["another_network_ms"] = made.start(others)
    made.engine.release()
    return row


def _after_a_move(made: Generations, networks: list[Network]) -> float:
    """As :meth:`Generations.start`, after the weights have been on the CPU, as with --medvram."""
    for layer in made.layers.values():
        layer.to("cpu")
    made.begin(networks)
    made.step(1.0)
    assert made.engine.waiting
    for layer in made.layers.values():
        layer.to("cuda")
    took = made.switch(1.0)
    made.engine.settle()
    return took


COLUMNS = {
    "first_network_ms": "first network",
    "first_switch_ms": "first switch",
    "warm_switch_ms": "warm switch",
    "end_ms": "end",
    "again_ms": "same again",
    "first_switch_from_0_ms": "first from 0",
    "after_a_move_ms": "after a move",
    "another_network_ms": "another",
    "held_mb": "held MB",
    "held_afterwards_mb": "afterwards",
}


def show(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'':44}" + "".join(f"{title:>14}" for title in COLUMNS.values()))
    for row in rows:
        figures = "".join(f"{row[key]:14.1f}" if key in row else f"{'':14}" for key in COLUMNS)
        print(f"{row['case'] + ', ' + row['policy']:44}{figures}")
