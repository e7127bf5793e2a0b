"""What a switch costs: ours, its rivals and the floor; and what a generation costs beside its switches.

The floor is set by memory; all is measured in one run on the same layers.

    python -m tests.bench.switch [--scale 1] [--repeat 9] [--delta 0.04] [--only switches|generations] [--json FILE]

Runs where torch runs; the figures that count are those of a CUDA GPU with scale 1, which is SDXL's U-Net in fp16.
``--scale N`` divides the widths by N, to try the script on a CPU, which works in float32.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lbw.engine.base_weights import Policy
from lbw.plan.plan import Coefficients
from tests.bench import cold
from tests.bench.sdxl_shapes import attention_layers, other_layers
from tests.unit.networks import Network, lora_engine, random_network

Layers = dict[str, nn.Module]
Switch = Callable[[float], Any]
"""Brings all weights to a strength."""


@dataclass(frozen=True)
class Case:
    """Which layers change, and by how many networks of which rank."""

    name: str
    rank: int
    networks: int = 1
    with_convolutions: bool = False


WEIGHT = 0.02
"""The root mean square of the weights."""

CASES = (
    Case("attention, rank 32", 32),
    Case("attention, rank 128", 128),
    Case("attention, 4 networks of rank 32", 32, networks=4),
    Case("all layers, rank 32", 32, with_convolutions=True),
)


class Bench:
    """The device, and how to time a thing to its completion there."""

    def __init__(self, scale: int, repeat: int, delta: float = 0.04) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.float16 if self.device == "cuda" else torch.float32
        self.scale, self.repeat, self.delta = scale, repeat, delta

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name() if self.device == "cuda" else "CPU"

    def layers(self, case: Case) -> Layers:
        layers: Layers = {name: self._linear(out, into) for name, out, into in attention_layers()}
        if case.with_convolutions:
            for name, out, into, kernel in other_layers():
                layers[name] = self._convolution(out, into, kernel) if kernel else self._linear(out, into)
        for layer in layers.values():
            nn.init.normal_(layer.weight, std=WEIGHT)
            layer.requires_grad_(False)
        return layers

    def _linear(self, out: int, into: int) -> nn.Module:
        return nn.Linear(self._scaled(into), self._scaled(out), bias=False, device=self.device, dtype=self.dtype)

    def _convolution(self, out: int, into: int, kernel: int) -> nn.Module:
        options = {"bias": False, "device": self.device, "dtype": self.dtype}
        return nn.Conv2d(self._scaled(into), self._scaled(out), kernel, padding=kernel // 2, **options)

    def _scaled(self, width: int) -> int:
        return max(width // self.scale, 1)

    def networks(self, case: Case, layers: Layers, first_seed: int = 0) -> list[Network]:
        options = {"rank": case.rank, "dtype": self.dtype, "size": 2 * self.delta * WEIGHT}
        seeds = range(first_seed, first_seed + case.networks)
        return [random_network(f"bench{seed}", layers, seed=seed, **options) for seed in seeds]

    def once(self, work: Callable[[], Any]) -> float:
        """The wall time of ``work`` until the device is done."""
        self.finish()
        start = time.perf_counter()
        work()
        self.finish()
        return time.perf_counter() - start

    def seconds(self, work: Callable[[], Any]) -> tuple[float, float]:
        """The median wall time of ``work`` until the device is done, and until the call returns, after a first run."""
        walls, returns = [], []
        for _ in range(self.repeat + 1):
            self.finish()
            start = time.perf_counter()
            work()
            returns.append(time.perf_counter() - start)
            self.finish()
            walls.append(time.perf_counter() - start)
        return statistics.median(walls[1:]), statistics.median(returns[1:])

    def finish(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def gpu_memory(self) -> int:
        """Bytes of GPU memory in use; what only reference cycles keep is not."""
        gc.collect()
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0


class Alternating:
    """Strength 1 and 0.5 in turn: every call is a switch, and none is a mere copy."""

    def __init__(self, switch: Switch) -> None:
        self.switch, self.strength = switch, 0.5

    def __call__(self) -> None:
        self.strength = 1.5 - self.strength
        self.switch(self.strength)


class Ours:
    """Our engine, all of whose networks change together."""

    def __init__(self, layers: Layers, networks: list[Network], **options: Any) -> None:
        self.layers, self.networks = layers, networks
        self.engine = lora_engine(device=next(iter(layers.values())).weight.device, **options)
        self.names = tuple((net.name, 1.0, 1.0, None) for net in networks)
        self.groups = dict.fromkeys(layers, 0)  # as a plan has them, which is made once in a pass

    def __call__(self, strength: float) -> None:
        self.engine.bind(self, self.layers, self.networks)
        self.engine.manual_lora_update(Coefficients(self.groups, [(strength,) * len(self.networks)]), self.names)

    def idle(self) -> None:
        """What a step without a change does."""
        assert self.engine.is_bound_to(self, self.networks) and self.engine.holds(self.names)


def host_repatch(layers: Layers, networks: list[Network]) -> Switch:
    """The host's way: each layer is restored from a CPU copy, then each delta is added; the factors lie on the CPU."""
    backups = {name: layer.weight.to("cpu", copy=True) for name, layer in layers.items()}

    def switch(strength: float) -> None:
        for name, layer in layers.items():
            layer.weight.copy_(backups[name])
            for up, down, scale in factors(networks, name):
                delta = (up.to(layer.weight.device) @ down.to(layer.weight.device)) * scale * strength
                layer.weight.copy_(layer.weight + delta.reshape(layer.weight.shape))

    return switch


def subtraction(layers: Layers, networks: list[Network], device: str) -> Switch:
    """The published fix: the delta is added to, or subtracted from, the weight as it is. It drifts by rounding."""
    on_device = {name: list(factors(networks, name, device)) for name in layers}

    def switch(strength: float) -> None:
        for name, layer in layers.items():
            for up, down, scale in on_device[name]:
                delta = (up.to(layer.weight.device) @ down.to(layer.weight.device)) * scale
                layer.weight.add_(delta.reshape(layer.weight.shape), alpha=0.5 if strength == 1.0 else -0.5)

    return switch


def addmm(layers: Layers, networks: list[Network], device: str) -> Switch:
    """One ``addmm_`` a layer and network, factors on the device. It drifts by rounding, too."""
    on_device = [
        (layer.weight.view(layer.weight.shape[0], -1), list(factors(networks, name, device)))
        for name, layer in layers.items()
    ]

    def switch(strength: float) -> None:
        for weight, all_factors in on_device:
            for up, down, scale in all_factors:
                weight.addmm_(up, down, alpha=scale * (0.5 if strength == 1.0 else -0.5))

    return switch


def factors(networks: list[Network], name: str, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor, float]]:
    for network in networks:
        module = network.modules[name]
        up, down = module.up_model.weight.flatten(1), module.down_model.weight.flatten(1)
        yield up.to(device), down.to(device), module.calc_scale()


def copies(layers: Layers) -> Switch:
    """All weights copied back from copies on the device, in one call."""
    weights = [layer.weight for layer in layers.values()]
    backups = [weight.clone() for weight in weights]
    return lambda _strength: torch._foreach_copy_(weights, backups)


def copy_floor(layers: Layers) -> Callable[[], Any]:
    """Reading and writing as many bytes as the weights have, in one copy."""
    weights = [layer.weight for layer in layers.values()]
    source = torch.zeros(sum(weight.numel() for weight in weights), dtype=weights[0].dtype, device=weights[0].device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def rivals(bench: Bench, layers: Layers, networks: list[Network]) -> Iterator[tuple[str, Callable[[], Switch]]]:
    yield "ours, gpu", lambda: Ours(layers, networks, policy=Policy.GPU)
    if bench.device == "cuda":
        yield "ours, lean", lambda: Ours(layers, networks, policy=Policy.LEAN)
        yield "ours, ram", lambda: Ours(layers, networks, policy=Policy.RAM)
        yield "ours, layer by layer", lambda: Ours(layers, networks, is_grouping=False)
    yield "copies from the device", lambda: copies(layers)
    yield "addmm_, factors on the device", lambda: addmm(layers, networks, bench.device)
    yield "subtraction, factors on the device", lambda: subtraction(layers, networks, bench.device)
    yield "subtraction, factors on the CPU", lambda: subtraction(layers, networks, "cpu")
    yield "the host's re-patch", lambda: host_repatch(layers, networks)


def measure_case(bench: Bench, case: Case) -> dict[str, Any]:
    layers = bench.layers(case)
    networks = bench.networks(case, layers)
    floor, _ = bench.seconds(copy_floor(layers))
    rows = [{"what": "copy floor", "ms": floor * 1e3, "times_floor": 1.0, "cpu_ms": 0.0, "gpu_mb": 0.0}]
    for what, make in rivals(bench, layers, networks):
        forget(layers)
        before = bench.gpu_memory()
        switch = Alternating(make())
        wall, cpu = bench.seconds(switch)
        held = (bench.gpu_memory() - before) / 1e6
        rows.append({"what": what, "ms": wall * 1e3, "times_floor": wall / floor, "cpu_ms": cpu * 1e3, "gpu_mb": held})
        del switch
    weights = sum(layer.weight.numel() for layer in layers.values())
    return {"case": case.name, "layers": len(layers), "weights": weights, "rows": rows}


def forget(layers: Layers) -> None:
    """Take away what an engine, or a host, left on the layers."""
    for layer in layers.values():
        for name in ("network_current_names", "network_weights_backup", "network_bias_backup"):
            layer.__dict__.pop(name, None)


def measure_details(bench: Bench) -> dict[str, float]:
    """What surrounds a switch: the first LoRA, steps without a change, a curve, and memory."""
    layers = bench.layers(CASES[0])
    networks = bench.networks(CASES[0], layers)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
    bench.finish()
    start = time.perf_counter()
    ours = Ours(layers, networks)
    ours(1.0)
    bench.finish()
    details = {"first_lora_ms": (time.perf_counter() - start) * 1e3}
    details["host_ram_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss) / 1024
    if bench.device == "cuda":
        details["gpu_memory_mb"] = (torch.cuda.memory_allocated() - allocated) / 1e6
        details["gpu_peak_mb"] = (torch.cuda.max_memory_allocated() - allocated) / 1e6
    wall, _ = bench.seconds(Alternating(ours))
    curve = iter(range(1, 10**6))
    curve_wall, _ = bench.seconds(lambda: ours(next(curve) / 1000))
    details["curve_step_times_switch"] = curve_wall / wall
    _, idle = bench.seconds(ours.idle)
    details["idle_step_us"] = idle * 1e6
    return details


def cold_policies(bench: Bench) -> tuple[Policy, ...]:
    return (Policy.GPU, Policy.LEAN, Policy.RAM) if bench.device == "cuda" else (Policy.AUTO,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--delta", type=float, default=0.04, help="size of a LoRA's delta relative to the weights")
    parser.add_argument("--only", choices=("switches", "generations"), help="one of the two tables")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bench = Bench(options.scale, options.repeat, options.delta)
    print(f"{bench.device_name}, {bench.dtype}, widths / {options.scale}, torch {torch.__version__}")
    report: dict[str, Any] = {"device": bench.device_name, "dtype": str(bench.dtype), "scale": options.scale}
    report["cases"] = []
    with torch.no_grad():
        for case in CASES if options.only != "generations" else ():
            result = measure_case(bench, case)
            report["cases"].append(result)
            print(f"\n{result['case']}: {result['layers']} layers, {result['weights'] / 1e9:.3f} B weights")
            for row in result["rows"]:
                figures = f"{row['ms']:10.2f} ms{row['times_floor']:9.2f} x floor{row['cpu_ms']:9.2f} ms CPU"
                print(f"  {row['what']:36}{figures}{row['gpu_mb']:9.0f} MB")
        if options.only != "generations":
            report["details"] = measure_details(bench)
            print("\nattention, rank 32:")
            for what, value in report["details"].items():
                print(f"  {what:36}{value:10.2f}")
        if options.only != "switches":
            report["generations"] = [
                cold.measure(bench, case, policy) for case in CASES for policy in cold_policies(bench)
            ]
            cold.show(report["generations"])
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
