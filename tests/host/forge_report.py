"""What a host of the Forge family does, as facts: run in a process of its own, for the stand-in or a real host.

    PYTHONPATH=.:scripts WEBUI_FAMILY=forge-g1 WEBUI_DATA=FOLDER python -m tests.host.forge_report

It writes one line of JSON, {fact: value}, behind whatever the host has to say. `tests/host/test_forge_stand_in.py` says
what the facts should be.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.host.measure import replaced
from tests.host.webui import WebUI

OFF = ["", False]
"""Our script's arguments with which it leaves everything to the host."""

RANK, ALPHA = 4, 2.0
STEPS = 5
FACTS: list[Callable[[Bench], dict[str, Any]]] = []


def fact(function: Callable[[Bench], dict[str, Any]]) -> Callable[[Bench], dict[str, Any]]:
    FACTS.append(function)
    return function


class Host(WebUI):
    """Notes what there is of a model before the first generation."""

    has_parts_at_first: bool | None = None

    def generate(self, *args: Any, **fields: Any) -> Any:
        if self.has_parts_at_first is None:
            self.has_parts_at_first = hasattr(self.shared.sd_model, "forge_objects")
        return super().generate(*args, **fields)


def file_name(key: str) -> str:
    """The name that kohya's scripts give to a layer of SD1 or SDXL, by its parameter here."""
    layer = key.removesuffix(".weight").replace(".", "_")
    for start, name in (
        ("diffusion_model_", "lora_unet_"), ("clip_l_transformer_", "lora_te1_"), ("clip_g_transformer_", "lora_te2_"),
    ):
        if layer.startswith(start):
            return name + layer.removeprefix(start)
    raise ValueError(key)


class Bench:
    def __init__(self, webui: WebUI) -> None:
        self.webui = webui
        self.made: dict[str, dict[str, Tensor]] = {}
        self.base: dict[str, Tensor] = {}

    def parameters(self) -> dict[str, nn.Parameter]:
        objects = self.webui.shared.sd_model.forge_objects_original
        parts = (objects.unet.model, objects.clip.cond_stage_model)
        return {key: parameter for part in parts for key, parameter in part.named_parameters()}

    def trained(self) -> dict[str, nn.Parameter]:
        """Attention of the U-Net and all text encoders, as kohya's scripts train it."""
        return {
            key: parameter
            for key, parameter in self.parameters().items()
            if key.endswith(".weight") and parameter.ndim == 2 and (".attn" in key or ".self_attn." in key)
        }

    def begin(self, *names: str) -> None:
        """Have the model loaded, and write LoRA files for it, of names that are new: hosts do not read one twice."""
        self.generate("nothing", args=OFF)
        self.base = {key: parameter.detach().clone() for key, parameter in self.parameters().items()}
        for seed, name in enumerate(names):
            self.write(name, seed=seed)
        self.webui.networks.list_available_networks()

    def write(self, name: str, *, seed: int, width: int | None = None, strangers: int = 0) -> None:
        """A LoRA file; with ``width`` outputs in the last of its layers, and with layers that no model has."""
        random = torch.Generator().manual_seed(seed)
        tensors, deltas = {}, {}
        trained = self.trained()
        for key, weight in trained.items():
            out = width if width and key == [*trained][-1] else weight.shape[0]
            up = torch.randn(out, RANK, generator=random) * 0.05
            down = torch.randn(RANK, weight.shape[1], generator=random) * 0.2
            layer = file_name(key)
            tensors |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
            tensors[f"{layer}.alpha"] = torch.tensor(ALPHA)
            deltas[key] = up @ down
        for number in range(strangers):
            tensors[f"lora_unet_stranger_{number}.lora_up.weight"] = torch.ones(2, 2)
        save_file(tensors, self.webui.lora_folder / f"{name}.safetensors")
        self.made[name] = deltas

    def generate(self, prompt: str, **fields: Any) -> Any:
        return self.webui.generate(prompt=prompt, **{"steps": STEPS, **fields})

    def generate_twice(self, prompt: str, **fields: Any) -> Any:
        """With a hires pass. Some hosts fail where these fields are not given."""
        known = {field.name for field in dataclasses.fields(self.webui.processing.StableDiffusionProcessingTxt2Img)}
        needed = {"hr_additional_modules": ["Use same choices"], "hr_cfg": 7.0, "hr_cfg_scale": 7.0}
        fields |= {name: value for name, value in needed.items() if name in known}
        return self.generate(prompt, enable_hr=True, hr_scale=2, **fields)

    def image(self, prompt: str, **fields: Any) -> np.ndarray:
        return np.asarray(self.generate(prompt, **fields).images[0]).astype(int)

    def merged(self, name: str, strength: float) -> dict[str, Tensor]:
        """The weights with a LoRA, computed in float32 and rounded once."""
        scale = strength * (ALPHA / RANK)
        return {
            key: (self.base[key].float() + scale * delta).to(self.base[key].dtype)
            for key, delta in self.made[name].items()
        }

    def is_merged(self, name: str, strength: float) -> bool:
        weights = self.parameters()
        return all(weights[key].equal(value) for key, value in self.merged(name, strength).items())

    def is_pristine(self) -> bool:
        return all(parameter.equal(self.base[key]) for key, parameter in self.parameters().items())

    def strength(self, name: str, part: str = "diffusion_model") -> float:
        """By least squares, of all layers of a part together."""
        weights, above, below = self.parameters(), 0.0, 0.0
        for key, delta in self.made[name].items():
            if key.startswith(part):
                whole = delta.double() * (ALPHA / RANK)
                above += float(((weights[key].double() - self.base[key].double()) * whole).sum())
                below += float((whole * whole).sum())
        return round(above / below, 4) + 0.0

    @contextmanager
    def at_evaluations(self, observer: Callable[[], Any]) -> Iterator[list[Any]]:
        """What ``observer`` says whenever the model has run."""
        from modules import script_callbacks

        seen: list[Any] = []

        def observe(_params: Any) -> None:
            seen.append(observer())

        script_callbacks.on_cfg_after_cfg(observe)
        try:
            yield seen
        finally:
            script_callbacks.remove_callbacks_for_function(observe)


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(abs(one - other).max())


@fact
def host_merges(bench: Bench) -> dict[str, Any]:
    before = {key: id(parameter) for key, parameter in bench.parameters().items()}
    key = next(iter(bench.made["one"]))
    found = []
    for name, strength in (("one", 0.7), ("one", -0.5), ("two", 0.3)):
        with bench.at_evaluations(lambda name=name, strength=strength: bench.is_merged(name, strength)) as seen:
            bench.generate(f"a cat <lora:{name}:{strength}>", args=OFF)
        found += seen
    is_new = id(bench.parameters()[key]) != before[key]
    bench.generate("a cat", args=OFF)
    return {"merged exactly": all(found), "is a new parameter": is_new, "restored": bench.is_pristine()}


@fact
def host_order(bench: Bench) -> dict[str, Any]:
    """Of a hires generation: loading networks, encoding, telling scripts, the first evaluation of a pass."""
    events: list[str] = []
    model, runner = bench.webui.shared.sd_model, bench.webui.scripts.scripts_txt2img

    def note(text: Callable[..., str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                answer = original(*args, **kwargs)
                events.append(text(*args))
                return answer

            return call

        return wrap

    def inside(part: str) -> str:
        found = {name: round(bench.strength(name, part)) for name in ("one", "two")}
        return " and ".join(f"{count} {name}" for name, count in found.items() if count) or "none"

    def sampled() -> None:
        events.append(f"sample with {inside('diffusion_model')}")

    with (
        replaced(bench.webui.networks, "load_networks", note(lambda names, *_: f"load {','.join(names)}")),
        replaced(model, "get_learned_conditioning", note(lambda *_: f"encode with {inside('clip_')}")),
        replaced(runner, "process_before_every_sampling", note(lambda *_: f"tell with {inside('diffusion_model')}")),
        bench.at_evaluations(sampled),
    ):
        bench.generate_twice(
            "a cat <lora:one:1>", hr_prompt="a cat <lora:two:1>", denoising_strength=0.5, args=OFF, steps=1)
    return {"order": events}


@fact
def refused_files(bench: Bench) -> dict[str, Any]:
    plain = bench.image("a cat", args=OFF)
    bench.write("stranger", seed=3, strangers=20)
    bench.webui.networks.list_available_networks()
    with bench.at_evaluations(lambda: bench.strength("stranger")) as seen:
        bench.generate("a cat <lora:stranger:1>", args=OFF)
    return {
        "a missing file costs all": difference(plain, bench.image("a cat <lora:nope:1> <lora:one:1>", args=OFF)) == 0,
        "strength with many strangers": seen[0],
        "lyco works": difference(plain, bench.image("a cat <lyco:one:1>", args=OFF)) > 0,
    }


@fact
def named_twice(bench: Bench) -> dict[str, Any]:
    with bench.at_evaluations(lambda: bench.strength("one")) as seen:
        bench.generate("a cat <lora:one:0.5> <lora:one:0.5>", args=OFF)
    return {"strength when named twice": seen[0]}


@fact
def a_replaced_file(bench: Bench) -> dict[str, Any]:
    bench.write("changing", seed=5)
    bench.webui.networks.list_available_networks()
    bench.generate("a cat <lora:changing:1>", args=OFF)
    bench.write("changing", seed=6)
    with bench.at_evaluations(lambda: bench.is_merged("changing", 0.5)) as seen:
        bench.generate("a cat <lora:changing:0.5>", args=OFF)
    return {"a replaced file is read again": seen[0]}


@fact
def another_width(bench: Bench) -> dict[str, Any]:
    bench.write("wide", seed=4, width=7)
    bench.webui.networks.list_available_networks()
    bench.generate("a cat", args=OFF)
    try:
        bench.generate("a cat <lora:wide:1>", args=OFF)
        failed = False
    except RuntimeError:
        failed = True
    bench.generate("a cat", args=OFF)
    left = bench.is_pristine()
    bench.generate("a cat <lora:one:1>", args=OFF)
    bench.generate("a cat", args=OFF)
    return {"another width raises": failed, "restored after it": left, "restored after another": bench.is_pristine()}


def ours(bench: Bench, tag: str, generate: Callable[..., Any] | None = None, **fields: Any) -> dict[str, Any]:
    with bench.at_evaluations(lambda: bench.strength("one")) as seen:
        result = (generate or bench.generate)(f"a cat {tag}", **fields)
    lines = [line for line in (result.comments or "").splitlines() if "| base weights " not in line]
    return {"strengths": seen, "pristine": bench.is_pristine(), "comments": lines}


@fact
def our_steps(bench: Bench) -> dict[str, Any]:
    from PIL import Image

    start = {"init_images": [Image.new("RGB", (64, 64), (200, 40, 40))], "denoising_strength": 0.99}
    return {
        "stop": ours(bench, "<lora:one:1:stop=3>"),
        "stop, Heun": ours(bench, "<lora:one:1:stop=3>", sampler_name="Heun"),
        "stop, DDIM": ours(bench, "<lora:one:1:stop=3>", sampler_name="DDIM"),
        "stop, img2img": ours(bench, "<lora:one:1:stop=3>", **start),
        "start, hires": ours(
            bench, "<lora:one:0.5:start=1>", bench.generate_twice, denoising_strength=0.9, hr_second_pass_steps=2,
            steps=2),
    }


@fact
def our_images(bench: Bench) -> dict[str, Any]:
    plain, host = (bench.image(f"a cat {tag}", args=OFF) for tag in ("", "<lora:one:1>"))
    made = bench.image("a cat <lora:one:1>")
    again, after = (bench.image(f"a cat {tag}", args=OFF) for tag in ("<lora:one:1>", ""))
    return {
        "the host's LoRA shows": difference(plain, host) > 1, "ours and the host's": difference(made, host),
        "the host's afterwards": difference(again, host), "plain afterwards": difference(after, plain),
    }


@fact
def our_failure(bench: Bench) -> dict[str, Any]:
    """It is closed by nobody, as in the host's X/Y/Z plot, and what follows is without scripts."""
    failing = bench.webui.request(prompt="a cat <lora:two:1:stop=1>", steps=2)
    sample = failing.sample

    def sample_and_break(*args: Any, **kwargs: Any) -> None:
        sample(*args, **kwargs)
        raise RuntimeError("the sampler broke")

    failing.sample = sample_and_break
    with suppress(RuntimeError):
        bench.webui.processing.process_images(failing)
    following = bench.webui.request(prompt="a cat <lora:one:0.5>", steps=1)
    following.scripts = None
    with bench.at_evaluations(lambda: bench.strength("one")) as seen:
        bench.webui.run(following)
    failing.close()
    bench.generate("a cat", args=OFF)
    return {"without scripts after a failure": seen, "pristine after a failure": bench.is_pristine()}


@fact
def sdxl(bench: Bench) -> dict[str, Any]:
    """Last, because it stays loaded."""
    from modules import sd_models

    title = next(title for title in sd_models.checkpoints_list if "sdxl" in title)
    bench.webui.shared.opts.set("sd_model_checkpoint", title)
    big = Bench(bench.webui)
    big.begin("big")
    host = big.image("a cat <lora:big:1>", args=OFF)
    parts = ("diffusion_model", "clip_l", "clip_g")
    with big.at_evaluations(lambda: [big.strength("big", part) for part in parts]) as seen:
        big.generate("a cat <lora:big:1>", args=OFF)
    big.generate("a cat", args=OFF)
    return {
        "sdxl, strengths": seen[0], "sdxl, ours and the host's": difference(big.image("a cat <lora:big:1>"), host),
        "sdxl, pristine": big.is_pristine(),
    }


def report() -> dict[str, Any]:
    torch.set_num_threads(1)
    host = Host(Path(os.environ["WEBUI_DATA"]))
    bench = Bench(host)
    bench.begin("one", "two")
    found: dict[str, Any] = {"has parts at first": host.has_parts_at_first}
    for each in FACTS:
        found |= each(bench)
    return found


if __name__ == "__main__":
    print(json.dumps(report()))
