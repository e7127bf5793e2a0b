"""Parts that cannot be used, and layers that cannot be written: told once, and left out."""

from __future__ import annotations

import logging
import math
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from lbw.engine import singles
from lbw.engine.deltas import fault_in
from lbw.hosts.a1111 import parts as a1111_parts
from lbw.hosts.forge.networks import with_columns
from tests.unit.host_modules import make_module
from tests.unit.networks import GPU_ERRORS, Network, lora_engine, random_network

KEY = "diffusion_model_input_blocks_4_1_proj_in"
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_one_number_that_is_none_is_found(dtype: torch.dtype, number: float):
    tensor = torch.linspace(-2, 2, 12).reshape(3, 4).to(dtype)
    assert fault_in([("up", tensor)]) is None
    if dtype is torch.float8_e4m3fn and not math.isnan(number):
        return  # it has no infinity
    tensor[1, 2] = number
    assert fault_in([("down", torch.zeros(2)), ("up", tensor)]) == "its up holds numbers that are NaN or infinite"


def test_what_is_no_number_of_a_part_has_no_fault():
    values: list[Any] = [None, "nan", 7, True, torch.zeros(0), torch.tensor([True]), torch.tensor(3), 0.5, [NAN]]
    assert fault_in([("x", value) for value in values]) is None
    assert fault_in([("alpha", -INF)]) == "its alpha is -inf"


def lora(rows: int, columns: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    up, down = torch.randn(rows, 2, generator=random), torch.randn(2, columns, generator=random)
    return {"lora_up.weight": up, "lora_down.weight": down} | more


def brought(tensors: dict[str, torch.Tensor], layer: nn.Module) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The weight that a network of one part gives, and the messages."""
    network = Network("a")
    network.modules[KEY] = make_module(network, tensors)
    engine = lora_engine()
    messages = engine.bind(layer, {KEY: layer}, [network]).messages
    engine.manual_lora_update({KEY: (1.0,)}, (("a", 1.0, 1.0, None),))
    return layer.weight.clone(), messages


def layer_of(*shape: int) -> nn.Module:
    torch.manual_seed(2)
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2])
    return layer.requires_grad_(False)


@pytest.mark.parametrize("shape", [(6, 4), (5, 5), (6, 4, 3, 3)])
def test_lengths_of_output_channels_may_be_a_row_of_numbers(shape: tuple[int, ...]):
    """Each row of the weight is brought to its length."""
    lengths = torch.rand(shape[0]) + 0.5
    weight, messages = brought(lora(shape[0], math.prod(shape[1:]), dora_scale=lengths), layer_of(*shape))
    assert messages == ()
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), lengths)


def test_those_of_input_channels_may_be_one_too_where_only_they_fit():
    lengths = torch.rand(4) + 0.5
    flat, whole = (brought(lora(6, 4, dora_scale=each), layer_of(6, 4)) for each in (lengths, lengths[None]))
    assert flat[1] == () and flat[0].equal(whole[0])


def test_lengths_of_another_number_do_not_fit():
    weight, messages = brought(lora(6, 4, dora_scale=torch.ones(5)), layer_of(6, 4))
    assert weight.equal(layer_of(6, 4).weight)
    (line,) = messages
    assert line.startswith(f"<lora:a>: 1 part cannot be used and is left out, first {KEY}: the shape is 5")


def test_a_file_of_the_forge_family_gets_its_lengths_as_columns():
    file = lora(6, 4, dora_scale=torch.ones(6))
    linear = {f"one.{name}": value for name, value in file.items()}
    linear["two.lora_down.weight"], linear["two.dora_scale"] = torch.ones(2, 4, 3, 3), torch.ones(6)
    linear["three.dora_scale"] = torch.ones(1, 4)
    shapes = {name: tuple(value.shape) for name, value in with_columns(linear).items() if name.endswith("dora_scale")}
    assert shapes == {"one.dora_scale": (6, 1), "two.dora_scale": (6, 1, 1, 1), "three.dora_scale": (1, 4)}
    assert linear["one.dora_scale"].shape == (6,)


def test_layers_that_fail_in_one_way_are_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    layers = {f"diffusion_model_input_blocks_{i}_1_proj_in": layer_of(6, 4) for i in range(9)}
    engine = lora_engine(is_grouping=False)
    engine.bind(engine, layers, [random_network("a", layers, rank=2)])

    def fail(*_: Any) -> None:
        raise IndexError("tuple index out of range")

    monkeypatch.setattr(singles, "write", fail)
    with caplog.at_level(logging.WARNING, logger="lbw"):
        engine.manual_lora_update(dict.fromkeys(layers, (1.0,)), (("a", 1.0, 1.0, None),))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "layer diffusion_model_input_blocks_0_1_proj_in, and maybe more: IndexError: tuple index out of" in line


@pytest.mark.parametrize("error", GPU_ERRORS, ids=str)
def test_a_part_for_which_the_gpu_failed_once_is_used_the_next_time(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
):
    layer, network = layer_of(6, 4), Network("a")
    network.modules[KEY] = make_module(network, lora(6, 4))
    engine = lora_engine()
    with monkeypatch.context() as patched, pytest.raises(type(error)):
        patched.setattr(a1111_parts, "_delta_of", Mock(side_effect=error))
        engine.bind(layer, {KEY: layer}, [network])
    assert engine.bind(layer, {KEY: layer}, [network]).messages == ()
    engine.manual_lora_update({KEY: (1.0,)}, (("a", 1.0, 1.0, None),))
    assert layer.weight.equal(brought(lora(6, 4), layer_of(6, 4))[0])
