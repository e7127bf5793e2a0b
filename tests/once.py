"""One image, and what happened in each of its steps; then the same image by the host's own slow path.

    bash tests/demo.sh --once "PROMPT" [--steps N] [--sampler S] [--seed N] [--image FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.demo_model import scenes
from tests.host.measure import Strengths, changed_layers, copy_weights, restore_counter, strengths
from tests.host.real_host import PROJECT
from tests.host.webui import WebUI


def deltas_of(network: Any) -> dict[str, torch.Tensor]:
    """{layer: the network's delta at strength 1}, by the host's own formula, float64."""
    plain = copy.copy(network)
    plain.te_multiplier = plain.unet_multiplier = 1.0
    deltas = {}
    for key, module in network.modules.items():
        module = copy.copy(module)
        module.network = plain
        updown, _bias = module.calc_updown(module.sd_module.weight.detach())
        deltas[key] = updown.detach().cpu().double()
    return deltas


class Watch:
    """Looks at the weights in each step of a generation."""

    def __init__(self, webui: WebUI) -> None:
        self.webui = webui
        self.base = copy_weights(webui.layers())
        self.steps: dict[int, dict[str, Any]] = {}
        self._deltas: dict[str, dict[str, torch.Tensor]] = {}
        self._session: Any = None
        self._step = 0
        self._updates_seen = 0

    def before_evaluation(self, params: Any) -> None:
        from lbw.hosts.hooks import session_of  # can be imported once a host runs
        from lbw.hosts.serving import adapter

        denoiser = self.webui.denoiser(params)
        self._session = session_of(denoiser.p)
        self._step = adapter.solver_step(denoiser, params.sampling_step)

    def after_evaluation(self, restored: int) -> None:
        """Takes down the step: the strengths after the model ran are those that it ran with."""
        networks = {net.name: net for net in self.webui.networks.loaded_networks}
        for name, net in networks.items():
            if name not in self._deltas:
                self._deltas[name] = deltas_of(net)
        layers = self.webui.layers()
        found = strengths(layers, self.base, {name: self._deltas[name] for name in networks})
        updates = [] if self._session is None else self._session.updates[self._updates_seen :]
        self._updates_seen += len(updates)
        row = self.steps.setdefault(
            self._step,
            {"step": self._step, "strength": {}, "layers_updated": 0, "switch_ms": 0.0, "host_layers_restored": 0},
        )
        row["strength"] = rounded(found)
        row["layers_updated"] += sum(update.layers_updated for update in updates)
        row["switch_ms"] = round(row["switch_ms"] + sum(update.seconds for update in updates) * 1000, 3)
        row["host_layers_restored"] += restored

    def is_base_restored(self) -> bool:
        return not changed_layers(self.webui.layers(), self.base)


def number(value: float) -> float:
    """Three decimals, and no -0."""
    return round(value, 3) + 0.0


def rounded(found: Strengths) -> dict[str, dict[str, Any]]:
    """One number for a block; a pair where its layers differ."""
    return {
        name: {
            block: number(least) if greatest - least < 1e-3 else [number(least), number(greatest)]
            for block, (least, greatest) in sorted(blocks.items())
        }
        for name, blocks in found.items()
    }


def summary(blocks: dict[str, Any]) -> str:
    """``IN01-IN08 0, M00 1``: neighbours with the same strength together."""
    groups: list[tuple[str, str, Any]] = []
    for block, value in blocks.items():
        if groups and groups[-1][2] == value:
            groups[-1] = (groups[-1][0], block, value)
        else:
            groups.append((block, block, value))
    return ", ".join(f"{first if first == last else f'{first}-{last}'} {value}" for first, last, value in groups)


def generate(webui: WebUI, prompt: str, watch: Watch, **fields: Any) -> Any:
    with (
        restore_counter(webui) as counter,
        webui.observing(watch.before_evaluation, before=True),
        webui.observing(lambda _params: watch.after_evaluation(counter.take())),
    ):
        return webui.generate(prompt=prompt, **fields)


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'step':>4} {'updated':>8} {'ms':>8} {'host':>5}  strength in force, measured from the weights")
    for row in rows:
        head = f"{row['step']:4} {row['layers_updated']:8} {row['switch_ms']:8.1f} {row['host_layers_restored']:5}"
        for name, blocks in row["strength"].items() or [("no LoRA", {})]:
            print(f"{head}  {name}: {summary(blocks)}")
            head = " " * len(head)


def main() -> None:
    parser = argparse.ArgumentParser(prog="demo.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--once", metavar="PROMPT", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler", default="Euler a")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--image", type=Path, default=PROJECT / "tests" / "webui" / "data" / "once.png")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    webui = WebUI(PROJECT / "tests" / "webui" / "data")
    from tests.host import slow_path

    size = {"width": scenes.SIDE, "height": scenes.SIDE}
    fields = {"steps": options.steps, "sampler_name": options.sampler, "seed": options.seed, **size}
    watch = Watch(webui)
    result = generate(webui, options.once, watch, **fields)
    result.images[0].save(options.image)
    slow = slow_path.generate(webui, options.once, **fields)
    difference = int(np.abs(np.asarray(result.images[0]).astype(int) - np.asarray(slow.images[0])).max())
    webui.generate(prompt="", steps=1)
    rows = [watch.steps[step] for step in sorted(watch.steps)]
    report = {"steps": rows, "max_pixel_difference": difference, "base_restored": watch.is_base_restored()}
    print_table(rows)
    for line in (result.comments or "").splitlines():
        print(f"message: {line}")
    print(f"image: {options.image}")
    print(f"largest pixel difference to the host's own slow path: {difference} of 255")
    print(f"base weights restored bit for bit: {report['base_restored']}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
