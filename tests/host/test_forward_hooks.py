"""Told of what the host does to its model: parts that are about to work, and models that leave the GPU."""

from __future__ import annotations

import copy
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.host.conftest import Bench


class Block(nn.Module):
    """Two layers in a row, in a container as the host's blocks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts(x)


class Model(nn.Module):
    """A layer, and a list of three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([Block(), Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def hooks(_bench: Bench) -> Any:
    from lbw.hosts.forward_hooks import ForwardHooks

    return ForwardHooks()


@pytest.fixture
def departures(_bench: Bench) -> Any:
    from lbw.hosts.model_moves import Departures

    return Departures()


@pytest.fixture
def seen() -> SimpleNamespace:
    calls: list[str] = []
    return SimpleNamespace(calls=calls, one=lambda: calls.append("one"), two=lambda: calls.append("two"))


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_called_once_before_each_block_that_layers_are_in(hooks: Any, seen: SimpleNamespace):
    model = Model()
    wanted = [*model.blocks[0].parts, model.blocks[2].parts[1]]
    hooks.set(model, dict.fromkeys(wanted, seen.one))
    model(torch.ones(1, 4))
    assert seen.calls == ["one", "one"]
    model.blocks[1](torch.ones(1, 4))
    assert seen.calls == ["one", "one"]


def test_a_layer_in_no_list_is_a_block_by_itself(hooks: Any, seen: SimpleNamespace):
    model = Model()
    hooks.set(model, {model.embed: seen.one})
    model(torch.ones(1, 4))
    assert seen.calls == ["one"]


def test_what_is_no_longer_asked_for_is_taken_away(hooks: Any, seen: SimpleNamespace):
    model = Model()
    hooks.set(model, {model.embed: seen.one, model.blocks[0].parts[0]: seen.one})
    hooks.set(model, {model.embed: seen.two, model.blocks[1].parts[0]: seen.one})
    model(torch.ones(1, 4))
    assert seen.calls == ["two", "one"]
    hooks.set(model, {})
    assert hooks_of(model) == 0


def test_cleared_nothing_is_called_any_more(hooks: Any, seen: SimpleNamespace):
    model = Model()
    hooks.set(model, {model.blocks[0].parts[0]: seen.one, model.embed: seen.two})
    hooks.clear()
    assert hooks_of(model) == 0


def test_another_model_takes_the_place_of_one_that_is_gone(hooks: Any, seen: SimpleNamespace):
    first, second = Model(), Model()
    hooks.set(first, {first.embed: seen.one})
    hooks.set(second, {second.embed: seen.one})
    assert hooks_of(first) == 0
    second(torch.ones(1, 4))
    assert seen.calls == ["one"]


def test_a_block_that_has_taken_the_place_of_another_is_found(hooks: Any, seen: SimpleNamespace):
    """As the host's wrappers around text encoders, which it makes anew with each checkpoint."""
    model = Model()
    hooks.set(model, {model.blocks[1].parts[0]: seen.one})
    hooks.set(model, {})
    model.blocks[1] = nn.Sequential(model.blocks[1])
    hooks.set(model, {model.blocks[1][0].parts[0]: seen.one})
    model(torch.ones(1, 4))
    assert seen.calls == ["one"]


def test_called_behind_the_hosts_own_hook_which_has_sent_the_block_to_the_gpu(hooks: Any, seen: SimpleNamespace):
    model = Model()
    model.blocks[0].register_forward_pre_hook(lambda _module, _inputs: seen.calls.append("host"))
    hooks.set(model, {model.blocks[0].parts[0]: seen.one})
    model(torch.ones(1, 4))
    assert seen.calls == ["host", "one"]


@pytest.mark.parametrize(
    ("move", "leaves"),
    [
        (lambda module: module.to("cpu"), True),
        (lambda module: module.to(torch.device("cpu")), True),
        (lambda module: module.to(device="cpu", dtype=torch.float16), True),
        (lambda module: module.to("meta"), False),
        (lambda module: module.to(torch.float16), False),
        (lambda module: module.to(dtype=torch.float16), False),
    ],
)
def test_told_before_a_module_leaves_for_the_cpu(departures: Any, move: Any, leaves: bool):
    module, calls = nn.Linear(2, 2), []
    departures.watch([module], lambda: calls.append(module.weight.dtype))
    assert move(module) is module
    assert calls == ([torch.float32] if leaves else [])


def test_told_before_other_weights_are_loaded(departures: Any):
    module, other, calls = nn.Linear(2, 2), nn.Linear(2, 2), []
    before = module.weight.detach().clone()
    departures.watch([module], lambda: calls.append(module.weight.equal(before)))
    module.load_state_dict(other.state_dict())
    assert calls == [True] and module.weight.equal(other.weight)
    departures.watch([], lambda: None)
    assert "load_state_dict" not in vars(module)


def test_told_before_the_host_merges_other_patches_into_a_model_than_those_that_are_in_it(_bench: Bench):
    from lbw.hosts.model_moves import Departures

    calls: list[str] = []
    memory = ModuleType("memory_management")
    memory.load_models_gpu = lambda models, memory_required=0: calls.append("load")  # type: ignore[attr-defined]
    load = memory.load_models_gpu
    module = nn.Linear(2, 2)
    known, new, other = (SimpleNamespace(model=each) for each in (module, module, nn.Linear(2, 2)))
    memory.current_loaded_models = [SimpleNamespace(model=known)]  # type: ignore[attr-defined]
    departures = Departures(memory)
    departures.watch([module], lambda: calls.append("told"))
    memory.load_models_gpu([known, other], memory_required=1)
    memory.load_models_gpu([other, new])
    assert calls == ["load", "told", "load"]
    departures.watch([], lambda: None)
    assert memory.load_models_gpu is load


def test_watched_no_more_a_module_is_as_before(departures: Any):
    first, second, calls = nn.Linear(2, 2), nn.Linear(2, 2), []
    departures.watch([first], lambda: calls.append("first"))
    departures.watch([second], lambda: calls.append("second"))
    assert "to" not in vars(first)
    first.to("cpu")
    assert calls == []
    departures.watch([second], lambda: calls.append("again"))
    second.to("cpu")
    assert calls == ["again"], "once, and not through each other"
    departures.watch([], lambda: None)
    assert "to" not in vars(second)


def test_the_to_that_somebody_else_has_put_there_is_kept(departures: Any):
    module, calls = nn.Linear(2, 2), []
    vars(module)["to"] = lambda *_args: calls.append("theirs")
    departures.watch([module], lambda: calls.append("ours"))
    module.to("cpu")
    assert calls == ["ours", "theirs"]
    departures.watch([], lambda: None)
    module.to("cpu")
    assert calls == ["ours", "theirs", "theirs"]


def test_a_to_that_somebody_else_puts_over_ours_goes_on_working(departures: Any):
    module, calls = nn.Linear(2, 2), []
    departures.watch([module], lambda: calls.append("ours"))
    over = module.to
    vars(module)["to"] = lambda *args: (calls.append("theirs"), over(*args))[1]
    departures.watch([], lambda: None)
    assert module.to("cpu") is module
    assert calls == ["theirs"]


def test_a_copy_of_a_watched_module_is_moved_and_no_other(departures: Any):
    module = nn.Linear(2, 2)
    departures.watch([module], lambda: None)
    twin = copy.deepcopy(module)
    assert twin.to(torch.float16) is twin
    assert (twin.weight.dtype, module.weight.dtype) == (torch.float16, torch.float32)
