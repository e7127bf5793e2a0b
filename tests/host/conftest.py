from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from torch import Tensor

from tests.host.checkpoints import switch, with_channels, write_checkpoint
from tests.host.lora_files import attention_layers, conv_layers, write_lora
from tests.host.measure import Recording, changed_layers, copy_weights, recording
from tests.host.webui import STAND_IN, WebUI
from tests.server import write_demo


@pytest.fixture(scope="session")
def webui() -> WebUI:
    return WebUI(Path(os.environ["WEBUI_DATA"]))


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Connection"] = "close"  # a busy server may close a kept one just when it is used again
        yield session


@dataclass
class Bench:
    """A WebUI with LoRA files whose deltas are known, and the weights it started with."""

    webui: WebUI
    base: dict[str, Tensor]
    base_biases: dict[str, Tensor]
    deltas: dict[str, dict[str, Tensor]]

    def layers(self) -> dict[str, Any]:
        return self.webui.layers()

    def record(self, *names: str, args: list[Any] | None = None, **fields: Any) -> tuple[Any, Recording]:
        """Generate, and record the strengths of ``names`` at each evaluation."""
        with recording(self.webui, self.base, {name: self.deltas[name] for name in names}) as record:
            result = self.webui.generate(args, **fields)
        return result, record

    def require_sampler(self, name: str, scheduler: str = "Automatic") -> None:
        """Skip the test on a host that has no such sampler, or no choice of schedulers."""
        from modules import sd_samplers

        has_choice = hasattr(self.webui.processing.StableDiffusionProcessing, "scheduler")
        if name not in sd_samplers.all_samplers_map or (scheduler != "Automatic" and not has_choice):
            pytest.skip(f"this host has no {name}, {scheduler}")

    def not_on_forge(self, reason: str) -> None:
        """Skip the test on a host of the Forge family."""
        if self.webui.is_forge:
            pytest.skip(f"the Forge family: {reason}")

    def differences_from_base(self) -> list[str]:
        """The layers whose weight or bias is not bit-equal to what it was at the start."""
        layers = self.layers()
        return changed_layers(layers, self.base) + changed_layers(layers, self.base_biases, "bias")


def write_test_loras(folder: Path, layers: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    attention = attention_layers(layers)
    return {
        "t_lora": write_lora(folder / "t_lora.safetensors", attention, seed=1),
        "t_lora2": write_lora(folder / "t_lora2.safetensors", attention, seed=2, rank=8, alpha=8),
        "t_locon": write_lora(folder / "t_locon.safetensors", attention | conv_layers(layers), seed=3),
        "t_mid": write_lora(folder / "t_mid.safetensors", attention | conv_layers(layers), seed=4, mid=True),
    }


@pytest.fixture(scope="session")
def _bench(webui: WebUI) -> Bench:
    layers = webui.layers()
    return Bench(webui, copy_weights(layers), copy_weights(layers, "bias"), write_test_loras(webui.lora_folder, layers))


@pytest.fixture
def bench(_bench: Bench) -> Iterator[Bench]:
    """The bench, left without LoRAs: a test must not depend on what an earlier one left in the weights."""
    yield _bench
    _bench.webui.generate(prompt="nothing", steps=1)
    assert _bench.differences_from_base() == []


@pytest.fixture
def quick_unet(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A U-Net of one operation, for tests that count steps or look at weights, and not at what layers compute."""
    model = bench.webui.shared.sd_model
    unet = model.forge_objects_original.unet.model if bench.webui.is_forge else model.model
    monkeypatch.setattr(unet.diffusion_model, "forward", lambda x, *_args, **_named: x * 0.5)


@pytest.fixture
def comments() -> Callable[[Any], str]:
    return lambda processed: processed.comments or ""


@pytest.fixture
def option(bench: Bench) -> Iterator[Callable[..., None]]:
    """Change settings for the length of a test; one that this host does not have is left out."""
    options = bench.webui.shared.opts
    before: dict[str, Any] = {}

    def set_options(**values: Any) -> None:
        for name, value in values.items():
            if not hasattr(options, name):
                continue
            before.setdefault(name, getattr(options, name))
            options.data[name] = value

    yield set_options
    for name, value in before.items():
        options.data[name] = value


@pytest.fixture(scope="session")
def _rarer_checkpoints(webui: WebUI) -> None:
    from modules import sd_models

    if Path(sd_models.__file__).is_relative_to(STAND_IN):
        write_demo(webui.data, "--rarer")
        sd_models.list_models()
        return
    classes = {"inpainting": "ldm.models.diffusion.ddpm.LatentInpaintDiffusion"}
    classes["edit"] = "modules.models.diffusion.ddpm_edit.LatentDiffusion"
    for family, channels in (("inpainting", 9), ("edit", 8)):
        if not any(family in title for title in sd_models.checkpoints_list):
            write_checkpoint(webui, family, *with_channels(channels, classes[family]))


@pytest.fixture
def checkpoints(bench: Bench, _rarer_checkpoints: None) -> Iterator[list[str]]:
    """The titles of all checkpoints, those of the rarer families among them; afterwards the first one is back."""
    from modules import sd_models

    first = bench.webui.shared.sd_model.sd_checkpoint_info
    yield list(sd_models.checkpoints_list)
    switch(first)
