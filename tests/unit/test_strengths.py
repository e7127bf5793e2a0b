"""Strengths of networks: every type's norm against float64, what counts as the weight, groups, and the picture."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lbw.engine.strengths import Norms, Part, Strengths
from lbw.pictures import Theme, plain, png
from lbw.pictures.strengths import draw, percent
from lbw.tags.elements import ELEMENTS, element_of, parse_rule
from tests.host.network_files import MAKERS, Random
from tests.unit.host_modules import layer_for, make_module
from tests.unit.networks import Network, lora_engine, random_network, small_model, strength_meter
from tests.unit.test_layer_kinds import QkvLinear

CASES = [(kind, layer) for kind, (_maker, layers) in MAKERS.items() for layer in layers]
KEY = "diffusion_model_input_blocks_4_1_proj_in"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_type_has_the_norm_of_its_formula(case: tuple[str, str], device: str, dtype: torch.dtype):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.manual_seed(1)
    layer = layer_for(case[1]).to(device, dtype)
    network = Network(case[0])
    tensors, formula, _bias = MAKERS[case[0]][0](layer.weight.cpu().float(), Random(3))
    network.modules[KEY] = make_module(network, tensors)
    (part,) = strength_meter().measure(network, {KEY: layer}).parts
    weight = layer.weight.cpu().double()
    assert part.norms.delta == pytest.approx(float(formula(weight).norm()), rel=1e-5)
    assert part.norms.weight == pytest.approx(float(weight.norm()), rel=1e-6)


@pytest.mark.parametrize("kind", ["attention", "joint"])
def test_q_k_and_v_are_measured_apart(kind: str):
    torch.manual_seed(2)
    attention = nn.MultiheadAttention(32, 2)
    layer = attention if kind == "attention" else QkvLinear(32, 96)
    weight = attention.in_proj_weight if kind == "attention" else layer.weight
    parts = {f"{KEY}_{part}_proj": nn.Linear(32, 32) for part in ("q", "k", "v", *["out"] * (kind == "attention"))}
    network = random_network("split", parts, seed=1)
    found = {part.key: part.norms for part in strength_meter().measure(network, {KEY: layer}).parts}
    assert list(found) == list(parts)
    for third, part in enumerate("qkv"):
        norms = found[f"{KEY}_{part}_proj"]
        assert norms.delta == pytest.approx(float(network.modules[f"{KEY}_{part}_proj"].delta().norm()), rel=1e-5)
        assert norms.weight == pytest.approx(float(weight.detach().double().chunk(3)[third].norm()), rel=1e-6)


def test_the_norm_of_a_large_weight_has_all_its_digits():
    torch.manual_seed(3)
    layer = nn.Linear(3000, 3000, bias=False).half().requires_grad_(False)
    network = random_network("large", {KEY: layer}, rank=2)
    assert strength_meter().measure(network, {KEY: layer}).total.weight == pytest.approx(
        float(layer.weight.double().norm()), rel=1e-6
    )


def test_weights_that_hold_networks_are_measured_as_they_were_before():
    layers = small_model(torch.float32, "cpu")
    base = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    network, other = random_network("a", layers, seed=1), random_network("b", layers, seed=2)
    expected = strength_meter().measure(network, layers)
    engine, names = lora_engine(), (("b", 1.0, 1.0, None),)
    engine.bind(other, layers, [other])
    engine.manual_lora_update(dict.fromkeys(layers, (5.0,)), names)
    patched = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    backups = {name: layer.network_weights_backup for name, layer in layers.items()}
    assert strength_meter().measure(network, layers) == expected
    for name, layer in layers.items():
        assert layer.weight.equal(patched[name]) and not patched[name].equal(base[name])
        assert layer.network_weights_backup is backups[name]
        assert layer.network_current_names is engine._token


def test_a_layer_whose_weights_nobody_knows_is_left_out_by_name():
    layers = small_model(torch.float32, "cpu")
    network = random_network("a", layers)
    (lost, *_rest) = layers
    layers[lost].network_current_names = (("gone", 1.0, 1.0, None),)
    found = strength_meter().measure(network, layers)
    assert len(found.parts) == len(layers) - 1
    assert found.messages == (
        f"layer {lost}: its weights are patched and have no backup; reload the checkpoint",
    )


def test_weights_are_measured_once_until_others_are_loaded():
    layers = small_model(torch.float32, "cpu")
    network, meter = random_network("a", layers), strength_meter()
    first = meter.measure(network, layers).total
    for layer in layers.values():
        layer.weight *= 2
    assert meter.measure(network, layers).total == first
    meter.forget()
    assert meter.measure(network, layers).total.weight == pytest.approx(2 * first.weight)


def sample(name: str = "demo") -> Strengths:
    return Strengths(name, ("BASE", "IN04", "M00", None), (
        Part("transformer_a_q_proj", "BASE", "attn", Norms(1, 3.0, 10.0)),
        Part("transformer_b_q_proj", "BASE", "attn", Norms(1, 4.0, 0.0)),
        Part("a", "M00", "attn1", Norms(1, 6.0, 8.0)),
        Part("b", "M00", None, Norms(1, 8.0, 6.0)),
    ))


def test_norms_of_a_group_are_those_of_all_its_weights():
    strengths = sample()
    assert strengths.by_block() == {
        "BASE": Norms(2, 5.0, 10.0), "IN04": Norms(), "M00": Norms(2, 10.0, 10.0), None: Norms(),
    }
    assert list(strengths.by_element()) == ["attn1", "attn", None]
    assert strengths.by_cell()["M00", "attn1"].strength == 0.75
    assert strengths.by_block()["IN04"].strength == 0.0
    assert strengths.total == Norms(4, math.hypot(5, 10), math.hypot(10, 10))


@pytest.mark.parametrize(
    ("layer", "element"),
    [
        ("diffusion_model_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0", "attn2"),
        ("diffusion_model_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj", "ff_net"),
        ("diffusion_model_input_blocks_4_1_proj_in", "proj"),
        ("diffusion_model_input_blocks_4_0_in_layers_2", "in_layers"),
        ("diffusion_model_input_blocks_3_0_op", "op"),
        ("diffusion_model_output_blocks_2_2_conv", "conv"),
        ("diffusion_model_time_embed_0", "emb"),
        ("diffusion_model_input_blocks_0_0", None),
        ("0_transformer_text_model_encoder_layers_3_mlp_fc1", "mlp"),
        ("transformer_text_model_encoder_layers_3_self_attn_q_proj", "attn"),
        ("diffusion_model_double_blocks_3_img_mod_lin", "img_mod"),
        ("diffusion_model_single_blocks_3_linear1", "linear"),
        ("diffusion_model_joint_blocks_3_x_block_adaLN_modulation_1", "modulation"),
    ],
)
def test_an_element_is_a_word_that_a_rule_finds_its_layer_by(layer: str, element: str | None):
    assert element_of(layer) == element
    assert element is None or parse_rule(f":{element}:0").matches(None, layer)


def test_no_element_is_in_the_name_of_every_layer():
    for name in ("diffusion_model_input_blocks_0_0", "0_transformer_text_model_encoder_layers_0"):
        assert [element for element in ELEMENTS if element in name] == []


@pytest.mark.parametrize("theme", Theme)
def test_the_picture_shows_the_numbers(theme: Theme):
    figure = draw(sample("a $x^$ \u732b \U0001f600"), theme)
    bars, heat, _scale = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [50.0, 0.0, 100.0, 0.0]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["BASE", "IN04", "M00", "other"]
    assert [label.get_text() for label in heat.get_xticklabels()] == ["attn1", "attn", "other"]
    cells = heat.images[0].get_array()
    expected = np.full((4, 3), np.nan)
    expected[2, 0], expected[0, 1], expected[2, 2] = 75.0, 50.0, 400 / 3
    np.testing.assert_allclose(cells.filled(np.nan), expected)
    assert {text.get_text() for text in heat.texts} == {"75", "50", "133"}
    with Image.open(io.BytesIO(png(figure))) as image:
        assert image.format == "PNG" and image.width > 300


def test_a_network_that_changes_nothing_has_a_picture_too():
    assert png(draw(Strengths("none", ("BASE", "IN00"), ())))


def test_names_are_shown_and_never_read_as_formulas():
    assert plain("$x^$") == r"\$x^\$"
    assert plain("\U0010fffd a") == "? a"
    assert len(plain("x" * 500)) < 70


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0"), (0.00001, "0"), (0.0123, "1.2"), (0.0005, "0.05"), (0.0999, "10"), (1.234, "123")]
)
def test_percentages_have_two_digits_that_count(share: float, text: str):
    assert percent(share) == text
