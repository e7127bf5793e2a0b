"""Biases that networks change, of layers that are written together: on a CUDA GPU, or its kernels on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lbw.engine.base_weights import Policy
from lbw.engine.biases import Biases
from lbw.engine.engine import LoraEngine
from lbw.hosts.a1111.parts import ModuleParts
from lbw.hosts.forge.ledger import OwnPages
from lbw.plan.plan import Coefficients
from tests.host.network_files import MAKERS, Formula, Random, in_half
from tests.unit.cuda_on_cpu import available
from tests.unit.host_modules import layer_for, make_module
from tests.unit.networks import GPU_ERRORS, Network, batches_of, lora_engine
from tests.unit.ulp import ulp_distance

KINDS = {
    "diffusion_model_input_blocks_1_1_proj_in": "linear", "diffusion_model_input_blocks_2_1_proj_in": "norm",
    "diffusion_model_output_blocks_5_1_proj_in": "linear", "diffusion_model_output_blocks_6_1_proj_in": "convolution",
}  # fmt: skip
GROUPS = {key: int("output" in key) for key in KINDS}
FLOATS = (torch.float16, torch.bfloat16)


class Bed:
    """Layers of a model in two groups, and two networks that change weights and biases of all of them."""

    def __init__(self, device: str, dtype: torch.dtype = torch.float16, policy: Policy = Policy.GPU) -> None:
        torch.manual_seed(1)
        self.layers = {key: layer_for(kind).to(device, dtype) for key, kind in KINDS.items()}
        for layer in self.layers.values():
            layer.bias.data[::3] = -0.0
        self.base = {key: {name: value.detach().clone() for name, value in layer.named_parameters()}
                     for key, layer in self.layers.items()}  # fmt: skip
        self.engine = lora_engine(policy, device=torch.device(device))
        self.networks = [Network("a"), Network("b")]
        self._formulas: list[dict[str, tuple[Formula, Tensor]]] = []
        for seed, network in enumerate(self.networks):
            formulas = {}
            for key in self.layers:
                maker = MAKERS["norm" if KINDS[key] == "norm" else "full_bias"][0]
                tensors, formula, bias = maker(self.base[key]["weight"].cpu().float(), Random(seed))
                network.modules[key] = make_module(network, in_half(tensors) if dtype == torch.float16 else tensors)
                formulas[key] = formula, bias
            self._formulas.append(formulas)

    def update(self, *rows: tuple[float, float]) -> None:
        """Bring the two groups to coefficients."""
        assert self.engine.bind(self, self.layers, self.networks).messages == ()
        names = tuple((net.name, 1.0, 1.0, None) for net in self.networks)
        self.engine.manual_lora_update(Coefficients(GROUPS, list(rows)), names)

    def check(self, *rows: tuple[float, float]) -> None:
        for key, layer in self.layers.items():
            weight, bias = (self.base[key][name].cpu().double() for name in ("weight", "bias"))
            for formulas, coefficient in zip(self._formulas, rows[GROUPS[key]], strict=True):
                weight = weight + coefficient * formulas[key][0](weight)
                bias = bias + coefficient * formulas[key][1]
            floor = 1e-7 if layer.weight.dtype == torch.bfloat16 else 0.0
            assert ulp_distance(layer.weight, weight.to(layer.weight.dtype), floor) <= 1
            assert ulp_distance(layer.bias, bias.to(layer.bias.dtype), floor) <= 1

    def differing(self) -> list[str]:
        """The layers that are not as they were, bit for bit."""
        return [
            key for key, layer in self.layers.items()
            if not all(_bits(layer.get_parameter(name)).equal(_bits(then)) for name, then in self.base[key].items())
        ]  # fmt: skip


def _bits(value: Tensor) -> Tensor:
    return value.detach().view(torch.int16)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("policy", [Policy.GPU, Policy.LEAN, Policy.RAM])
def test_biases_are_exact_and_pristine_at_strength_0(policy: Policy, dtype: torch.dtype, gpu: str):
    bed = Bed(gpu, dtype, policy)
    for rows in [((1.0, 0.5), (0.0, 0.0)), ((1.0, 0.5), (-0.7, 1.0)), ((0.0, 0.5), (-0.7, 0.0))]:
        bed.update(*rows)
        bed.check(*rows)
    assert batches_of(bed.engine), "they are written together"
    bed.update((0.0, 0.0), (0.0, 0.0))
    assert bed.differing() == []


def test_no_layer_with_a_bias_is_written_alone(gpu: str):
    bed = Bed(gpu)
    bed.update((1.0, 0.5), (0.5, 0.0))
    (batch,) = batches_of(bed.engine)
    assert {bound.keys[0] for bound in batch.layers} == set(KINDS)


def test_only_the_biases_of_layers_that_change_are_written(gpu: str):
    bed = Bed(gpu)
    bed.update((1.0, 0.5), (0.5, 0.0))
    first = bed.layers["diffusion_model_input_blocks_1_1_proj_in"]
    first.bias.data.fill_(7.0)
    bed.update((1.0, 0.5), (-0.7, 1.0))
    assert (first.bias == 7.0).all()


def test_a_bias_that_is_no_number_does_no_harm_at_strength_0(gpu: str):
    bed = Bed(gpu)
    biases = {"norm": "b_norm", "linear": "ex_bias", "convolution": "ex_bias"}
    for key, module in bed.networks[1].modules.items():
        getattr(module, biases[KINDS[key]]).fill_(float("nan"))
    bed.update((0.0, 0.0), (0.0, 0.0))
    assert bed.differing() == []
    bed.update((0.5, 0.0), (0.5, 0.0))
    assert not any(layer.bias.isnan().any() for layer in bed.layers.values())


def test_a_bias_to_which_networks_at_work_add_nothing_is_pristine(gpu: str):
    layer, key = layer_for("linear").to(gpu, torch.float16), next(iter(KINDS))
    layer.bias.data.fill_(-0.0)
    bases, networks = layer.weight.detach().cpu().float(), [Network("a"), Network("b")]
    for network, kind in zip(networks, ("full_bias", "peft"), strict=True):
        network.modules[key] = make_module(network, in_half(MAKERS[kind][0](bases, Random(1))[0]))
    engine = lora_engine(Policy.GPU, device=torch.device(gpu))
    engine.bind(engine, {key: layer}, networks)
    engine.manual_lora_update({key: (0.0, 1.0)}, (("a", 1.0, 1.0, None), ("b", 1.0, 1.0, None)))
    assert batches_of(engine) and torch.signbit(layer.bias).all()


def test_where_nobody_keeps_book_biases_of_another_checkpoint_are_its_own(gpu: str):
    layer, other = (layer_for("linear").to(gpu, torch.float16) for _ in range(2))
    network, key = Network("a"), next(iter(KINDS))
    tensors, *_ = MAKERS["full_bias"][0](layer.weight.detach().cpu().float(), Random(1))
    network.modules[key] = make_module(network, in_half(tensors))
    engine = LoraEngine(OwnPages(), ModuleParts(), Policy.GPU, device=torch.device(gpu))
    engine.bind(engine, {key: layer}, [network])
    for strength in (0.5, 0.7):
        engine.manual_lora_update({key: (strength,)}, (("a", 1.0, 1.0, None),))
        assert batches_of(engine)
        engine.settle()
        if strength == 0.5:
            layer.load_state_dict(other.state_dict())
    assert layer.weight.equal(other.weight) and layer.bias.equal(other.bias)


def test_the_engine_lets_go_of_biases_as_they_were(gpu: str):
    bed = Bed(gpu)
    for leave in (bed.engine.settle, bed.engine.unbind, bed.engine.release):
        bed.update((1.0, 0.5), (0.5, 0.3))
        leave()
        assert bed.differing() == []


@pytest.mark.parametrize("error", GPU_ERRORS, ids=str)
@pytest.mark.parametrize("name", ["write", "brought_to", "load"])
def test_where_biases_cannot_be_written_together_layers_are_written_one_by_one(
    gpu: str, name: str, error: RuntimeError, monkeypatch: pytest.MonkeyPatch
):
    bed = Bed(gpu)
    bed.update((1.0, 0.5), (0.5, 0.3))
    with monkeypatch.context() as patch:
        def fail(*_: object) -> None:
            raise error

        patch.setattr(Biases, name, fail)
        if name == "load":
            bed.engine.settle()
        bed.update((0.2, 0.5), (-0.5, 0.3))
        assert not batches_of(bed.engine)
        bed.check((0.2, 0.5), (-0.5, 0.3))
        bed.update((0.0, 0.0), (0.0, 0.0))
        assert bed.differing() == []


def test_biases_may_be_on_the_gpu_and_in_ram():
    with available("cuda", "grouped"):
        bed = Bed("cuda")
        module = bed.networks[0].modules["diffusion_model_input_blocks_1_1_proj_in"]
        module.ex_bias = module.ex_bias.cuda()
        bed.update((1.0, 0.5), (0.5, 0.3))
        assert batches_of(bed.engine)
        bed.check((1.0, 0.5), (0.5, 0.3))


def test_biases_of_a_model_that_was_away_are_right_again():
    with available("cuda", "grouped"):
        bed = Bed("cuda")
        bed.update((1.0, 0.5), (0.5, 0.3))
        for layer in bed.layers.values():
            layer.cpu()
        bed.engine.settle()
        for layer in bed.layers.values():
            layer.cuda()
        bed.update((0.3, 0.5), (0.5, 0.3))
        bed.check((0.3, 0.5), (0.5, 0.3))
        bed.update((0.0, 0.0), (0.0, 0.0))
        assert bed.differing() == []
