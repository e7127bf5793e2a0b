"""What one switch costs: ours, the host's re-patch, the published in-place subtraction, and the floor that memory sets.

    python -m tests.bench.switch [--rank 32] [--scale 1] [--repeat 5] [--json FILE]

Runs where torch runs; the figures that count are those of a CUDA GPU with scale 1, which is SDXL's U-Net. All figures
of a run are taken in turn on the same layers. ``--scale N`` divides the width by N, to try the script on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lbw.engine import LoraEngine
from tests.bench.sdxl_shapes import attention_layers
from tests.unit.networks import Network, random_network


class Setting:
    """The layers, one network, and a way to time a thing to its completion on the device."""

    def __init__(self, device: str, dtype: torch.dtype, rank: int, scale: int) -> None:
        self.device = device
        self.layers: dict[str, nn.Module] = {}
        for name, out, into in attention_layers():
            layer = nn.Linear(into // scale, out // scale, bias=False, device=device, dtype=dtype)
            nn.init.normal_(layer.weight, std=0.02)
            self.layers[name] = layer.requires_grad_(False)
        self.network = random_network("bench", self.layers, rank=rank, dtype=dtype, device=device)
        self.weights = sum(layer.weight.numel() for layer in self.layers.values())
        self.bytes = sum(layer.weight.nbytes for layer in self.layers.values())

    def seconds(self, work: Callable[[], Any], repeat: int) -> float:
        """The median wall time of ``work``, after one run that does not count."""
        times = []
        for _ in range(repeat + 1):
            self._finish()
            start = time.perf_counter()
            work()
            self._finish()
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    def _finish(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class Alternating:
    """Strength 1 and 0 in turn, so that every call is a switch."""

    def __init__(self, switch: Callable[[float], Any]) -> None:
        self.switch, self.strength = switch, 0.0

    def __call__(self) -> None:
        self.strength = 1.0 - self.strength
        self.switch(self.strength)


def ours(setting: Setting) -> Callable[[float], None]:
    engine = LoraEngine()
    engine.bind(setting, setting.layers, [setting.network])

    def switch(strength: float) -> None:
        engine.manual_lora_update(dict.fromkeys(setting.layers, (strength,)), (("bench", 1.0, 1.0, None),))

    return switch


def host_repatch(setting: Setting) -> Callable[[float], None]:
    """The host's way: each layer is restored from a CPU copy, then the delta is added; the factors lie on the CPU."""
    backups = {name: layer.weight.to("cpu", copy=True) for name, layer in setting.layers.items()}
    factors = cpu_factors(setting.network)

    @torch.no_grad()
    def switch(strength: float) -> None:
        for name, layer in setting.layers.items():
            layer.weight.copy_(backups[name])
            up, down, scale = factors[name]
            delta = (up.to(setting.device) @ down.to(setting.device)) * scale * strength
            layer.weight.copy_(layer.weight.to(delta.dtype) + delta)

    return switch


def in_place_subtraction(setting: Setting) -> Callable[[float], None]:
    """The published fix: the delta is added to, or subtracted from, the weight as it is. It drifts by rounding."""
    factors = cpu_factors(setting.network)

    @torch.no_grad()
    def switch(strength: float) -> None:
        sign = 1.0 if strength else -1.0
        for name, layer in setting.layers.items():
            up, down, scale = factors[name]
            layer.weight.add_((up.to(setting.device) @ down.to(setting.device)) * scale, alpha=sign)

    return switch


def cpu_factors(network: Network) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    return {
        key: (module.up_model.weight.cpu(), module.down_model.weight.cpu(), module.calc_scale())
        for key, module in network.modules.items()
    }


def floor(setting: Setting) -> Callable[[], None]:
    """Reading and writing as many bytes as the weights have, in one copy."""
    size = setting.bytes // 2
    source = torch.zeros(size, dtype=torch.float16, device=setting.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure(setting: Setting, repeat: int) -> list[dict[str, Any]]:
    rows = []
    base = setting.seconds(floor(setting), repeat)
    rows.append({"what": "copy floor", "milliseconds": base * 1e3, "times_floor": 1.0})
    for what, make in (
        ("our switch", ours),
        ("in-place subtraction", in_place_subtraction),
        ("host's re-patch", host_repatch),
    ):
        seconds = setting.seconds(Alternating(make(setting)), repeat)
        rows.append({"what": what, "milliseconds": seconds * 1e3, "times_floor": seconds / base})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    setting = Setting(device, dtype, options.rank, options.scale)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, {dtype}, {len(setting.layers)} layers, {setting.weights / 1e9:.3f} B weights, rank {options.rank}")
    rows = measure(setting, options.repeat)
    for row in rows:
        print(f"{row['what']:24} {row['milliseconds']:10.2f} ms {row['times_floor']:8.2f} x floor")
    if options.json:
        head = {"device": name, "dtype": str(dtype), "layers": len(setting.layers), "weights": setting.weights}
        options.json.write_text(json.dumps({**head, "rank": options.rank, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
