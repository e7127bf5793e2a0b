from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.host.lora_files import attention_layers, conv_layers, write_lora
from tests.host.measure import Recording, changed_layers, copy_weights, recording
from tests.host.webui import WebUI


@pytest.fixture(scope="session")
def webui() -> WebUI:
    return WebUI(Path(os.environ["WEBUI_DATA"]))


@dataclass
class Bench:
    """A WebUI with LoRA files whose deltas are known, and the weights it started with."""

    webui: WebUI
    base: dict[str, Tensor]
    base_biases: dict[str, Tensor]
    deltas: dict[str, dict[str, Tensor]]

    def layers(self) -> dict[str, Any]:
        return self.webui.shared.sd_model.network_layer_mapping

    def record(self, *names: str, args: list[Any] | None = None, **fields: Any) -> tuple[Any, Recording]:
        """Generate, and record the strengths of ``names`` at each evaluation."""
        with recording(self.webui, self.base, {name: self.deltas[name] for name in names}) as record:
            result = self.webui.generate(args, **fields)
        return result, record

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
    layers = webui.shared.sd_model.network_layer_mapping
    return Bench(webui, copy_weights(layers), copy_weights(layers, "bias"), write_test_loras(webui.lora_folder, layers))


@pytest.fixture
def bench(_bench: Bench) -> Iterator[Bench]:
    """The bench, left without LoRAs: a test must not depend on what an earlier one left in the weights."""
    yield _bench
    _bench.webui.generate(prompt="nothing", steps=1)
    assert _bench.differences_from_base() == []


@pytest.fixture
def comments() -> Callable[[Any], str]:
    return lambda processed: processed.comments or ""
