"""Switches layers to random strengths, a million times, while all that can change around them does.

    python -m tests.endurance.soak [--switches N] [--minutes M] [--seed S] [--dtype TYPE] [--quick] [--json FILE]

Layers of two models, with networks of every type on them; now and then other networks, the other model, another policy
for the pristine weights, parameters that move as with ``--medvram``, passes that end, and an engine that is unloaded
and made anew. At random moments every weight is compared with the float64 formula (one unit in the last place), and
with everything off with the model's own, bit for bit. Memory, file handles, threads and the time of a switch are noted
all along.

A million switches of the default size take some minutes on a GPU. Ends with 1 where something was wrong or has grown.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lbw.engine.base_weights import Policy
from lbw.engine.engine import LoraEngine
from lbw.plan.plan import Coefficients
from tests.host.network_files import MAKERS, Formula, Random, in_half
from tests.unit.host_modules import layer_for, make_module
from tests.unit.networks import Network, lora_engine
from tests.unit.ulp import ulp_distance

KEYS = [f"diffusion_model_{block}_proj_in" for block in (
    *(f"input_blocks_{number}_1" for number in (1, 2, 4, 5, 7, 8)), "middle_block_1",
    *(f"output_blocks_{number}_1" for number in range(3, 12)),
)]  # fmt: skip
QUICK_SWITCHES = 2_000
WINDOWS = 20
"""Stretches of the run that are compared with each other, at least, and"""
LONGEST_WINDOW = 2_500
"""how many switches each has at most."""
ALLOWED_GROWTH = {"resident_mb": 8.0, "device_mb": 0.5, "handles": 0, "threads": 0}
ALLOWED_SLOWDOWN = 1.5
STAGING = "lbw-staging"
"""Threads of which there are as many as have ever been needed at once, four at most."""


@dataclass
class Window:
    """What was seen in a stretch of the run; memory at its end, with the garbage collected."""

    switches: int
    switch_us: float
    """The median."""
    resident_mb: float
    device_mb: float
    handles: int
    threads: int


@dataclass
class Report:
    device: str
    dtype: str
    switches: int = 0
    seconds: float = 0.0
    events: dict[str, int] = field(default_factory=dict)
    comparisons: int = 0
    pristine: int = 0
    worst_ulp: int = 0
    faults: list[str] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)


class Model:
    """Layers of every kind, and what they are without networks."""

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(seed)
        kinds = ("linear", "linear", "convolution", "norm")
        self.kinds = {key: kinds[index % len(kinds)] for index, key in enumerate(KEYS)}
        self.layers = {key: layer_for(kind).to(device, dtype) for key, kind in self.kinds.items()}
        self.base = {key: self._values(layer) for key, layer in self.layers.items()}

    @staticmethod
    def _values(layer: nn.Module) -> tuple[Tensor, Tensor]:
        return layer.weight.detach().cpu().clone(), layer.bias.detach().cpu().clone()

    def differences(self) -> list[str]:
        """The layers whose weight or bias is not what it was, bit for bit."""
        return [
            key for key, layer in self.layers.items()
            if not all(now.equal(then) for now, then in zip(self._values(layer), self.base[key], strict=True))
        ]  # fmt: skip


class Soak:
    """One run.

    Args:
        seed: of all choices.
    """

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.choice = random.Random(seed)
        self.device, self.dtype = device, dtype
        self.models = [Model(number, device, dtype) for number in range(2)]
        self.model = self.models[0]
        self.report = Report(str(device), str(dtype).removeprefix("torch."))
        self.engine = self._make_engine()
        self.networks: list[Network] = []
        self._formulas: list[dict[str, tuple[Formula, Tensor | None]]] = []
        self.wanted: dict[str, tuple[float, ...]] = {}
        self.change_networks()
        self.events: list[tuple[Callable[[], None], float]] = [
            (self.change_networks, 0.01), (self.change_model, 0.005), (self.change_policy, 0.005),
            (self.move_parameters, 0.005), (self.end_pass, 0.01), (self.settle, 0.005), (self.load_anew, 0.002),
        ]  # fmt: skip

    def _make_engine(self) -> LoraEngine:
        policy = self.choice.choice([*Policy])
        return lora_engine(policy, device=self.device, is_grouping=self.choice.random() < 0.8)

    def change_networks(self) -> None:
        """One to three networks of one type each, in the host's order; each has parts for most layers."""
        self.engine.unbind()
        kinds = self.choice.sample([*MAKERS], self.choice.randint(1, 3))
        self.networks, self._formulas = [], []
        for kind in kinds:
            network, formulas = Network(f"{kind}{self.choice.randrange(10**6)}"), {}
            maker, fits = MAKERS[kind]
            for key, layer in self.model.layers.items():
                if self.model.kinds[key] not in fits or self.choice.random() < 0.1:
                    continue
                base = self.model.base[key][0].float()
                tensors, formula, bias = maker(base, Random(self.choice.randrange(10**6)))
                if self.dtype == torch.float16:
                    tensors = in_half(tensors)
                tensors = {name: value.to(layer.weight.device) for name, value in tensors.items()}
                network.modules[key] = make_module(network, tensors)
                formulas[key] = (formula, bias)
            self.networks.append(network)
            self._formulas.append(formulas)
        self.wanted = {}

    def change_model(self) -> None:
        self.engine.settle()
        self.model = next(each for each in self.models if each is not self.model)
        self.engine.park(self.model, self.model.layers.values())
        self.change_networks()

    def change_policy(self) -> None:
        self.engine.unbind()
        self.engine.policy = self.choice.choice([*Policy])

    def move_parameters(self) -> None:
        """As a host that makes room does: away and back, to other places in memory."""
        moved = self.choice.sample([*self.model.layers.values()], self.choice.randint(1, len(KEYS)))
        if self.device.type == "cpu":
            for layer in moved:
                for parameter in layer.parameters():
                    parameter.data = parameter.data.clone()
            return
        self.engine.settle()
        for layer in moved:
            layer.to("cpu")
        for layer in moved:
            layer.to(self.device)

    def end_pass(self) -> None:
        self.engine.end_pass(names_are_true=False)

    def settle(self) -> None:
        self.engine.settle()

    def load_anew(self) -> None:
        """The extension is unloaded and loaded again."""
        self.engine.release()
        self._expect_pristine("after being unloaded")
        self.engine = self._make_engine()
        self.wanted = {}

    def switch(self) -> float:
        """Seconds that a switch to other strengths took."""
        count = len(self.networks)
        steps = (0.0, 0.0, 1.0, 0.5, -0.7)
        rows = [tuple(self.choice.choice(steps) for _ in range(count)) for _ in range(self.choice.randint(1, 4))]
        groups = {key: self.choice.randrange(len(rows)) for key in self.model.layers}
        self.wanted = {key: rows[group] for key, group in groups.items()}
        names = tuple((net.name, 1.0, 1.0, None) for net in self.networks)
        clock = time.perf_counter if self.device.type == "cuda" else time.thread_time  # whoever else needs the CPU
        begun = clock()
        messages = self.engine.bind(self.model, self.model.layers, self.networks).messages
        self.engine.manual_lora_update(Coefficients(groups, rows), names)
        took = clock() - begun
        if messages or self.engine.failed:
            self._fault(f"messages {messages}, failed {self.engine.failed}")
        return took

    def compare(self) -> None:
        """Every weight with the formula, as the host has it: each network sees what those before it have left."""
        floor = 1e-7 if self.dtype == torch.bfloat16 else 0.0
        for key, layer in self.model.layers.items():
            total, bias = (value.double() for value in self.model.base[key])
            for formulas, coefficient in zip(self._formulas, self.wanted[key], strict=True):
                if key in formulas:
                    formula, added = formulas[key]
                    total = total + coefficient * formula(total)
                    bias = bias if added is None else bias + coefficient * added.double()
            distance = max(
                ulp_distance(layer.weight, total.to(self.dtype), floor),
                ulp_distance(layer.bias, bias.to(self.dtype), floor),
            )
            self.report.worst_ulp = max(self.report.worst_ulp, distance)
            if distance > 1:
                self._fault(f"{key}: {distance} units in the last place off at {self.wanted[key]}")
        self.report.comparisons += 1

    def go_home(self) -> None:
        """Everything off."""
        names = tuple((net.name, 1.0, 1.0, None) for net in self.networks)
        self.engine.bind(self.model, self.model.layers, self.networks)
        self.engine.manual_lora_update(dict.fromkeys(self.model.layers, (0.0,) * len(self.networks)), names)
        self._expect_pristine("with everything off")

    def _expect_pristine(self, when: str) -> None:
        self.report.pristine += 1
        if differing := self.model.differences():
            self._fault(f"not pristine {when}: {differing}")

    def _fault(self, what: str) -> None:
        networks = [net.name for net in self.networks]
        self.report.faults.append(f"switch {self.report.switches}, {networks}, {self.engine.policy.value}: {what}")

    def run(self, switches: int, seconds: float) -> Report:
        begun, happened, times = time.perf_counter(), Counter[str](), []
        window = min(max(switches // WINDOWS, 1), LONGEST_WINDOW)
        for number in range(1, switches + 1):
            if time.perf_counter() - begun > seconds:
                break
            for event, share in self.events:
                if self.choice.random() < share:
                    event()
                    happened[event.__name__] += 1
            times.append(self.switch())
            self.report.switches += 1
            if self.choice.random() < 0.005:
                self.compare()
            if self.choice.random() < 0.005:
                self.go_home()
            if number % window == 0:
                self.report.windows.append(self._window(times))
                times.clear()
                print(self.report.windows[-1], len(self.report.faults), flush=True)
        self.report.events = dict(sorted(happened.items()))
        self.report.seconds = round(time.perf_counter() - begun, 1)
        return self.report

    def _window(self, times: list[float]) -> Window:
        gc.collect()
        status = Path("/proc/self/statm").read_text().split()
        return Window(
            self.report.switches, round(statistics.median(times) * 1e6, 1),
            round(int(status[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
            round(torch.cuda.memory_allocated() / 1e6, 2) if self.device.type == "cuda" else 0.0,
            len(os.listdir("/proc/self/fd")), sum(not each.name.startswith(STAGING) for each in threading.enumerate()),
        )  # fmt: skip


def growth(windows: list[Window]) -> list[str]:
    """What is larger or slower at the end than it was before: the last quarter beside the second."""
    quarter = len(windows) // 4
    before, after = windows[quarter : 2 * quarter], windows[-quarter:]
    found = []
    for name, allowed in ALLOWED_GROWTH.items():
        least, most = (statistics.median(getattr(window, name) for window in part) for part in (before, after))
        if most - least > allowed:
            found.append(f"{name} went from {least} to {most}")
    slow, fast = (statistics.median(window.switch_us for window in part) for part in (after, before))
    if slow > ALLOWED_SLOWDOWN * fast:
        found.append(f"a switch took {fast} us, and {slow} us at the end")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--switches", type=int, default=1_000_000 if torch.cuda.is_available() else 100_000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which it ends, wherever it is")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SWITCHES} switches")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    soak = Soak(options.seed, device, getattr(torch, options.dtype))
    report = soak.run(QUICK_SWITCHES if options.quick else options.switches, options.minutes * 60)
    is_long = len(report.windows) >= WINDOWS and not options.quick
    grown = growth(report.windows) if is_long else []
    print(f"{report.switches} switches in {report.seconds} s; {report.events}")
    print(f"{report.comparisons} comparisons, worst {report.worst_ulp} units in the last place")
    print(f"{report.pristine} comparisons with the model's own weights, bit for bit")
    print(f"growth: {grown or 'none'}" if is_long else "too short to tell what grows")
    for fault in [*report.faults[:20], *grown]:
        print(f"FAULT: {fault}")
    if options.json:
        options.json.write_text(json.dumps(asdict(report) | {"grown": grown}, indent=1))
    sys.exit(bool(report.faults or grown))


if __name__ == "__main__":
    main()
