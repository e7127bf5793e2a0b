"""Files of real trainers' libraries: our deltas are what the library merges, and what the host computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lbw.engine.deltas import Delta, StandAlone, WeightDependent, accumulation_dtype
from lbw.engine.kernels import torch as kernel
from lbw.hosts.a1111.parts import delta_of
from tests.host.trainers import CASES, EXACT, TYPES, Trained, make_layer
from tests.host.webui import WebUI
from tests.unit.ulp import ulp_distance

pytest.importorskip("lycoris")

COEFFICIENTS = (0.0, 0.5, 1.0, -0.7)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class HostNetwork:
    """What the host's modules need of the network that they belong to."""

    te_multiplier = unet_multiplier = 1.0
    dyn_dim = None


def host_module(webui: WebUI, layer: nn.Module, tensors: dict[str, Tensor]) -> Any:
    """The module that the host makes of a file's tensors for a layer."""
    import network

    weights = network.NetworkWeights("layer", "diffusion_model_layer", dict(tensors), layer)
    made = (kind.create_module(HostNetwork(), weights) for kind in webui.networks.module_types)
    return next(module for module in made if module is not None)


def train(case: tuple[str, str], layer: nn.Module, folder: Path) -> Trained:
    return TYPES[case[0]][0](layer, folder / f"{case[0]}.safetensors")


def evaluate(delta: Delta, weight: Tensor) -> Tensor:
    if isinstance(delta, WeightDependent):
        return delta.compute(weight)
    assert isinstance(delta, StandAlone)
    return delta.materialize(weight.device, weight.dtype).reshape(weight.shape)


def close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((found.double() - wanted.double()).abs().max() <= tolerance * wanted.double().abs().max())


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_delta_is_what_the_trainers_library_merges(webui: WebUI, tmp_path: Path, case: tuple[str, str]):
    layer = make_layer(case[1])
    trained = train(case, layer, tmp_path)
    module = host_module(webui, layer, trained.tensors)
    delta = delta_of(module, layer.weight.shape, torch.float32)
    weight = layer.weight.double()
    wanted, wanted_bias = trained.merged(weight)
    assert wanted.abs().max() > 1e-3, "the file changes nothing"
    assert close(evaluate(delta, weight), wanted.reshape(weight.shape), 1e-12 if case[0] in EXACT else 1e-5)
    if wanted_bias is None:
        assert delta.bias is None
    else:
        assert delta.bias is not None and close(delta.bias, wanted_bias, 1e-12)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_delta_is_what_the_host_computes(webui: WebUI, tmp_path: Path, case: tuple[str, str]):
    layer = make_layer(case[1])
    tensors = {
        name: value.float() if value.is_floating_point() else value
        for name, value in train(case, layer, tmp_path).tensors.items()
    }
    module = host_module(webui, layer, tensors)
    delta = delta_of(module, layer.weight.shape, torch.float32)
    wanted, wanted_bias = module.calc_updown(layer.weight)
    assert close(evaluate(delta, layer.weight.double()), wanted, 2e-5)
    assert (delta.bias is None) == (wanted_bias is None)
    if delta.bias is not None:
        assert close(delta.bias, wanted_bias, 1e-6)


def merge(trained: list[tuple[Trained, float]], base: Tensor) -> tuple[Tensor, Tensor | float]:
    """(weight, change of the bias) in float64, by the libraries: each network sees what those before it left."""
    weight, bias = base.double(), 0.0
    for one, coefficient in trained:
        delta, delta_bias = one.merged(weight)
        weight = weight + coefficient * delta.reshape(weight.shape)
        bias = bias if delta_bias is None else bias + coefficient * delta_bias
    return weight, bias


@pytest.mark.parametrize(
    ("case", "dtype"),
    # of types that the library computes in float32, nothing is known to the last place of a float32 weight
    [(case, dtype) for case in CASES for dtype in DTYPES if case[0] in EXACT or dtype != torch.float32],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_weight_is_within_one_unit_in_the_last_place(
    webui: WebUI, tmp_path: Path, case: tuple[str, str], dtype: torch.dtype
):
    # bfloat16 can hold what is left of a sum that nearly cancels out to more digits than float32 can sum up.
    floor = 1e-7 if dtype == torch.bfloat16 else 0.0
    layer = make_layer(case[1])
    trained = train(case, layer, tmp_path)
    base = layer.weight.to(dtype)
    delta = delta_of(host_module(webui, layer, trained.tensors), base.shape, dtype)
    for coefficient in COEFFICIENTS[1:]:
        weight = torch.zeros_like(base)
        bias = kernel.update_weight(weight, base, [(delta, coefficient)])
        wanted, wanted_bias = merge([(trained, coefficient)], base)
        assert ulp_distance(weight, wanted.to(dtype), floor) <= 1
        if bias is not None:
            assert close(bias, wanted_bias, 1e-6)


TOGETHER = [
    ("LoRA", "LoHa"),
    ("LoKr with both whole", "Full"),
    ("LoRA", "IA3 on the input"),
    ("IA3 on the input", "LoRA"),
    ("LoRA", "GLoRA"),
    ("GLoRA", "IA3 on the output"),
    ("Full", "DoRA on LoRA"),
    ("DoRA on LoRA", "LoHa of a high rank"),
    ("LoRA", "OFT"),
    ("BOFT", "DoRA on LoHa"),
]


@pytest.mark.parametrize("coefficients", [(1.0, 1.0), (0.5, -0.7), (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("names", TOGETHER, ids=" then ".join)
def test_two_types_on_one_layer_follow_the_order_of_the_tags(
    webui: WebUI, tmp_path: Path, names: tuple[str, str], coefficients: tuple[float, float]
):
    layer = make_layer("linear")
    trained = [train((name, "linear"), layer, tmp_path) for name in names]
    base = layer.weight.half()
    deltas = [delta_of(host_module(webui, layer, one.tensors), base.shape, base.dtype) for one in trained]
    weight = torch.zeros_like(base)
    terms = [(delta, value) for delta, value in zip(deltas, coefficients, strict=True) if value]
    kernel.update_weight(weight, base, terms)
    wanted, _ = merge(list(zip(trained, coefficients, strict=True)), base)
    assert ulp_distance(weight, wanted.half()) <= 1


def test_nothing_is_materialised_for_low_rank_types(webui: WebUI, tmp_path: Path):
    from lbw.engine.deltas import LowRank

    layer = make_layer("3x3")
    for name in ("LoRA", "LoCon in CP form", "LoHa", "LoHa in CP form", "LoKr with a factorised w2", "LoKr with t2"):
        module = host_module(webui, layer, train((name, "3x3"), layer, tmp_path).tensors)
        assert isinstance(delta_of(module, layer.weight.shape, torch.float16), LowRank), name


def test_the_type_to_accumulate_in_is_wider_than_the_weights():
    assert [accumulation_dtype(dtype).itemsize for dtype in (*DTYPES, torch.float8_e4m3fn)] == [4, 4, 8, 4]
