"""The engine keeps any ledger: here one with pages of its own, for a host that has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lbw.engine.base_weights import Policy
from lbw.engine.engine import LoraEngine
from lbw.hosts.a1111.parts import ModuleParts
from lbw.hosts.forge.ledger import OwnPages
from tests.unit.cuda_on_cpu import available
from tests.unit.networks import random_network, small_model

NAMES = (("a", 1.0, 1.0, None),)


class Bed:
    def __init__(self, policy: Policy, *, is_grouping: bool) -> None:
        self.layers = small_model(torch.float16, "cpu", taller=8)
        self.base = {name: layer.weight.clone() for name, layer in self.layers.items()}
        self.attributes = {name: set(vars(layer)) for name, layer in self.layers.items()}
        self.network = random_network("a", self.layers, size=0.0005, dtype=torch.float16)
        self.ledger = OwnPages()
        self.engine = LoraEngine(self.ledger, ModuleParts(), policy, is_grouping=is_grouping)
        self.engine.bind(self, self.layers, [self.network])

    def update(self, strength: float) -> int:
        return self.engine.manual_lora_update(dict.fromkeys(self.layers, (strength,)), NAMES).layers_updated

    def is_pristine(self) -> bool:
        return all(layer.weight.equal(self.base[name]) for name, layer in self.layers.items())

    def names(self) -> set[Any]:
        return {self.ledger.page(layer)["names"] for layer in self.layers.values()}


@pytest.fixture(params=[("single", Policy.AUTO), ("grouped", Policy.GPU), ("grouped", Policy.LEAN)], ids=str)
def bed(request: pytest.FixtureRequest) -> Any:
    way, policy = request.param
    with available("cpu", way):
        yield Bed(policy, is_grouping=way == "grouped")


def test_layers_carry_nothing_of_a_ledger_with_pages_of_its_own(bed: Bed):
    assert bed.update(1.0) == len(bed.layers) and bed.names() == {NAMES} and not bed.is_pristine()
    assert {name: set(vars(layer)) for name, layer in bed.layers.items()} == bed.attributes
    assert bed.update(1.0) == 0
    assert bed.update(0.0) == len(bed.layers) and bed.is_pristine()


def test_what_somebody_else_has_noted_on_a_page_is_undone(bed: Bed):
    bed.update(1.0)
    wanted = {name: layer.weight.clone() for name, layer in bed.layers.items()}
    layer = next(iter(bed.layers.values()))
    page = bed.ledger.page(layer)
    layer.weight.copy_(page["weights"]).add_(1.0)
    page["names"] = (("somebody", 1.0, 1.0, None),)
    bed.update(1.0)
    assert all(layer.weight.equal(wanted[name]) for name, layer in bed.layers.items())


def test_a_release_clears_all_pages(bed: Bed):
    bed.update(1.0)
    bed.engine.release()
    assert bed.is_pristine()
    assert all(set(page.values()) == {(), None} for page in map(bed.ledger.page, bed.layers.values()))


def test_a_host_may_work_in_inference_mode(bed: Bed, caplog: pytest.LogCaptureFixture):
    with torch.inference_mode():
        made = Bed(bed.engine.policy, is_grouping=bed.engine._is_grouping)
        made.update(1.0)
        assert made.names() == {NAMES} and not made.is_pristine()
    made.engine.settle()
    assert made.is_pristine()
    made.update(0.5)
    made.engine.release()
    assert made.is_pristine() and caplog.messages == []


def test_pages_go_with_their_layers():
    ledger = OwnPages()
    layer: nn.Module = nn.Linear(2, 2)
    ledger.page(layer)
    del layer
    assert not ledger._pages
