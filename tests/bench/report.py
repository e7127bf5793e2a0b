"""One table of all network types: how far from float64 on the CPU and on a CUDA GPU, and what a switch costs.

    python -m tests.bench.report [--layers 70] [--scale 1] [--repeat 5] [--only NAME]

Exactness is the greatest distance in units in the last place over float16, bfloat16 and float32, over the kinds of
layer that the type has, and over the strengths 1, 0.5 and -0.7; "back" says whether strength 0 gives the pristine
weights bit for bit. The cost is that of one switch of so many linear layers of SDXL's attention, and beside it that of
a plain LoRA of the same rank and layers. ``--scale N`` divides their widths by N. Types of norms change no such layer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from tests.bench.sdxl_shapes import attention_layers
from tests.bench.types import switch_times
from tests.host.network_files import LINEAR, MAKERS, Random, in_half
from tests.unit.host_modules import layer_for, make_module
from tests.unit.networks import Network, lora_engine
from tests.unit.ulp import ulp_distance

KEY = "diffusion_model_input_blocks_4_1_proj_in"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PLAIN = "peft"
"""The type that the others are compared with."""


def network_for(kind: str, layers: dict[str, nn.Module]) -> Network:
    network = Network(kind)
    for number, (key, layer) in enumerate(layers.items()):
        weight = layer.weight.detach().cpu().float()
        tensors, _formula, _bias = MAKERS[kind][0](weight, Random(number))
        if layer.weight.dtype == torch.float16:
            tensors = in_half(tensors)
        network.modules[key] = make_module(network, tensors)
    return network


def exactness(kind: str, device: str) -> str:
    """The greatest distance from the formula in float64, in words."""
    worst, is_back = 0, True
    for layer_kind in MAKERS[kind][1]:
        for dtype in DTYPES:
            torch.manual_seed(1)
            layer = layer_for(layer_kind).to(device, dtype)
            base = layer.weight.detach().cpu().clone()
            _tensors, formula, _bias = MAKERS[kind][0](base.float(), Random(0))
            network = network_for(kind, {KEY: layer})
            engine = lora_engine(device=torch.device(device))
            engine.bind(layer, {KEY: layer}, [network])
            for strength in (1.0, 0.5, -0.7):
                engine.manual_lora_update({KEY: (strength,)}, ((kind, 1.0, 1.0, None),))
                wanted = (base.double() + strength * formula(base.double())).to(dtype)
                # What is left of a sum that nearly cancels out has more digits in bfloat16 than float32 can sum up.
                worst = max(worst, ulp_distance(layer.weight, wanted, 1e-7 if dtype == torch.bfloat16 else 0.0))
            engine.manual_lora_update({KEY: (0.0,)}, ((kind, 1.0, 1.0, None),))
            is_back = is_back and layer.weight.cpu().equal(base)
    return f"{worst} ulp, {'back' if is_back else 'NOT back'}"


def switch(kind: str, layers: dict[str, nn.Module], device: str, repeat: int) -> float:
    """The least time of one switch of all layers, in ms; a type's factors are uploaded before the clock runs."""
    engine, network = lora_engine(device=torch.device(device)), network_for(kind, layers)
    engine.bind(network, layers, [network])
    return min(switch_times(engine, layers, device, repeat)[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=70)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", default="", help="types whose name has this in it")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = list(attention_layers())
    layers = {}
    for name, out, into in shapes[:: max(1, len(shapes) // options.layers)][: options.layers]:
        layers[name] = nn.Linear(into // options.scale, out // options.scale, device=device, dtype=torch.float16)
        nn.init.normal_(layers[name].weight, std=0.02)
        layers[name].requires_grad_(False)
    print(f"{'type':16} {'on the CPU':>15} {'on CUDA':>15} {f'switch ({device})':>16} {'x LoRA':>8}")
    switch(PLAIN, layers, device, options.repeat)  # warm up
    plain = switch(PLAIN, layers, device, options.repeat)
    for kind, (_maker, kinds) in MAKERS.items():
        if options.only not in kind:
            continue
        on_cuda = exactness(kind, "cuda") if device == "cuda" else "no GPU"
        took = switch(kind, layers, device, options.repeat) if LINEAR in kinds else None
        cost = f"{took:13.2f} ms {took / plain:8.1f}" if took is not None else f"{'-':>16} {'-':>8}"
        print(f"{kind:16} {exactness(kind, 'cpu'):>15} {on_cuda:>15} {cost}", flush=True)


if __name__ == "__main__":
    main()
