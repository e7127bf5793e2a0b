"""What curves cost in a generation of SDXL's shape: strengths that change at each step, against strengths that do not.

    python -m tests.bench.generation --curves [--scale 1] [--steps 30] [--repeat 5] [--json FILE]

Needs torch and nothing of a host. A session switches the layers of SDXL's U-Net; between two switches all its matrix
products, convolutions and attentions are computed as an image of 1024 x 1024 needs them, with and without prompt. What
else a U-Net does is left out, so a step takes less time than a real one, and the shares are upper bounds.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lbw.engine.engine import LoraEngine
from lbw.generation.session import Session
from lbw.tags.library import Library
from lbw.tags.presets import DEFAULT_PRESETS, parse_presets
from lbw.tags.prompt import parse
from tests.bench.sdxl_shapes import TEXT_WIDTH
from tests.bench.switch import Bench, Case
from tests.unit.networks import lora_engine
from tests.unit.session_host import SessionHost

LATENT_WIDTH = 128
PROMPT_TOKENS = 77
IMAGES = 2
"""With and without prompt."""
HEAD_WIDTH = 64

CURVE = "0.2@0,1@0.5,0.3@1"
_BLOCKS_IN = ",".join(["1"] * 10 + ["0.2"] * 10)
_BLOCKS_OUT = ",".join(["0.2"] * 10 + ["1"] * 10)

CASES: dict[str, tuple[str, ...]] = {
    # {what: the arguments of each LoRA tag}; the first of its count is what the others are compared with
    "1 LoRA": ("0.8",),
    "1 LoRA, curve": (CURVE,),
    "1 LoRA, curve of blocks": (f"0.8:lbw={_BLOCKS_IN}@0,{_BLOCKS_OUT}@0.5,{_BLOCKS_IN}@1",),
    "1 LoRA, stops halfway": ("0.8:stop=0.5",),
    "3 LoRAs": ("0.8", "0.6", "0.4"),
    "3 LoRAs, curve on one": (CURVE, "0.6", "0.4"),
    "3 LoRAs, curve on each": (CURVE, "0.6@0,0.1@1", "0@0.2,0.4@0.8"),
}


def width_at(layer: str, scale: int) -> int:
    """The width of the latent image, in its pixels, where a layer works."""
    downwards = {"input_blocks": (1, 1, 1, 2, 2, 2, 4, 4, 4), "output_blocks": (4, 4, 4, 2, 2, 2, 1, 1, 1)}
    for kind, factors in downwards.items():
        if f"_{kind}_" in layer:
            number = int(layer.partition(f"_{kind}_")[2].partition("_")[0])
            factor = factors[number]
            if layer.endswith("_2_conv"):  # behind the block's enlargement
                factor //= 2
            return max(LATENT_WIDTH // scale // factor, 1)
    return max(LATENT_WIDTH // scale // (4 if "middle_block" in layer else 1), 1)


class Evaluation:
    """One evaluation of the model: every layer with an input of its own, and the attentions between them."""

    def __init__(self, layers: Mapping[str, nn.Module], bench: Bench) -> None:
        self._work: list[tuple[nn.Module | None, tuple[Tensor, ...]]] = []
        inputs: dict[tuple[int, ...], Tensor] = {}

        def made(*shape: int) -> Tensor:
            if shape not in inputs:
                inputs[shape] = torch.randn(shape, device=bench.device, dtype=bench.dtype)
            return inputs[shape]

        text_width = max(TEXT_WIDTH // bench.scale, 1)
        for name, layer in layers.items():
            width = width_at(name, bench.scale)
            if isinstance(layer, nn.Conv2d):
                self._work.append((layer, (made(IMAGES, layer.in_channels, width, width),)))
                continue
            is_of_prompt = "attn2_to_k" in name or "attn2_to_v" in name
            tokens = PROMPT_TOKENS if is_of_prompt else width * width
            if "emb" in name:
                tokens = 1
            self._work.append((layer, (made(IMAGES, tokens, layer.in_features),)))
            assert not is_of_prompt or layer.in_features == text_width
            if name.endswith("_to_out_0"):
                heads = max(layer.in_features // HEAD_WIDTH, 1)
                head = layer.in_features // heads
                others = PROMPT_TOKENS if "attn2" in name else tokens
                query, key = made(IMAGES, heads, tokens, head), made(IMAGES, heads, others, head)
                self._work.append((None, (query, key, key)))

    def __call__(self) -> None:
        for layer, inputs in self._work:
            if layer is None:
                nn.functional.scaled_dot_product_attention(*inputs)
            else:
                layer(*inputs)


def generate(host: SessionHost, engine: LoraEngine, tags: Sequence[str], steps: int, evaluate: Evaluation) -> int:
    """One generation. Returns in how many steps weights were written."""
    session = Session(host, engine, Library(parse_presets(DEFAULT_PRESETS)[0], {}), lambda message: None)
    requests = [
        parse([net.name, *tag.split(":")], session.warn) for net, tag in zip(host.loaded, tags, strict=True)
    ]
    session.begin_pass(requests, 0, steps)
    for step in range(steps):
        session.step(step, steps, float)
        evaluate()
    session.end()
    return sum(update.layers_updated > 0 for update in session.updates)


def measure(bench: Bench, steps: int) -> list[dict[str, Any]]:
    """Cases in turn, round by round: a GPU's clock changes by more than a switch costs, so each one is compared with
    the reference of its own round."""
    case = Case("all layers, rank 32", 32, networks=3, with_convolutions=True)
    layers = bench.layers(case)
    networks = bench.networks(case, layers)
    evaluate, rows = Evaluation(layers, bench), []
    for count in sorted({len(tags) for tags in CASES.values()}):
        cases = {what: tags for what, tags in CASES.items() if len(tags) == count}
        host, engine = SessionHost(layers, networks[:count]), lora_engine(device=torch.device(bench.device))
        seconds: dict[str, list[float]] = {what: [] for what in cases}
        switches = {}
        for _ in range(bench.repeat + 1):
            for what, tags in cases.items():
                bench.finish()
                start = time.perf_counter()
                switches[what] = generate(host, engine, tags, steps, evaluate)
                bench.finish()
                seconds[what].append(time.perf_counter() - start)
        engine.release()
        reference, *_ = (all_seconds[1:] for all_seconds in seconds.values())
        for what, (_first, *others) in seconds.items():
            cost = statistics.median(other - plain for other, plain in zip(others, reference, strict=True))
            total, plain = statistics.median(others), statistics.median(reference)
            rows.append({
                "what": what, "total_ms": total * 1e3, "step_ms": total / steps * 1e3, "switches": switches[what],
                "cost_ms": cost * 1e3, "cost_percent": cost / plain * 100,
                "switch_ms": cost / switches[what] * 1e3 if switches[what] else 0.0,
            })
    return rows


def main(scale: int, steps: int, repeat: int, file: Path | None) -> None:
    bench = Bench(scale, repeat)
    began = time.perf_counter()
    with torch.no_grad():
        rows = measure(bench, steps)
    print(f"{bench.device_name}, {bench.dtype}, widths / {scale}, torch {torch.__version__}: {steps} steps")
    print(f"{'':28}{'generation':>14}{'a step':>12}{'switches':>10}{'cost':>12}{'':>9}{'a switch':>12}")
    for row in rows:
        print(f"{row['what']:28}{row['total_ms']:11.1f} ms{row['step_ms']:9.2f} ms{row['switches']:10.0f}"
              f"{row['cost_ms']:9.1f} ms{row['cost_percent']:8.2f} %{row['switch_ms']:9.2f} ms")
    print(f"measured in {time.perf_counter() - began:.0f} s")
    if file:
        report = {"device": bench.device_name, "scale": scale, "steps": steps, "rows": rows}
        file.write_text(json.dumps(report, indent=1))
