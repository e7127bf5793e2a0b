"""Layers that are not just a weight: q, k and v in one, biases, 8-bit storage, channels-last, inpainting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.unit.networks import Network, NetworkModuleLora, lora_engine, random_network
from tests.unit.ulp import ulp_distance

KEY = "diffusion_model_joint_blocks_3_x_block_attn_qkv"


class QkvLinear(nn.Linear):
    """As SD3 has it: q, k and v in the rows of one weight."""


class NetworkModuleFull:
    """A Full module with the attributes of the host's."""

    bias = dora_scale = None

    def __init__(self, weight: Tensor, ex_bias: Tensor | None) -> None:
        self.weight, self.ex_bias = weight, ex_bias

    def calc_scale(self) -> float:
        return 1.0


def frozen(layer: nn.Module, dtype: torch.dtype = torch.float16) -> nn.Module:
    nn.init.normal_(layer.weight, std=0.05)
    return layer.to(dtype).requires_grad_(False)


def full_network(layer: nn.Module, bias: Tensor | None) -> tuple[Network, Tensor]:
    delta = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(3)) * 0.02
    network = Network("full")
    network.modules[KEY] = NetworkModuleFull(delta, bias)  # type: ignore[assignment]
    return network, delta


class Bed:
    def __init__(self, layer: nn.Module, *networks: Network) -> None:
        self.layer, self.networks, self.engine = layer, networks, lora_engine()
        self.base = layer.weight.detach().clone()
        self.messages = self.engine.bind(self, {KEY: layer}, networks).messages

    def update(self, *values: float) -> None:
        names = tuple((net.name, 1.0, 1.0, None) for net in self.networks)
        keys = {key for net in self.networks for key in net.modules}
        self.engine.bind(self, {KEY: self.layer}, self.networks)
        self.engine.manual_lora_update(dict.fromkeys(keys, values), names)

    def off_by(self, *deltas: Tensor) -> int:
        wanted = self.base.double() + sum(delta.double().reshape(self.base.shape) for delta in deltas)
        return ulp_distance(self.layer.weight, wanted.to(self.base.dtype))


def projections(name: str, seed: int) -> tuple[Network, Tensor]:
    """A network for q, k and v, and its delta for the whole weight."""
    network = random_network(name, {f"{KEY}_{part}_proj": nn.Linear(48, 32) for part in "qkv"}, seed=seed)
    return network, torch.cat([network.modules[f"{KEY}_{part}_proj"].delta() for part in "qkv"])


@pytest.mark.parametrize("whole_first", [True, False])
def test_q_k_and_v_in_one_weight_take_parts_for_each_and_for_all(whole_first: bool):
    split, split_delta = projections("split", 1)
    whole = random_network("whole", {KEY: nn.Linear(48, 96)}, seed=2)
    networks = (whole, split) if whole_first else (split, whole)
    bed = Bed(frozen(QkvLinear(48, 96)), *networks)
    assert bed.messages == ()
    bed.update(*((0.5, -0.7) if whole_first else (-0.7, 0.5)))
    assert bed.off_by(0.5 * whole.modules[KEY].delta(), -0.7 * split_delta) <= 1
    bed.update(0.0, 0.0)
    assert bed.layer.weight.equal(bed.base)


def test_a_full_delta_for_q_k_and_v_together():
    layer = frozen(QkvLinear(48, 96))
    network, delta = full_network(layer, None)
    bed = Bed(layer, network)
    bed.update(-0.7)
    assert bed.off_by(-0.7 * delta) <= 1


def test_q_k_and_v_of_a_network_count_only_together():
    network, _ = projections("split", 1)
    del network.modules[f"{KEY}_v_proj"]
    bed = Bed(frozen(QkvLinear(48, 96)), network)
    bed.update(1.0)
    assert bed.layer.weight.equal(bed.base)


def test_a_coefficient_multiplies_the_biass_part_too():
    layer = frozen(nn.Linear(48, 32))
    bias = torch.linspace(-1, 1, 32)
    network, delta = full_network(layer, bias)
    bed, before = Bed(layer, network), layer.bias.clone()
    bed.update(0.5)
    assert bed.off_by(0.5 * delta) <= 1
    assert ulp_distance(layer.bias, (before.double() + 0.5 * bias.double()).half()) <= 1
    bed.update(0.0)
    assert layer.bias.equal(before)


@pytest.mark.parametrize("layer", [nn.Linear(48, 32, bias=False), nn.Linear(48, 32)], ids=["no bias", "another size"])
def test_a_bias_that_fits_nothing_is_left_out_by_name(layer: nn.Module):
    layer = frozen(layer)
    before = None if layer.bias is None else layer.bias.clone()
    network, delta = full_network(layer, torch.ones(31))
    bed = Bed(layer, network)
    assert len(bed.messages) == 1 and "bias" in bed.messages[0] and KEY in bed.messages[0]
    bed.update(1.0)
    assert bed.off_by(delta) <= 1, "the rest of it works"
    assert layer.bias is None if before is None else layer.bias.equal(before)


def stored_in_8_bits(layer: nn.Module, master: bool) -> nn.Module:
    """As the host stores a layer with its option fp8_storage."""
    if master:
        layer.fp16_weight, layer.fp16_bias = layer.weight.detach().clone().half(), layer.bias.detach().clone().half()
    return layer.to(torch.float8_e4m3fn)


@pytest.mark.parametrize("master", [True, False], ids=["with master", "without"])
def test_weights_stored_in_8_bits_are_rounded_once_from_the_master(master: bool):
    layer = stored_in_8_bits(frozen(nn.Linear(48, 32)), master)
    origin = layer.fp16_weight.clone() if master else layer.weight.half()
    bias_origin = layer.fp16_bias.clone() if master else layer.bias.half()
    bias = torch.linspace(-1, 1, 32)
    network, delta = full_network(layer, bias)
    bed, bias_before = Bed(layer, network), layer.bias.clone()
    bed.update(-0.7)
    assert ulp_distance(layer.weight, (origin.double() - 0.7 * delta.double()).to(torch.float8_e4m3fn)) == 0
    assert ulp_distance(layer.bias, (bias_origin.double() - 0.7 * bias.double()).to(torch.float8_e4m3fn)) == 0
    bed.update(0.0)
    assert layer.weight.view(torch.uint8).equal(bed.base.view(torch.uint8))
    assert layer.bias.view(torch.uint8).equal(bias_before.view(torch.uint8))


def test_a_weight_whose_channels_come_last():
    layer = frozen(nn.Conv2d(16, 24, 3)).to(memory_format=torch.channels_last)
    network = random_network("a", {KEY: layer}, seed=1)
    full, delta = full_network(layer, None)
    bed = Bed(layer, network, full)
    bed.update(0.5, -0.7)
    assert bed.off_by(0.5 * network.modules[KEY].delta(), -0.7 * delta) <= 1
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_delta_for_four_channels_on_an_inpainting_models_nine():
    """The host pads it with zeros."""
    layer = frozen(nn.Conv2d(9, 24, 3))
    network = random_network("a", {KEY: nn.Conv2d(4, 24, 3)}, seed=1)
    full, delta = full_network(nn.Conv2d(4, 24, 3), None)
    bed = Bed(layer, network, full)
    assert bed.messages == ()
    bed.update(0.5, -0.7)
    padded = torch.zeros(layer.weight.shape, dtype=torch.float64)
    padded[:, :4] = 0.5 * network.modules[KEY].delta() - 0.7 * delta.double()
    assert bed.off_by(padded) <= 1
    assert layer.weight[:, 4:].equal(bed.base[:, 4:])


@pytest.mark.parametrize("channels", [8, 9], ids=["instruct-pix2pix", "inpainting"])
def test_a_first_layer_that_the_host_cannot_patch_is_left_out_by_name(channels: int):
    """Four channels of a LoRA for eight, or nine for nine, of which the host would make fourteen."""
    layer = frozen(nn.Conv2d(channels, 24, 3))
    bed = Bed(layer, random_network("a", {KEY: nn.Conv2d(4 if channels == 8 else 9, 24, 3)}, seed=1))
    assert len(bed.messages) == 1 and KEY in bed.messages[0]
    bed.update(1.0)
    assert layer.weight.equal(bed.base)


class NetworkModuleOfSomebody(NetworkModuleLora):
    """A type of another extension, which derives from the host's LoRA and has a formula of its own."""

    def calc_updown(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        return weight * self.network.unet_multiplier * 2, None


def test_a_type_that_nobody_here_knows_is_computed_by_its_own_formula():
    layer = frozen(nn.Linear(48, 32))
    network = random_network("a", {KEY: layer}, seed=1)
    network.unet_multiplier = 0.3
    network.modules[KEY].__class__ = NetworkModuleOfSomebody
    bed = Bed(layer, network)
    bed.update(0.5)
    assert bed.layer.weight.equal((bed.base.double() * 2).half())
    assert network.unet_multiplier == 0.3
