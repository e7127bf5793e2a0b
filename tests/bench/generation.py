"""What LoRAs cost in whole generations: the start, each step, and the memory; ours against the host's own way.

    python -m tests.bench.generation [--model sdxl] [--steps 20] [--repeat 3] [--json FILE]
    python -m tests.bench.generation --curves [--scale 1] [--steps 30] [--repeat 3] [--json FILE]

Runs on the stand-in WebUI, with narrow models, on the CPU or on a CUDA GPU: the number of layers is the real one, the
sampling itself is far cheaper. So seconds are those of bookkeeping, and the shares of a generation are upper bounds.
``--curves`` is another measurement, of SDXL's real shape and without a WebUI: see tests/bench/curves.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from tests.bench import curves
from tests.host.measure import restore_counter
from tests.host.slow_path import generate as generate_by_host
from tests.host.webui import WebUI

MODELS = {"sd1": ("demo-sd1", "demo"), "sdxl": ("demo-sdxl", "demo_sdxl")}


@dataclass
class Timing:
    """One generation. Times are in seconds."""

    total: float = 0.0
    start: float = 0.0
    """Until the first model evaluation begins."""
    steps: list[float] = field(default_factory=list)
    """Spent in step callbacks, ours and the host's, for each evaluation."""
    restored: int = 0
    """Layers that the host re-patched."""


class Clock:
    """Times a generation at the host's own hooks."""

    def __init__(self, webui: WebUI) -> None:
        self.webui = webui

    def time(self, generate: Any) -> Timing:
        timing = Timing()
        with restore_counter(self.webui) as counter, self._callbacks_timed(timing):
            began = time.perf_counter()
            with self.webui.observing(lambda _params: self._first(timing, began), before=True):
                generate()
            timing.total = time.perf_counter() - began
            timing.restored = counter.take()
        return timing

    @staticmethod
    def _first(timing: Timing, began: float) -> None:
        timing.start = timing.start or time.perf_counter() - began

    @contextmanager
    def _callbacks_timed(self, timing: Timing) -> Iterator[None]:
        from lbw.generation.session import Session  # can be imported once a host runs

        step = Session.step

        def timed(session: Session, *args: Any) -> None:
            began = time.perf_counter()
            step(session, *args)
            timing.steps.append(time.perf_counter() - began)

        Session.step = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            Session.step = step  # type: ignore[method-assign]


def cases(lora: str, steps: int) -> dict[str, str]:
    """{what: prompt}."""
    return {
        "no LoRA": "a red cat",
        "LoRA, one strength": f"a red cat <lora:{lora}:1>",
        "LoRA, by block": f"a red cat <lora:{lora}:1:lbw=OUTD>",
        "LoRA, stops halfway": f"a red cat <lora:{lora}:1:lbw=OUTD:stop={steps // 2}>",
    }


def row(what: str, first: Timing, further: list[Timing]) -> dict[str, Any]:
    callbacks = [seconds for timing in further for seconds in timing.steps]
    return {
        "what": what,
        "first_start_ms": first.start * 1e3,
        "further_start_ms": statistics.median(timing.start for timing in further) * 1e3,
        "further_total_ms": statistics.median(timing.total for timing in further) * 1e3,
        "idle_step_us": statistics.median(callbacks) * 1e6 if callbacks else 0.0,
        "longest_step_ms": max(callbacks) * 1e3 if callbacks else 0.0,
        "host_layers_restored": sum(timing.restored for timing in further) / len(further),
    }


def measure(webui: WebUI, lora: str, steps: int, repeat: int) -> list[dict[str, Any]]:
    clock, rows = Clock(webui), []
    fields = {"steps": steps, "sampler_name": "Euler"}
    webui.generate(prompt="a red cat", **fields)
    for what, prompt in cases(lora, steps).items():
        webui.generate(args=["", False], prompt="a red cat", steps=1)
        timings = [clock.time(lambda prompt=prompt: webui.generate(prompt=prompt, **fields)) for _ in range(repeat + 1)]
        rows.append(row(what, timings[0], timings[1:]))
    webui.generate(args=["", False], prompt="a red cat", steps=1)
    prompt = list(cases(lora, steps).values())[-1]
    timings = [clock.time(lambda: generate_by_host(webui, prompt, **fields)) for _ in range(repeat + 1)]
    rows.append(row("the last by the host's own re-patch", timings[0], timings[1:]))
    return rows


def memory_of_backups(webui: WebUI) -> dict[str, int]:
    """Bytes of backups by device."""
    sizes: dict[str, int] = {}
    for layer in webui.shared.sd_model.network_layer_mapping.values():
        for name in ("network_weights_backup", "network_bias_backup"):
            backup = layer.__dict__.get(name)
            for part in backup if isinstance(backup, tuple) else (backup,):
                if isinstance(part, torch.Tensor):
                    sizes[part.device.type] = sizes.get(part.device.type, 0) + part.nbytes
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), default="sdxl")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--curves", action="store_true", help="what curves cost, in SDXL's real shape")
    parser.add_argument("--scale", type=int, default=1, help="divides all widths, for --curves on a CPU")
    options = parser.parse_args()
    if options.curves:
        curves.main(options.scale, options.steps or 30, options.repeat, options.json)
        return
    options.steps = options.steps or 20
    checkpoint, lora = MODELS[options.model]
    with tempfile.TemporaryDirectory(prefix="webui-") as folder:
        webui = WebUI(Path(folder))
        from modules import sd_models

        sd_models.load_model(next(info for name, info in sd_models.checkpoints_list.items() if checkpoint in name))
        webui.generate(prompt=f"a red cat <lora:{lora}:1>", steps=1)
        ours = memory_of_backups(webui)
        rows = measure(webui, lora, options.steps, options.repeat)
        webui.generate(args=["", False], prompt="a red cat", steps=1)
        webui.generate(args=["", False], prompt=f"a red cat <lora:{lora}:1>", steps=1)
        hosts = memory_of_backups(webui)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    layers = len(webui.shared.sd_model.network_layer_mapping)
    print(f"{device}, {checkpoint}: {layers} layers, {options.steps} steps")
    heads = ("first start", "start", "total", "idle step", "longest step", "by host")
    print(f"{'':36}" + "".join(f"{head:>14}" for head in heads))
    for each in rows:
        print(
            f"{each['what']:36}{each['first_start_ms']:11.1f} ms{each['further_start_ms']:11.1f} ms"
            f"{each['further_total_ms']:11.1f} ms{each['idle_step_us']:11.1f} us{each['longest_step_ms']:11.2f} ms"
            f"{each['host_layers_restored']:14.0f}"
        )
    print(f"backups: ours {ours}, the host's {hosts} bytes")
    if options.json:
        head = {"device": device, "model": checkpoint, "layers": layers, "steps": options.steps}
        options.json.write_text(json.dumps({**head, "rows": rows, "backups": {"ours": ours, "host": hosts}}, indent=1))


if __name__ == "__main__":
    main()
