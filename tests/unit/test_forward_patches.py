"""What is set on layers for the host to add in their forwards, in both of the forms that hosts have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lbw.hosts.forge.forward_patches import ForwardPatches, can_patch

Entry = tuple[float, Any, float, Any, Any]


def merge(entries: Sequence[Any], weight: Tensor) -> Tensor:
    for strength, value, _, _, _ in entries:
        weight = weight + strength * value
    return weight


def entry(strength: float, value: float) -> Entry:
    return (strength, value, 1.0, None, None)


class Online(nn.Linear):
    """Looks at its patches in each forward."""

    parameters_manual_cast = False

    def forward(self, x: Tensor) -> Tensor:
        patches = getattr(self, "forge_online_loras", {})
        weight, bias = (merge(patches.get(name, []), getattr(self, name)) for name in ("weight", "bias"))
        return nn.functional.linear(x, weight, bias)


class Functions(nn.Linear):
    """Has functions for copies of its parameters."""

    weight_function: ClassVar[list[Any]] = []
    bias_function: ClassVar[list[Any]] = []

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        for function in self.weight_function:
            weight = function(weight)
        for function in self.bias_function:
            bias = function(bias)
        return nn.functional.linear(x, weight, bias)


class Function(nn.Linear):
    """Has one function for a copy of each parameter, or none."""

    weight_function: Any = None
    bias_function: Any = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.weight_function is None else self.weight_function(self.weight)
        bias = self.bias if self.bias_function is None else self.bias_function(self.bias)
        return nn.functional.linear(x, weight, bias)


@pytest.fixture(params=[Online, Functions, Function])
def layer(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    return request.param(4, 4).requires_grad_(False)


@pytest.fixture
def patches() -> ForwardPatches:
    return ForwardPatches(merge)


def effective(layer: nn.Linear) -> tuple[float, float]:
    """What is added to the weight and to the bias in a forward."""
    bias = layer(torch.zeros(1, 4))[0]
    weight = (layer(torch.eye(4)) - bias).T
    return round(float((weight - layer.weight).mean()), 4), round(float((bias - layer.bias).mean()), 4)


def test_weight_and_bias_get_what_is_wanted_and_only_as_long(layer: Any, patches: ForwardPatches):
    before = dict(vars(layer))
    patches.set({layer: {"weight": [entry(0.5, 1.0), entry(1.0, 0.25)], "bias": [entry(0.5, 3.0)]}})
    assert effective(layer) == (0.75, 1.5)
    patches.set({layer: {"weight": [entry(1.0, 2.0)]}})
    assert effective(layer) == (2.0, 0.0)
    patches.set({layer: {}})
    assert effective(layer) == (0.0, 0.0)
    patches.set({layer: {"weight": [entry(1.0, 2.0)]}})
    patches.set({})
    assert effective(layer) == (0.0, 0.0) and vars(layer) == before


def set_by_others(layer: Any, value: float) -> None:
    def add(weight: Tensor) -> Tensor:
        return weight + value

    if isinstance(layer, Online):
        layer.forge_online_loras = {"weight": [[1.0, value, 1.0, None, None]]}
    else:
        layer.weight_function = [add] if isinstance(layer, Functions) else add


def test_what_others_have_set_stays(layer: Any, patches: ForwardPatches):
    set_by_others(layer, 10.0)
    patches.set({layer: {"weight": [entry(1.0, 2.0)]}})
    assert effective(layer) == (12.0, 0.0)
    patches.set({layer: {"weight": [entry(0.5, 2.0)]}})
    assert effective(layer) == (11.0, 0.0)
    patches.set({})
    assert effective(layer) == (10.0, 0.0)


def test_what_others_set_in_between_stays(layer: Any, patches: ForwardPatches):
    patches.set({layer: {"weight": [entry(1.0, 2.0)]}})
    set_by_others(layer, 10.0)
    patches.set({})
    assert effective(layer) == (10.0, 0.0)


def test_only_layers_of_the_host_can_be_patched(layer: Any):
    assert can_patch(layer) and not can_patch(nn.Linear(4, 4))
