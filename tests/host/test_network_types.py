"""Every network type the host can load follows blocks and steps, exactly, without the host's re-patch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lbw.tags.families import SD1, is_text_encoder
from tests.host import slow_path
from tests.host.conftest import Bench
from tests.host.measure import OUTPUT_BLOCKS, copy_weights, messages, restore_counter
from tests.host.network_files import MAKERS, Formula, write_network
from tests.host.test_isolation import difference
from tests.unit.ulp import ulp_distance

Formulas = Mapping[str, tuple[Formula, Tensor | None]]

TRAINED = re.compile(
    r"(input_blocks_4|middle_block|output_blocks_5|transformer_text_model_encoder_layers_0)_.*"
    r"(attn[12]_to_(q|k|v|out_0)|ff_net_2|proj_in|_layers_[023]|skip_connection|norm[123]?|mlp_fc1|q_proj|layer_norm1)$"
)
"""Some layers of each kind, in one input block, one output block and the text encoder."""

STOP = 3

NOISE = 1e-15
"""Where a sum cancels out, all its digits are those that float64 rounded."""


def trained_layers(bench: Bench) -> dict[str, nn.Module]:
    return {
        name: layer
        for name, layer in bench.layers().items()
        if TRAINED.search(name) and getattr(layer, "weight", None) is not None
    }


def write(bench: Bench, kind: str, seed: int = 11) -> Formulas:
    formulas = write_network(bench.webui.lora_folder / f"t_{kind}.safetensors", kind, trained_layers(bench), seed)
    assert formulas
    return formulas if not bench.webui.is_forge else by_the_host(bench, f"t_{kind}")


def by_the_host(bench: Bench, name: str) -> Formulas:
    """What the host's own merge does, as this family has formulas of its own; of layers that are at work last."""
    from lbw.hosts.forge.adapter import merge
    from lbw.hosts.forge.networks import entries_of
    from lbw.hosts.serving import adapter

    adapter.network_names(renewed=True)
    network = adapter.read_network(adapter.network_file(name))
    if not network.patches:
        pytest.skip("the Forge family: this host loads no such file")

    def formula(patches: list[Any], weight: Tensor) -> Tensor:
        with torch.inference_mode():
            return merge(entries_of(patches, 1.0), weight.float()).double() - weight.float().double()

    return {
        layer: (partial(formula, parameters["weight"]), None)
        for layer, parameters in network.patches.items()
        if "weight" in parameters and not is_text_encoder(layer)
    }


class Watch:
    """The weights and biases that each evaluation computed with, of the layers that networks touch."""

    def __init__(self, bench: Bench, names: set[str]) -> None:
        self.bench = bench
        self.names = sorted(names)
        self.weights: list[dict[str, Tensor]] = []
        self.biases: list[dict[str, Tensor]] = []

    def __call__(self, _params: Any) -> None:
        layers = {name: self.bench.layers()[name] for name in self.names}
        self.weights.append({name: layer.weight.detach().cpu().clone() for name, layer in layers.items()})
        self.biases.append(copy_weights(layers, "bias"))


def expected(base: Tensor, terms: list[tuple[float, Formula]]) -> Tensor:
    weight = base.double()
    for coefficient, formula in terms:
        weight = weight + coefficient * formula(weight)
    return weight.to(base.dtype)


def is_near(bench: Bench, weight: Tensor, wanted: Tensor) -> bool:
    """To one unit in the last place; what the host has made in float32, to what that leaves of it."""
    if bench.webui.is_forge:
        return torch.allclose(weight, wanted, rtol=1e-6, atol=1e-6)
    return ulp_distance(weight, wanted, NOISE) <= 1


@pytest.mark.parametrize("kind", MAKERS)
def test_a_type_follows_blocks_and_steps_exactly(bench: Bench, kind: str):
    formulas = write(bench, kind)
    before = bench.base_biases
    watch = Watch(bench, set(formulas))
    with restore_counter(bench.webui) as counter, bench.webui.observing(watch):
        result = bench.webui.generate(prompt=f"a red cat <lora:t_{kind}:-0.7:lbw={OUTPUT_BLOCKS}:stop={STOP}>", steps=5)
        assert counter.take() == 0, "the host re-patched"
    assert messages(result) == []
    touched = 0
    for step, (weights, seen_biases) in enumerate(zip(watch.weights, watch.biases, strict=True)):
        for name, weight in weights.items():
            base = bench.base[name]
            formula, bias = formulas[name]
            text_encoder = not name.startswith("diffusion_model")
            on = (SD1.block_of(name) or "").startswith("OUT") and step < STOP
            if text_encoder or on:  # the preset's BASE is 1, and no schedule switches the text encoder
                touched += 1
                assert is_near(bench, weight, expected(base, [(-0.7, formula)])), name
                if bias is not None:
                    wanted = (before[name].double() - 0.7 * bias).to(before[name].dtype)
                    assert ulp_distance(seen_biases[name], wanted) <= 1, name
            else:
                assert weight.equal(base), name
                assert name not in before or seen_biases[name].equal(before[name]), name
    assert touched


@pytest.mark.parametrize("ratio", ["0", "0.5", "1"])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_ratio_is_the_hosts_multiplier(bench: Bench, kind: str, ratio: str):
    """The image is that of the host doing all the work, with the ratio as its multiplier."""
    write(bench, kind)
    prompt = f"a red cat <lora:t_{kind}:1:lbw={','.join([ratio] * 26)}>"
    ours = bench.webui.generate(prompt=prompt, steps=3)
    assert difference(ours, slow_path.generate(bench.webui, prompt, steps=3)) <= 1
    plain = bench.webui.generate(prompt="a red cat", steps=3)
    assert (difference(ours, plain) == 0) == (ratio == "0")


PAIRS = [("lokr", "full_bias"), ("peft", "ia3"), ("ia3", "peft"), ("dora", "loha"), ("full", "boft"), ("oft", "glora")]


@pytest.mark.parametrize("pair", PAIRS, ids=" then ".join)
def test_two_types_on_one_layer_follow_the_order_of_the_tags(bench: Bench, pair: tuple[str, str]):
    first, second = (write(bench, kind, seed) for seed, kind in enumerate(pair))
    both = first.keys() & second.keys()
    assert both
    watch = Watch(bench, both)
    prompt = f"a red cat <lora:t_{pair[0]}:0.8:start=1> <lora:t_{pair[1]}:-0.5:stop=2>"
    with restore_counter(bench.webui) as counter, bench.webui.observing(watch):
        bench.webui.generate(prompt=prompt, steps=3)
        assert counter.take() == 0, "the host re-patched"
    unet = [name for name in watch.names if name.startswith("diffusion_model")]
    for step, weights in enumerate(watch.weights):
        for name in unet:
            terms = [(0.8, first[name][0])] * (step >= 1) + [(-0.5, second[name][0])] * (step < 2)
            assert is_near(bench, weights[name], expected(bench.base[name], terms)), (step, name)


def misfits(bench: Bench, kind: str) -> tuple[str, str]:
    """Two layers of the type that have no side in common."""
    names = list(write(bench, kind))
    shapes = {name: bench.base[name].shape for name in names}
    sides = {name: {*shape[:2], shape[1:].numel()} for name, shape in shapes.items()}
    return next((a, b) for a in names for b in names if not (sides[a] & sides[b]) - {1})


@pytest.mark.parametrize("kind", MAKERS)
def test_a_part_for_another_layer_is_left_out_by_name_and_the_rest_works(bench: Bench, kind: str):
    layers = bench.layers()
    wrong, right = misfits(bench, kind)
    path = bench.webui.lora_folder / f"t_{kind}.safetensors"
    write_network(path, kind, {wrong: layers[right], right: layers[right]}, seed=1)
    watch = Watch(bench, {wrong, right})
    with restore_counter(bench.webui) as counter, bench.webui.observing(watch):
        result = bench.webui.generate(prompt=f"a red cat <lora:t_{kind}:1:lbw={','.join(['1'] * 26)}>", steps=1)
        assert counter.take() == 0, "the host re-patched"
    assert result.comments.count(f"<lora:t_{kind}>") == 1 and f"first {wrong}" in result.comments
    assert watch.weights[0][wrong].equal(bench.base[wrong])
    assert not watch.weights[0][right].equal(bench.base[right])


def test_a_layer_keeps_its_parameters(bench: Bench):
    """Other extensions hold on to them."""
    write(bench, "full_bias")
    layers = trained_layers(bench)
    parameters = {name: (layer.weight, layer.bias) for name, layer in layers.items()}
    bench.webui.generate(prompt="a red cat <lora:t_full_bias:1:stop=2>", steps=3)
    for name, layer in layers.items():
        assert layer.weight is parameters[name][0] and layer.bias is parameters[name][1]
