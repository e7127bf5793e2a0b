"""What a cell of a plot costs over an image whose weights stay as they are.

    python -m tests.bench.plots [--model sdxl] [--cells 12] [--steps 16] [--json FILE]

Runs on the stand-in WebUI, with narrow models, on the CPU or on a CUDA GPU: the number of layers is the real one, the
sampling itself is far cheaper.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from tests.bench.generation import MODELS
from tests.host.measure import replaced
from tests.host.webui import WebUI


@dataclass
class Cost:
    """What several images came to. Times are in seconds."""

    total: float = 0.0
    switching: float = 0.0
    layers: int = 0
    encoded: int = 0
    read: int = 0


def cost_of(webui: WebUI, make: Callable[[], Any]) -> Cost:
    """Time ``make``, and count what it has the engine, the text encoder and the disk do."""
    from lbw.engine.engine import LoraEngine  # can be imported once a host runs
    from modules import prompt_parser

    cost = Cost()

    def noting(note: Callable[[Any], None]) -> Callable[[Any], Any]:
        def wrap(original: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                note(result)
                return result

            return call

        return wrap

    def updated(update: Any) -> None:
        cost.switching += update.seconds
        cost.layers += update.layers_updated

    def encoded(_result: Any) -> None:
        cost.encoded += 1

    def read(_result: Any) -> None:
        cost.read += 1

    with (
        replaced(LoraEngine, "manual_lora_update", noting(updated)),
        replaced(prompt_parser, "get_multicond_learned_conditioning", noting(encoded)),
        replaced(webui.networks, "load_network", noting(read)),
    ):
        began = time.perf_counter()
        make()
        cost.total = time.perf_counter() - began
    return cost


def cases(webui: WebUI, lora: str, cells: int, fields: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """{what: makes ``cells`` images}."""
    values = ",".join(f"{number / cells:.3f}" for number in range(cells))
    tag = f"a red cat <lora:{lora}:1:lbw=XYZ>"

    def plot(*axes: str) -> Callable[[], Any]:
        return lambda: webui.generate(["", True, 1, *axes], prompt=tag, **fields)

    def same() -> None:
        for _ in range(cells):
            webui.generate(prompt=f"a red cat <lora:{lora}:1>", **fields)

    return {
        "one image again and again": same,
        "plot: values in U-Net blocks": plot("values", values, "Block ID", "IN05-OUT05"),
        "plot: values in all blocks but BASE": plot("values", values, "Block ID", "NOT BASE"),
        "plot: stop": plot("stop", ",".join(str(number + 1) for number in range(cells)), "none", ""),
        "plot: values in BASE": plot("values", values, "Block ID", "BASE"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), default="sdxl")
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    checkpoint, lora = MODELS[options.model]
    rows = []
    with tempfile.TemporaryDirectory(prefix="webui-") as folder:
        webui = WebUI(Path(folder))
        from modules import sd_models

        sd_models.load_model(next(info for name, info in sd_models.checkpoints_list.items() if checkpoint in name))
        fields = {"steps": options.steps, "sampler_name": "Euler", "width": 64, "height": 64}
        for what, make in cases(webui, lora, options.cells, fields).items():
            webui.generate(prompt=f"a red cat <lora:{lora}:1>", **fields)
            cost = cost_of(webui, make)
            rows.append({
                "what": what, "image_ms": cost.total / options.cells * 1e3,
                "switching_ms": cost.switching / options.cells * 1e3, "layers": cost.layers / options.cells,
                "encoded": cost.encoded, "files_read": cost.read,
            })
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, {checkpoint}: {options.cells} images of {options.steps} steps")
    print(f"{'':38}{'an image':>14}{'switching':>14}{'layers':>9}{'encoded':>9}{'files read':>12}")
    for row in rows:
        print(
            f"{row['what']:38}{row['image_ms']:11.1f} ms{row['switching_ms']:11.2f} ms{row['layers']:9.0f}"
            f"{row['encoded']:9}{row['files_read']:12}"
        )
    if options.json:
        options.json.write_text(json.dumps({"device": device, "model": checkpoint, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
