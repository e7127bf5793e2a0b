"""What one switch costs for each network type, against a plain LoRA of the same layers.

    python -m tests.bench.types [--scale 1] [--repeat 5] [--policy gpu]

``--scale N`` divides the widths by N, to try the script on a CPU. ``--policy`` says where the pristine weights are; OFT
and BOFT are written together where they have copies on the GPU, with ``gpu``. A type's factors are uploaded before the
clock runs; the first switch, which does that, has a column of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lbw.engine.base_weights import Policy
from lbw.engine.engine import LoraEngine
from tests.bench.sdxl_shapes import attention_layers
from tests.unit.host_modules import make_module
from tests.unit.networks import Network, lora_engine

Maker = Callable[[int, int, Callable[..., Tensor]], dict[str, Tensor]]
"""(outputs, inputs, a source of random tensors) -> a file's tensors for a linear layer."""


def lora(rank: int) -> Maker:
    return lambda out, into, random: {"lora_up.weight": random(out, rank), "lora_down.weight": random(rank, into)}


def loha(rank: int) -> Maker:
    return lambda out, into, random: {
        "hada_w1_a": random(out, rank), "hada_w1_b": random(rank, into),
        "hada_w2_a": random(out, rank), "hada_w2_b": random(rank, into),
    }


def lokr(factor: int, rank: int | None) -> Maker:
    def make(out: int, into: int, random: Callable[..., Tensor]) -> dict[str, Tensor]:
        small = {"lokr_w1": random(factor, factor)}
        if rank is None:
            return small | {"lokr_w2": random(out // factor, into // factor)}
        return small | {"lokr_w2_a": random(out // factor, rank), "lokr_w2_b": random(rank, into // factor)}

    return make


def glora(out: int, into: int, random: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {"a1.weight": random(32, into), "a2.weight": random(into, 32), "b1.weight": random(32, into),
            "b2.weight": random(out, 32)}


TYPES: dict[str, Maker] = {
    "LoRA, rank 32": lora(32),
    "LoRA, rank 128": lora(128),
    "LoHa, rank 4": loha(4),
    "LoHa, rank 8": loha(8),
    "LoHa, rank 11": loha(11),
    "LoHa, rank 16": loha(16),
    "LoKr, factor 8, rank 4": lokr(8, 4),
    "LoKr, factor 8, rank 16": lokr(8, 16),
    "LoKr, factor 8, whole": lokr(8, None),
    "Full": lambda out, into, random: {"diff": random(out, into)},
    "IA3": lambda out, into, random: {"weight": random(1, into), "on_input": torch.tensor(1)},
    "GLoRA, rank 32": glora,
    "OFT, blocks of 8": lambda out, into, random: {"oft_blocks": random(out // 8, 8, 8)},
    "OFT, 4 blocks": lambda out, into, random: {"oft_blocks": random(4, out // 4, out // 4)},
    "BOFT, 3 stages of 8": lambda out, into, random: {"oft_blocks": random(3, out // 8, 8, 8)},
    "DoRA, rank 32": lambda out, into, random: lora(32)(out, into, random) | {"dora_scale": random(1, into) + 1},
}


def bench(
    make: Maker, layers: dict[str, nn.Module], device: str, dtype: torch.dtype, repeat: int, policy: Policy
) -> tuple[float, float]:
    """The time of the first switch, and the median of later ones, in ms."""
    generator = torch.Generator(device).manual_seed(1)

    def random(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator, device=device) * 0.02).to(dtype).cpu()

    network = Network("bench")
    for key, layer in layers.items():
        network.modules[key] = make_module(network, make(*layer.weight.shape, random))
    engine = lora_engine(policy, device=torch.device(device))
    messages = engine.bind(network, layers, [network]).messages
    assert messages == (), messages
    times = switch_times(engine, layers, device, repeat)
    return times[0], statistics.median(times[2:])


def switch_times(engine: LoraEngine, layers: dict[str, nn.Module], device: str, repeat: int) -> list[float]:
    """The time of each switch of all layers of a bound engine, in ms; the first two set things up.

    The engine is released.
    """
    times = []
    for i in range(repeat + 2):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        update = engine.manual_lora_update(dict.fromkeys(layers, (0.5 + i,)), (("bench", 1.0, 1.0, None),))
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1000)
        assert update.layers_updated == len(layers)
    engine.release()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", default="", help="types whose name has this in it")
    parser.add_argument("--policy", type=Policy, choices=[*Policy], default=Policy.AUTO, metavar="POLICY")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    layers = {
        name: nn.Linear(into // options.scale, out // options.scale, bias=False, device=device, dtype=dtype)
        for name, out, into in attention_layers()
    }
    for layer in layers.values():
        nn.init.normal_(layer.weight, std=0.02)
        layer.requires_grad_(False)
    plain, rows = 0.0, []
    for name, make in TYPES.items():
        if options.only in name:
            first, took = bench(make, layers, device, dtype, options.repeat, options.policy)
            plain = plain or took
            rows.append({"what": name, "first_ms": first, "ms": took, "times_lora": took / plain})
            print(f"{name:28} first {first:9.2f} ms, then {took:9.2f} ms  {took / plain:6.1f} x", flush=True)
    if options.json:
        head = {"device": device, "dtype": str(dtype), "policy": options.policy.value}
        options.json.write_text(json.dumps({**head, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
