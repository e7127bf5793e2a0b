"""Every network type through the engine, on the CPU and on a CUDA GPU: within one unit in the last place of float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product

import pytest
import torch
from torch import Tensor

from lbw.engine.base_weights import Policy
from lbw.engine.biases import Biases
from lbw.engine.deltas import UnsupportedPartError
from lbw.engine.deltas.oft import build as build_rotation
from lbw.engine.headroom import Headroom
from lbw.engine.kernels import cuda
from lbw.plan.plan import Coefficients
from tests.host.network_files import MAKERS, Random, in_half
from tests.unit.cuda_on_cpu import available
from tests.unit.host_modules import layer_for, make_module
from tests.unit.networks import Network, batches_of, lora_engine
from tests.unit.ulp import ulp_distance

CASES = [(kind, layer) for kind, (_maker, layers) in MAKERS.items() for layer in layers]
KEY = "diffusion_model_input_blocks_4_1_proj_in"


FLOATS = (torch.float16, torch.bfloat16, torch.float32)
WAYS = [
    *[("cpu", "single", dtype) for dtype in FLOATS],
    *[("cpu", "grouped", dtype) for dtype in FLOATS[:2]],
    *[("cuda", way, dtype) for way in ("single", "grouped") for dtype in FLOATS],
]


@pytest.fixture(params=WAYS, ids=lambda way: "-".join(map(str, way)))
def way(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool, torch.dtype]]:
    """(device, whether many layers are written together, the weights' type)"""
    device, name, dtype = request.param
    with available(device, name):
        yield device, name == "grouped", dtype


class LinearBed:
    """A linear layer in float16, and a network of each of some kinds."""

    def __init__(self, kinds: Sequence[str], device: str, policy: Policy = Policy.AUTO) -> None:
        torch.manual_seed(1)
        self.layer = layer_for("linear").to(device, torch.float16)
        self.base = self.layer.weight.detach().clone()
        self.engine = lora_engine(policy, device=torch.device(device))
        self._networks, self._formulas = [Network(kind) for kind in kinds], []
        for seed, network in enumerate(self._networks):
            tensors, formula, _bias = MAKERS[network.name][0](self.base.cpu().float(), Random(seed))
            network.modules[KEY] = make_module(network, in_half(tensors))
            self._formulas.append(formula)

    def update(self, *coefficients: float) -> None:
        assert self.engine.bind(self.layer, {KEY: self.layer}, self._networks).messages == ()
        self.engine.manual_lora_update({KEY: coefficients}, tuple((net.name, 1.0, 1.0, None) for net in self._networks))
        assert self.engine._is_grouping, "it is given up where a launch fails"

    def expected(self, *coefficients: float) -> Tensor:
        """As the host has it: each network sees what those before it have left."""
        total = self.base.cpu().double()
        for formula, coefficient in zip(self._formulas, coefficients, strict=True):
            total = total + coefficient * formula(total)
        return total.half()


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_type_is_exact(case: tuple[str, str], way: tuple[str, bool, torch.dtype]):
    device, is_grouping, dtype = way
    torch.manual_seed(1)
    layer = layer_for(case[1]).to(device, dtype)
    base, bias_base = layer.weight.detach().clone(), layer.bias.detach().clone()
    network = Network(case[0])
    tensors, formula, bias = MAKERS[case[0]][0](base.cpu().float(), Random(3))
    if dtype == torch.float16:
        tensors = in_half(tensors)
    network.modules[KEY] = make_module(network, tensors)
    engine = lora_engine(device=torch.device(device), is_grouping=is_grouping)
    assert engine.bind(layer, {KEY: layer}, [network]).messages == ()
    # What is left of a sum that nearly cancels out has more digits in bfloat16 than float32 can sum up.
    floor = 1e-7 if dtype == torch.bfloat16 else 0.0
    for coefficient in (1.0, 0.5, -0.7):
        engine.manual_lora_update({KEY: (coefficient,)}, ((case[0], 1.0, 1.0, None),))
        wanted = base.cpu().double() + coefficient * formula(base.cpu().double())
        assert ulp_distance(layer.weight, wanted.to(dtype), floor) <= 1
        if bias is not None:
            wanted_bias = (bias_base.cpu().double() + coefficient * bias).to(dtype)
            assert ulp_distance(layer.bias, wanted_bias, floor) <= 1
    engine.manual_lora_update({KEY: (0.0,)}, ((case[0], 1.0, 1.0, None),))
    assert layer.weight.equal(base) and layer.bias.equal(bias_base)


GROUPED = {"peft", "scale", "addend", "loha", "loha_high", "lokr", "lokr_whole", "ia3", "ia3_output", "full",
           "full_bias", "glora", "dora", "dora_by_output", "dora_loha"}  # fmt: skip
WITH_COPIES = {"oft", "oft_diag", "boft"}
"""Those that the kernel takes only where the pristine weights are beside the patched ones."""


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "norm"])
def test_which_types_the_kernel_for_many_weights_takes(kind: str, gpu: str):
    for policy, grouped in ((Policy.GPU, GROUPED | WITH_COPIES), (Policy.LEAN, GROUPED), (Policy.RAM, GROUPED)):
        bed = LinearBed([kind], gpu, policy)
        bed.update(0.5)
        assert bool(batches_of(bed.engine)) == (kind in grouped)
        assert ulp_distance(bed.layer.weight, bed.expected(0.5)) <= 1


@pytest.mark.parametrize(
    "kinds", list(product(sorted(GROUPED | WITH_COPIES), ("peft", "lokr_whole", "dora"))), ids="+".join
)
def test_two_networks_of_different_types_add_up_as_in_the_host(kinds: tuple[str, str], gpu: str):
    bed = LinearBed(kinds, gpu, Policy.GPU if WITH_COPIES & {*kinds} else Policy.AUTO)
    for coefficients in [(1.0, 0.5), (0.0, -0.7), (0.3, 0.0), (-0.4, 1.0), (0.0, 0.0)]:
        bed.update(*coefficients)
        assert ulp_distance(bed.layer.weight, bed.expected(*coefficients)) <= 1
    assert bed.layer.weight.equal(bed.base)


@pytest.mark.parametrize("policy", [Policy.RAM, Policy.LEAN])
@pytest.mark.parametrize("kinds", [[kind, *others] for kind in sorted(GROUPED) for others in ([], ["peft"])], ids=str)
def test_a_type_is_exact_wherever_the_pristine_weights_are(
    kinds: list[str], policy: Policy, gpu: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cuda, "MOST", 99.0)  # the deltas are large, and most weights escapes
    bed = LinearBed(kinds, gpu, policy)
    for coefficient in (0.5, -0.7, 0.0, 1.0):
        coefficients = [coefficient, 0.5][: len(kinds)]
        bed.update(*coefficients)
        (batch,) = batches_of(bed.engine)
        assert all(launch.is_lean for launch in batch._launches), "no weight has a copy"
        assert ulp_distance(bed.layer.weight, bed.expected(*coefficients)) <= 1
    bed.update(*[0.0] * len(kinds))
    assert bed.layer.weight.equal(bed.base)


def test_rows_that_are_rescaled_by_far_less_than_others_are_exact(gpu: str):
    bed = LinearBed(["oft"], gpu, Policy.GPU)
    tensors, rotated, _ = MAKERS["oft"][0](bed.base.cpu().float(), Random(3))
    rescale = torch.ones(192, 1)
    rescale[0] = 1000
    network = Network("oft")
    network.modules[KEY] = make_module(network, tensors | {"rescale": rescale})
    bed.engine.bind(bed.layer, {KEY: bed.layer}, [network])
    bed.engine.manual_lora_update({KEY: (1.0,)}, (("oft", 1.0, 1.0, None),))
    assert batches_of(bed.engine)
    base = bed.base.cpu().double()
    assert ulp_distance(bed.layer.weight, (rescale.double() * (base + rotated(base))).half()) <= 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("injected")], ids=repr)
def test_a_batch_all_of_whose_layers_were_refused_is_gone_after_an_error(
    error: BaseException, gpu: str, monkeypatch: pytest.MonkeyPatch
):
    def fail(_biases: Biases) -> None:
        raise error

    bed, room = LinearBed(["oft"], gpu, Policy.AUTO), [True]
    monkeypatch.setattr(Headroom, "may_hold", lambda *_: bool(room and room.pop()))
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Biases, "load", fail)
        bed.update(0.5)
    monkeypatch.setattr(Headroom, "may_hold", lambda *_: True)
    bed.update(0.5)
    assert ulp_distance(bed.layer.weight, bed.expected(0.5)) <= 1


NOT_STORED = {
    "lokr": {"lokr_w1": (8, 1), "lokr_w2": (24, 1)},
    "loha": {"hada_w1_a": (192, 8), "hada_w1_b": (8, 1), "hada_w2_a": (192, 8), "hada_w2_b": (8, 1)},
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_STORED)
def test_a_norm_takes_what_is_not_stored_as_it_is(kind: str, gpu: str):
    layer, random, network = torch.nn.GroupNorm(4, 192).to(gpu, torch.float16), Random(1), Network(kind)
    base = layer.weight.detach().clone()
    tensors = {name: random(*shape).half() for name, shape in NOT_STORED[kind].items()}
    network.modules[KEY] = make_module(network, tensors)
    engine = lora_engine(Policy.GPU, device=torch.device(gpu))
    ((_, _, delta),) = engine.bind(layer, {KEY: layer}, [network]).layers[0].deltas
    engine.manual_lora_update({KEY: (0.5,)}, ((kind, 1.0, 1.0, None),))
    added = delta.materialize(base.device, torch.float64).flatten()
    assert ulp_distance(layer.weight, (base.double() + 0.5 * added).half().cpu(), 1e-6) <= 1


@pytest.mark.parametrize("size", [4, 5, 6])
def test_stages_of_blocks_of_any_size_are_exact(size: int, gpu: str):
    torch.manual_seed(1)
    base = torch.randn(240, 480).to(gpu, torch.float16) * 0.05
    delta = build_rotation(torch.randn(2, 240 // size, size, size) * 0.1, None, base.shape, base.dtype, constraint=0.0)
    expected = (base.double() + 0.5 * delta.compute(base.double())).half()
    for is_grouping in (True, False):
        layer, network = torch.nn.Linear(480, 240).to(gpu, torch.float16), Network("boft")
        layer.weight.data.copy_(base)
        network.modules[KEY] = make_module(network, {"oft_diag": delta.stages})
        engine = lora_engine(Policy.GPU, device=torch.device(gpu), is_grouping=is_grouping)
        assert engine.bind(layer, {KEY: layer}, [network]).messages == ()
        engine.manual_lora_update({KEY: (0.5,)}, (("boft", 1.0, 1.0, None),))
        assert ulp_distance(layer.weight, expected) <= 1


def test_stages_that_do_not_go_into_the_rows_are_refused():
    with pytest.raises(UnsupportedPartError, match=r"3x5x8x8, the layer's is \(40, 16\)"):
        build_rotation(torch.zeros(3, 5, 8, 8), None, torch.Size((40, 16)), torch.float16, constraint=None)


@pytest.mark.parametrize("kind", sorted(WITH_COPIES))
def test_what_needs_copies_goes_with_the_policy(kind: str, gpu: str):
    bed = LinearBed([kind, "peft"], gpu, Policy.GPU)
    bed.update(0.0, 0.0)
    for policy in (Policy.GPU, Policy.LEAN, Policy.GPU, Policy.RAM, Policy.GPU):
        bed.engine.policy = policy
        bed.engine.begin_pass(Coefficients.of({KEY: (1.0, 1.0)}))
        bed.update(0.5, -0.7)
        assert bool(batches_of(bed.engine)) == (policy is Policy.GPU)
        assert ulp_distance(bed.layer.weight, bed.expected(0.5, -0.7)) <= 1
    bed.update(0.0, 0.0)
    assert bed.layer.weight.equal(bed.base)


@pytest.mark.parametrize("kind", sorted(WITH_COPIES))
def test_a_model_that_was_away_is_turned_from_copies_on_the_gpu(kind: str):
    """What is turned in place would be turned again: its rows are in the block of others."""
    with available("cuda", "grouped"):
        bed = LinearBed([kind], "cuda", Policy.GPU)
        bed.update(0.5)
        (batch,) = batches_of(bed.engine)
        bed.layer.cpu()
        bed.engine.settle()
        assert not batch.is_loaded
        bed.layer.cuda()
        for coefficient in (1.0, 0.5):
            bed.update(coefficient)
            assert batches_of(bed.engine) == [batch], "it is still the one that was away"
            assert ulp_distance(bed.layer.weight, bed.expected(coefficient)) <= 1
        bed.update(0.0)
        assert bed.layer.weight.equal(bed.base)


def test_what_is_derived_from_the_weights_is_exact_inside_autocast(gpu: str):
    """Factors of rank 1 beside which the weights are small: their rounding would change whole columns."""
    layer, random = layer_for("linear").to(gpu, torch.float16), Random(1)
    up, down, lengths = random(192, 1).half(), random(1, 128).half(), torch.ones(1, 128)
    network = Network("dora")
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": lengths}
    network.modules[KEY] = make_module(network, tensors)
    engine, base = lora_engine(device=torch.device(gpu)), layer.weight.detach().cpu().double()
    engine.bind(layer, {KEY: layer}, [network])
    with torch.autocast(gpu, dtype=torch.bfloat16):
        engine.manual_lora_update({KEY: (1.0,)}, (("dora", 1.0, 1.0, None),))
    assert engine._is_grouping, "it is given up where a launch fails"
    moved = base + up.double() @ down.double()
    assert ulp_distance(layer.weight, (moved / moved.norm(dim=0)).half(), 1e-6) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_delta_of_another_type_than_the_weights_is_exact(dtype: torch.dtype, gpu: str):
    layer, value = layer_for("linear").to(gpu, torch.float16), Random(1)(192, 128, size=0.1).to(dtype)
    network = Network("full")
    network.modules[KEY] = make_module(network, {"diff": value})
    engine, base = lora_engine(device=torch.device(gpu)), layer.weight.detach().cpu().double()
    engine.bind(layer, {KEY: layer}, [network])
    engine.manual_lora_update({KEY: (0.7,)}, (("full", 1.0, 1.0, None),))
    assert ulp_distance(layer.weight, (base + 0.7 * value.double()).half()) <= 1


@pytest.mark.parametrize("kind", ["glora", "dora", "dora_by_output"])
def test_what_is_remembered_of_a_weight_goes_with_it(kind: str, gpu: str):
    """Another checkpoint is loaded into the same layer, and the host drops the backup."""
    torch.manual_seed(1)
    layer = layer_for("linear").to(gpu, torch.float16)
    network = Network(kind)
    tensors, formula, _ = MAKERS[kind][0](layer.weight.detach().cpu().float(), Random(3))
    network.modules[KEY] = make_module(network, tensors)
    engine = lora_engine(device=torch.device(gpu))
    for _ in range(2):
        layer.weight.data.normal_(std=0.2)
        base = layer.weight.detach().clone()
        layer.network_current_names, layer.network_weights_backup, layer.network_bias_backup = (), None, None
        engine.bind(layer, {KEY: layer}, [network])
        engine.manual_lora_update({KEY: (0.5,)}, ((kind, 1.0, 1.0, None),))
        wanted = base.cpu().double() + 0.5 * formula(base.cpu().double())
        assert ulp_distance(layer.weight, wanted.half()) <= 1
