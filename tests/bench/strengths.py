"""How long it takes to measure a network file's strengths: SDXL's shapes, all layers with a weight matrix.

    python -m tests.bench.strengths [--rank 32] [--scale 1] [--repeat 5] [--json FILE]

``--scale N`` divides the widths by N. Reading is what safetensors does, without the modules that the host makes of it.
The first measurement computes the norms of the weights too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lbw.engine.meter import StrengthMeter
from lbw.engine.strengths import Strengths
from lbw.pictures import png
from lbw.pictures.strengths import draw
from tests.bench.sdxl_shapes import attention_layers, other_layers
from tests.unit.networks import Network, NetworkModuleLora


def sdxl_layers(scale: int, device: str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Random layers of SDXL's shapes, in the model's own type."""
    layers: dict[str, nn.Module] = {}
    for name, out, into in attention_layers():
        layers[name] = nn.Linear(into // scale, out // scale, bias=False, device="meta")
    for name, out, into, kernel in other_layers():
        out, into = max(out // scale, 4), max(into // scale, 4)
        layers[name] = (
            nn.Conv2d(into, out, kernel, bias=False, device="meta")
            if kernel
            else nn.Linear(into, out, bias=False, device="meta")
        )
    for layer in layers.values():
        layer.to_empty(device=device).to(dtype).requires_grad_(False)
        layer.weight.normal_(std=0.02)
    return layers


def write(path: Path, layers: dict[str, nn.Module], rank: int) -> None:
    tensors = {}
    for name, layer in layers.items():
        out, into, *kernel = layer.weight.shape
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, rank, *[1] * len(kernel)).half() * 0.01
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, into, *kernel).half()
    save_file(tensors, path)


def read(path: Path, layers: dict[str, nn.Module]) -> Network:
    network, tensors = Network("bench"), load_file(path)
    for name in layers:
        up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
        network.modules[name] = NetworkModuleLora(network, name, up, down, len(down))
    return network


def make_png(strengths: Strengths) -> bytes:
    return png(draw(strengths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = sdxl_layers(options.scale, device, torch.float16)
    meter = StrengthMeter()
    times: dict[str, list[float]] = {}

    def timed(name: str, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        times.setdefault(name, []).append((time.perf_counter() - start) * 1000)
        return result

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.safetensors"
        write(path, layers, options.rank)
        timed("the first file of a model", meter.measure, read(path, layers), layers)
        for _ in range(options.repeat):
            network = timed("reading the file", read, path, layers)
            strengths = timed("norms", meter.measure, network, layers)
            timed("picture", make_png, strengths)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{len(layers)} layers, rank {options.rank}, widths / {options.scale}, {device}, ms")
    for name, value in medians.items():
        print(f"{name:28}{value:10.1f}")
    if options.json:
        options.json.write_text(json.dumps({"device": device, **vars(options), "json": None, "ms": medians}, indent=1))


if __name__ == "__main__":
    main()
