"""What a start and a switch cost on a CPU, beside a step of the model: SD1's U-Net at its full width, in float32.

    python -m tests.bench.cpu [--rank 32] [--repeat 3] [--latents 64] [--json FILE]

A step is one evaluation with two prompts. The floors are copies of the weights, into memory that is new as a start
needs it, and one float32 ``addmm`` a layer into memory that is there, which is rounded at each sum as ours is not. The
host's way is to restore each layer from its copy and to add the delta. CPU time is of all threads; where others use the
machine, it is to be trusted more than the wall time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lbw.engine.base_weights import Policy
from tests.bench.switch import Ours, factors, forget, host_repatch
from tests.unit.networks import Network, random_network

TEXT_WIDTH, TOKENS = 768, 77


@dataclass
class Row:
    what: str
    seconds: float
    cpu_seconds: float


def timed(what: str, work: Callable[[], Any], repeat: int = 1) -> Row:
    """The median of some runs."""
    times = []
    for _ in range(repeat):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - begun, time.process_time() - cpu_begun))
    walls, cpus = zip(*times, strict=True)
    return Row(what, statistics.median(walls), statistics.median(cpus))


def attended(unet: nn.Module) -> dict[str, nn.Module]:
    """The layers that a LoRA changes as trainers make it by default, by names as the engine takes them."""
    return {
        f"diffusion_model_{name.replace('.', '_')}": module
        for name, module in unet.named_modules()
        if ".attentions." in name and isinstance(module, nn.Linear | nn.Conv2d)
    }


def floors(layers: dict[str, nn.Module], networks: list[Network], repeat: int) -> list[Row]:
    weights = [layer.weight.flatten(1) for layer in layers.values()]
    made = [(up, down) for name in layers for up, down, _scale in factors(networks, name)]
    results = [torch.zeros_like(weight) for weight in weights]

    def add() -> None:
        for weight, (up, down), result in zip(weights, made, results, strict=True):
            torch.addmm(weight, up, down, out=result)

    copies = timed("copies in new memory", lambda: [weight.clone() for weight in weights], repeat)
    return [copies, timed("addmm in float32", add, repeat)]


def measure(rank: int, repeat: int, latents: int) -> list[Row]:
    unet = UNet2DConditionModel(cross_attention_dim=TEXT_WIDTH).requires_grad_(False)
    layers = attended(unet)
    networks = [random_network("bench", layers, rank=rank)]
    inputs = torch.randn(2, 4, latents, latents), torch.tensor(500), torch.randn(2, TOKENS, TEXT_WIDTH)
    unet(*inputs)
    rows = [timed("a step", lambda: unet(*inputs), repeat)]
    rows += floors(layers, networks, repeat)
    ours = Ours(layers, networks, policy=Policy.GPU)
    rows.append(timed("ours: start", lambda: ours(1.0)))
    rows.append(timed("ours: switch", lambda: [ours(0.5), ours(1.0)], repeat))
    rows[-1].seconds, rows[-1].cpu_seconds = rows[-1].seconds / 2, rows[-1].cpu_seconds / 2
    rows.append(timed("ours: off", lambda: ours(0.0)))
    ours.engine.release()
    forget(layers)
    begun = time.perf_counter(), time.process_time()
    switch = host_repatch(layers, networks)
    switch(1.0)
    rows.append(Row("the host: start", time.perf_counter() - begun[0], time.process_time() - begun[1]))
    rows.append(timed("the host: switch", lambda: switch(0.5), repeat))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--latents", type=int, default=64, help="side of the image, divided by 8")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with torch.no_grad():
        rows = measure(options.rank, options.repeat, options.latents)
    step = rows[0]
    print(f"{torch.get_num_threads()} threads, rank {options.rank}")
    print(f"{'':22} {'wall s':>8} {'CPU s':>8} {'of a step (CPU)':>16}")
    for row in rows:
        print(f"{row.what:22} {row.seconds:8.2f} {row.cpu_seconds:8.2f} {row.cpu_seconds / step.cpu_seconds:15.1%}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
