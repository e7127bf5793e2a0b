"""On the Forge family: layers whose weights cannot be written get their LoRAs in each forward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.host.conftest import Bench
from tests.host.measure import OUTPUT_BLOCKS

STEPS = 4
LAYERS = {
    "IN04": "diffusion_model_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    "OUT05": "diffusion_model_output_blocks_5_1_transformer_blocks_0_attn1_to_q",
}
CASTS = ("parameters_manual_cast", "ldm_patched_cast_weights")
"""What has a layer cast its weight in each forward; a host has one of them."""


@pytest.fixture
def stored(bench: Bench) -> Iterator[dict[str, Any]]:
    """Layers of an input and of an output block, stored in 8 bits: {block: layer}."""
    if not bench.webui.is_forge:
        pytest.skip("for the Forge family")
    layers = {block: bench.layers()[name] for block, name in LAYERS.items()}
    cast = next((name for name in CASTS if all(hasattr(layer, name) for layer in layers.values())), None)
    if cast is None:
        pytest.skip("this host has no layers that cast their weights")
    weights = {block: layer.weight for block, layer in layers.items()}
    casts = {block: getattr(layer, cast) for block, layer in layers.items()}
    for layer in layers.values():
        setattr(layer, cast, True)
        layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    yield layers
    for block, layer in layers.items():
        assert layer.weight.float().equal(weights[block].to(torch.float8_e4m3fn).float()), "it has been written"
        layer.weight = weights[block]
        setattr(layer, cast, casts[block])


def effective(layer: Any) -> Tensor:
    """The weight that a forward of a layer without bias computes with, float64."""
    with torch.inference_mode():
        assert layer.bias is None
        result: Tensor = layer(torch.eye(layer.weight.shape[1])).T.double()
        return result


def generate(bench: Bench, layers: dict[str, Any], args: list[Any] | None = None, **fields: Any) -> Any:
    """(result, {block: its strength in each step}), as a forward of its layer shows it."""
    deltas = {block: bench.deltas["t_lora"][name] for block, name in LAYERS.items()}
    base = {block: effective(layer) for block, layer in layers.items()}
    found: dict[str, list[float]] = {block: [] for block in layers}

    def note(_params: Any) -> None:
        for block, layer in layers.items():
            change = effective(layer) - base[block]
            found[block].append(round(float((change * deltas[block]).sum() / (deltas[block] ** 2).sum()), 2))

    with bench.webui.observing(note):
        result = bench.webui.generate(args, steps=STEPS, **fields)
    assert all(effective(layer).equal(base[block]) for block, layer in layers.items()), "something is left"
    return result, found


def test_blocks_and_steps_count(bench: Bench, stored: dict[str, Any]):
    result, found = generate(bench, stored, prompt=f"a <lora:t_lora:0.8:lbw={OUTPUT_BLOCKS}:stop=2>")
    assert found == {"IN04": [0] * STEPS, "OUT05": [0.8, 0.8, 0, 0]}
    assert "layers patched in each of their forwards" in result.comments


def test_a_further_pass_and_two_tags(bench: Bench, stored: dict[str, Any]):
    prompt = "a <lora:t_lora:0.5:start=1> <lora:t_lora:0.25>"
    for _ in range(2):
        _result, found = generate(bench, stored, prompt=prompt, n_iter=2)
        assert found == dict.fromkeys(stored, [0.25, 0.75, 0.75, 0.75] * 2)


def test_an_exception_leaves_nothing_behind(bench: Bench, stored: dict[str, Any]):
    base = {block: effective(layer) for block, layer in stored.items()}

    class Stop(BaseException):
        pass

    def stop(_params: Any) -> None:
        raise Stop

    with bench.webui.observing(stop), pytest.raises(Stop):
        bench.webui.generate(prompt="a <lora:t_lora:1:stop=3>", steps=STEPS)
    assert all(effective(layer).equal(base[block]) for block, layer in stored.items())
    _result, found = generate(bench, stored, ["", False], prompt="a cat")
    assert found == dict.fromkeys(stored, [0] * STEPS)
