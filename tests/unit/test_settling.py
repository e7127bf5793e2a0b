"""Layers that are brought back to their pristine weights: nothing of what their switches needed stays behind."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import pytest
import torch

from lbw.engine import batch, factors, member
from lbw.engine.base_weights import Policy
from lbw.plan.plan import Coefficients
from tests.unit.networks import Network, batches_of
from tests.unit.test_engine import Bed, bed_at, name_of
from tests.unit.ulp import ulp_distance

PLACES = [
    (device, torch.float16, "grouped", policy)
    for device in ("cpu", "cuda")
    for policy in (Policy.GPU, Policy.LEAN, Policy.RAM)
]


@pytest.fixture(params=PLACES, ids=name_of)
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    yield from bed_at(request.param)


def run(bed: Bed, *strengths: tuple[float, float, float], reach: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    """A pass: its strengths, step by step, each checked."""
    bed.engine.bind(bed, bed.layers, bed.networks)
    bed.engine.begin_pass(Coefficients.of(bed.all(*reach)))
    for values in strengths:
        bed.update(bed.all(*values))
        assert bed.worst_ulp(bed.all(*values)) <= (1 if any(values) else 0), values


def made_by(bed: Bed) -> list[ref[Any]]:
    """What is on the device because layers are patched: copies, codes, factors, and the kernels' tables."""
    found: list[torch.Tensor] = []
    for each in batches_of(bed.engine):
        found += each._copies.values()
        for launch in each._launches:
            found += [tensor for tensor in (launch._packed, launch._strips) if tensor is not None]
            found += [] if launch.codes is None else [launch.codes.codes, launch.codes.escapes]
    return [ref(tensor) for tensor in found]


def test_nothing_on_the_device_outlives_the_settling(bed: Bed):
    for _ in range(2):
        gc.collect()
        before = torch.cuda.memory_allocated() if bed.device == "cuda" else 0
        run(bed, (0.5, 0.0, -0.3), (0.0, 1.0, 0.2))
        made = made_by(bed)
        assert bed.engine.policy is Policy.RAM or (made and bed.engine.held > 0)
        bed.engine.settle()
        assert bed.is_pristine()
        assert bed.engine.held == 0
        assert [each() for each in made if each() is not None] == [], "something still refers to it"
        assert bed.device == "cpu" or torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize("bed", [place for place in PLACES if place[0] == "cuda"], ids=name_of, indirect=True)
def test_nothing_is_held_of_layers_that_have_left_while_they_were_patched(bed: Bed):
    for _ in range(2):
        gc.collect()
        before = torch.cuda.memory_allocated() - sum(layer.weight.nbytes for layer in bed.layers.values())
        run(bed, (0.5, 0.0, -0.3))
        for layer in bed.layers.values():
            layer.to("cpu")
        bed.engine.settle()
        assert bed.engine.held == 0
        assert torch.cuda.memory_allocated() <= before
        for layer in bed.layers.values():
            layer.to("cuda")
        bed.engine.settle()
        assert bed.is_pristine()


@pytest.mark.parametrize("bed", [place for place in PLACES if place[3] is Policy.RAM], ids=name_of, indirect=True)
def test_with_all_of_it_in_ram_nothing_is_held_between_two_switches(bed: Bed):
    for values in ((0.5, 0.0, -0.3), (0.0, 1.0, 0.2), (0.0, 0.0, 0.0)):
        run(bed, values)
        assert not any(each.is_loaded for each in batches_of(bed.engine))
        assert bed.device == "cpu" or bed.engine.held == 0


def test_the_same_networks_again_are_not_read_and_derived_again(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    run(bed, (0.5, 0.0, -0.3))
    bed.engine.settle()
    made: list[str] = []
    monkeypatch.setattr(member, "pieces_of", counting(member.pieces_of, made))
    monkeypatch.setattr(factors.FactorPlan, "__init__", counting(factors.FactorPlan.__init__, made))
    run(bed, (0.0, 0.0, 0.0), (0.3, 0.0, 1.0))
    assert made == []


def counting(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls.append(function.__name__)
        return function(*arguments, **keywords)

    return counted


def test_strengths_beyond_what_was_announced_are_exact_too(bed: Bed):
    run(bed, (0.5, 0.0, 0.0), (8.0, -3.0, 0.0), (0.1, 0.0, 5.0), (0.0, 0.0, 0.0), reach=(0.5, 0.0, 0.0))
    bed.engine.settle()
    assert bed.is_pristine()


def test_a_switch_is_prepared_at_strength_0_already(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    run(bed, (0.0, 0.0, 0.0))
    made: list[str] = []
    for name in ("_prepare", "_make_launches"):
        monkeypatch.setattr(batch.Batch, name, counting(getattr(batch.Batch, name), made))
    run(bed, (1.0, 0.5, 0.0))
    assert made == []


def test_the_layers_of_a_text_encoder_that_does_not_work_wait(bed: Bed):
    engine = bed.engine
    engine.bind(bed, bed.layers, bed.networks)
    of_text_encoder = {name for name in bed.layers if name.startswith("transformer")}
    assert of_text_encoder and of_text_encoder != bed.layers.keys()
    coefficients = bed.all(0.5, 0.0, 0.0)
    engine.manual_lora_update(coefficients, bed.names(), encodes=False)
    wanted = bed.reference(coefficients)
    assert {bound.keys[0] for bound in engine.waiting} == of_text_encoder
    for name, layer in bed.layers.items():
        assert layer.weight.equal(bed.base[name]) == (name in of_text_encoder)
    engine.manual_lora_update(coefficients, bed.names(), encodes=True)
    assert engine.waiting == [] and bed.worst_ulp(coefficients) <= 1
    engine.settle(of_text_encoder=True)
    for name, layer in bed.layers.items():
        assert layer.weight.equal(bed.base[name]) == (name in of_text_encoder)
        assert name in of_text_encoder or ulp_distance(layer.weight, wanted[name]) <= 1
    engine.settle()
    assert bed.is_pristine()


class NetworkModuleOwn:
    """Of a type that only the host knows."""

    bias = dora_scale = None

    def __init__(self, network: Network, delta: torch.Tensor) -> None:
        self.network, self._delta = network, delta

    def calc_updown(self, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        strength = self.network.unet_multiplier
        return (self._delta * strength).to(weight), None


@pytest.mark.parametrize("bed", [PLACES[0]], ids=name_of, indirect=True)
def test_a_network_that_the_host_has_dropped_is_not_kept_alive(bed: Bed):
    name, layer = next(iter(bed.layers.items()))
    own = Network("own")
    own.modules[name] = NetworkModuleOwn(own, torch.full_like(layer.weight, 0.01))  # type: ignore[assignment]
    for networks in ([own], bed.networks[:1], []):
        bed.engine.bind(bed, bed.layers, networks)
        bed.engine.manual_lora_update(bed.all(*[0.5] * len(networks)), bed.names(networks))
        assert layer.weight.equal(bed.base[name]) == (not networks)
    gone = ref(own), ref(bed.networks.pop(0))
    del own, networks
    gc.collect()
    assert [each() for each in gone] == [None, None]
