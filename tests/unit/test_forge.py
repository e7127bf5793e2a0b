"""What is ours of the Forge adapter, without such a host: what it records of the host's loading, parts, and steps."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

from lbw.engine import parameters
from lbw.engine.base_weights import Policy
from lbw.engine.deltas import UnsupportedPartError
from lbw.engine.engine import LoraEngine
from lbw.engine.kernels import torch as kernel
from lbw.hosts.forge.forward_patches import can_patch
from lbw.hosts.forge.ledger import OwnPages
from lbw.hosts.forge.networks import Loading, Network, layer_name
from lbw.hosts.forge.parts import PatchParts
from tests.unit.cuda_on_cpu import available
from tests.unit.networks import GPU_ERRORS
from tests.unit.ulp import ulp_distance

KEY = "diffusion_model.input_blocks.1.1.attn1.to_q.weight"
LAYER = "diffusion_model_input_blocks_1_1_attn1_to_q"
NAMES = (("a", 1.0, 1.0, None),)


class Patcher:
    """A host's model with patches, in one of the ways of keeping them."""

    def __init__(self, model: Any, *, by_file: bool, of_parts: bool) -> None:
        self.model, self.by_file, self.of_parts = model, by_file, of_parts
        self.lora_patches: dict[Any, Any] = {}
        self.patches: dict[str, list[Any]] = {}

    def patched(self, filename: str, values: dict[str, Any], strength: float) -> Patcher:
        new = Patcher(self.model, by_file=self.by_file, of_parts=self.of_parts)
        part = (None, None) if self.of_parts else ()
        entries = {key: [(strength, each, 1.0, *part)] for key, each in values.items()}
        if self.by_file:
            new.lora_patches = {**self.lora_patches, (filename, strength, 1.0, False): entries}
        else:
            new.patches = {key: [*self.patches.get(key, []), *entry] for key, entry in entries.items()}
        return new


class HostModule:
    """The host's module of networks, with what the adapter touches of it."""

    def __init__(self, folder: Path, *, by_file: bool, of_parts: bool) -> None:
        self.files: dict[str, Any] = {"a": {KEY: lora_values(1)}, "b": {KEY: lora_values(2)}, "cut off": None}
        self.available_networks = {
            name: SimpleNamespace(name=name, filename=str(folder / f"{name}.x")) for name in self.files
        }
        for file in self.available_networks.values():
            Path(file.filename).touch()
        self.available_network_aliases = dict(self.available_networks)
        self.forbidden_network_aliases: dict[str, int] = {}
        self.loaded_networks: list[Any] = []
        self.unet = Patcher(nn.Identity(), by_file=by_file, of_parts=of_parts)
        self.clip = SimpleNamespace(patcher=Patcher(nn.Identity(), by_file=by_file, of_parts=of_parts))
        self.last: Any = None
        self.load_lora_state_dict = cache(self._read)
        self.merged: list[Any] = []

    def update_available_networks_by_names(self, names: Sequence[str]) -> None:
        pass

    def list_available_networks(self) -> None:
        pass

    def load_networks(self, names: Sequence[str], te: Sequence[float], unet: Sequence[float], dyn: Any = None) -> None:
        self.loaded_networks[:] = [
            SimpleNamespace(name=name, network_on_disk=self.available_network_aliases[name]) for name in names
        ]
        asked = [*zip(names, te, unet, strict=True)]
        if asked == self.last:
            return
        self.last, model, clip = asked, self.unet, self.clip
        for name, of_te, of_unet in asked:
            file = self.available_network_aliases[name].filename
            tensors = self.load_lora_state_dict(file)
            model, clip = self.load_lora_for_models(model, clip, tensors, of_unet, of_te, filename=file)
        self.merged = [model, clip]

    def _read(self, filename: str) -> dict[str, Any]:
        tensors = self.files[Path(filename).stem]
        if tensors is None:
            raise OSError("the file is cut off")
        return dict(tensors)

    def load_lora_for_models(self, model: Any, clip: Any, lora: Any, unet: float, te: float, filename: str) -> Any:
        return model.patched(filename, lora, unet), SimpleNamespace(patcher=clip.patcher)


def lora_values(seed: int, out: int = 16, into: int = 24, alpha: float | None = 2.0) -> Any:
    random = torch.Generator().manual_seed(seed)
    up, down = torch.randn(out, 4, generator=random), torch.randn(4, into, generator=random)
    return "lora", (up * 0.1, down, None if alpha is None else torch.tensor(alpha), None, None)


def delta_of_lora(values: Any) -> Tensor:
    up, down, alpha = values[1][:3]
    return up.double() @ down.double() * (1.0 if alpha is None else float(alpha) / len(down))


@pytest.fixture(
    params=[(True, True), (False, True), (False, False)],
    ids=["patches by file", "patches by key", "patches by key, of whole weights"],
)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> HostModule:
    by_file, of_parts = request.param
    return HostModule(tmp_path, by_file=by_file, of_parts=of_parts)


def forgetting(host: HostModule) -> Loading:
    return Loading(host, lambda: setattr(host, "last", None))


def test_the_host_gets_its_models_back_without_patches(host: HostModule):
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["a", "b"], [0.5, 1.0], [0.8, 1.0])
    assert host.merged == [host.unet, host.clip]
    assert [(net.name, net.te_multiplier, net.unet_multiplier) for net in loading.networks] == [
        ("a", 0.5, 0.8), ("b", 1.0, 1.0),
    ]  # fmt: skip
    assert [[*net.patches] for net in loading.networks] == [[LAYER], [LAYER]]
    assert loading.networks[0].patches[LAYER]["weight"] == [(host.files["a"][KEY], None, None)]


def test_each_pass_is_told_although_the_host_would_not_load_again(host: HostModule):
    host.available_network_aliases["other"] = host.available_networks["a"]
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["a"], [1.0], [1.0])
    (first,) = loading.networks
    host.load_networks(["a"], [1.0], [1.0])
    assert loading.networks == [first]
    host.load_networks([], [], [])
    assert loading.networks == []


def test_a_network_that_is_asked_for_again_is_not_loaded_again(host: HostModule, monkeypatch: pytest.MonkeyPatch):
    loads: list[str] = []
    load = host.load_lora_for_models

    def counted(*args: Any, filename: str, **kwargs: Any) -> Any:
        loads.append(filename)
        return load(*args, filename=filename, **kwargs)

    monkeypatch.setattr(host, "load_lora_for_models", lambda *args, **kwargs: counted(*args[:5], filename=args[5]))
    loading = forgetting(host)
    for _ in range(3):
        loading.begin()
        host.load_networks(["a"], [1.0], [1.0])
        loading.pause()
    assert len(loads) == 1


def test_between_batches_the_host_loads_for_others_as_ever(host: HostModule):
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["a"], [1.0], [1.0])
    loading.pause()
    host.load_networks(["a"], [1.0], [1.0])
    assert host.merged[0] is not host.unet
    loading.begin()
    host.load_networks(["a"], [1.0], [1.0])
    assert host.merged[0] is host.unet


def test_where_nothing_of_ours_has_run_the_host_keeps_what_it_has_loaded(host: HostModule):
    host.load_networks(["a"], [1.0], [1.0])
    merged = host.merged
    forgetting(host).end()
    host.load_networks(["a"], [1.0], [1.0])
    assert host.merged is merged


def test_two_names_of_one_file_are_two_networks(host: HostModule):
    host.available_network_aliases["other"] = host.available_networks["a"]
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["a", "other"], [1.0, 1.0], [1.0, 0.5])
    assert [(net.name, net.unet_multiplier, bool(net.patches)) for net in loading.networks] == [
        ("a", 1.0, True), ("other", 0.5, True),
    ]  # fmt: skip


def test_a_file_that_another_pass_calls_by_another_name_is_another_network(host: HostModule):
    """Whoever is bound to it knows it by its name; the file is not read again."""
    host.available_network_aliases["other"] = host.available_networks["a"]
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["a"], [1.0], [1.0])
    (first,) = loading.networks
    host.load_networks(["other"], [1.0], [1.0])
    (second,) = loading.networks
    assert (first.name, second.name) == ("a", "other") and second.patches is first.patches
    host.load_networks(["other"], [0.5], [0.5])
    assert loading.networks == [second]


def test_a_model_without_weights_to_patch_gets_its_networks_from_the_host(host: HostModule):
    loading = Loading(host, lambda: setattr(host, "last", None), lambda: True)
    loading.begin()
    host.load_networks(["a"], [0.5], [0.3])
    assert host.merged[0] is not host.unet
    (network,) = loading.networks
    assert network.fault and not network.patches


def test_a_name_without_a_file_costs_that_lora_alone(host: HostModule):
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["nope", "a"], [0.1, 0.5], [0.2, 0.8], [None, None])
    assert [(net.name, net.te_multiplier, net.unet_multiplier) for net in loading.networks] == [("a", 0.5, 0.8)]


def test_a_file_that_cannot_be_read_costs_that_lora_alone(host: HostModule):
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["cut off", "a"], [1.0, 0.5], [1.0, 0.8])
    assert [(net.name, net.fault) for net in loading.networks] == [
        ("cut off", "its file cannot be read (OSError)"), ("a", None),
    ]  # fmt: skip
    assert not loading.networks[0].patches and loading.networks[1].patches


def test_a_file_that_the_host_stumbles_over_costs_that_lora_alone(host: HostModule, monkeypatch: pytest.MonkeyPatch):
    load = host.load_lora_for_models

    def stumble(model: Any, clip: Any, lora: Any, *args: Any, **kwargs: Any) -> Any:
        if lora[KEY] is host.files["b"][KEY]:
            raise ValueError("of another model")
        return load(model, clip, lora, *args, **kwargs)

    monkeypatch.setattr(host, "load_lora_for_models", stumble)
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["b", "a"], [1.0, 1.0], [1.0, 1.0])
    for _pass in range(2):
        assert [net.fault for net in loading.networks] == ["the host cannot load its file (ValueError)", None]
        host.load_networks(["b", "a"], [1.0, 1.0], [1.0, 1.0])
    loading.end()
    monkeypatch.undo()
    loading.begin()
    host.load_networks(["b", "a"], [1.0, 1.0], [1.0, 1.0])
    assert [net.fault for net in loading.networks] == [None, None], "the next time it may be read"


def test_a_file_that_was_replaced_is_read_again(host: HostModule):
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["a"], [1.0], [1.0])
    host.files["a"] = {KEY: lora_values(7)}
    host.load_networks(["a"], [1.0], [1.0])
    os.utime(host.available_networks["a"].filename, (1, 1))
    old = loading.networks[0]
    host.load_networks(["a"], [1.0], [1.0])
    assert loading.networks != [old]
    assert loading.networks[0].patches[LAYER]["weight"] == [(host.files["a"][KEY], None, None)]


def test_names_that_the_host_was_not_asked_for_are_told_apart_from_those_it_could_not_load(host: HostModule):
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["nope", "a"], [1.0, 1.0], [1.0, 1.0])
    assert loading.asked == {"nope", "a"}
    loading.end()
    assert not loading.asked


def test_afterwards_the_host_loads_by_itself(host: HostModule):
    load = host.load_networks
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["a"], [1.0], [1.0])
    loading.end()
    assert host.load_networks == load and loading.networks == []
    host.load_networks(["a"], [1.0], [1.0])
    assert host.merged[0] is not host.unet, "it looks again at what it had not loaded itself"


def test_networks_go_when_nobody_has_them(host: HostModule):
    loading = forgetting(host)
    loading.begin()
    host.load_networks(["a"], [1.0], [1.0])
    loading.end()
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Network)]


def host_merge(entries: Sequence[Any], weight: Tensor) -> Tensor:
    """Half of the weight is added for each patch of a kind that only the host knows."""
    return weight + sum(0.5 * weight for _entry in entries)


def delta(values: Any, shape: tuple[int, ...] = (16, 24), dtype: torch.dtype = torch.float32) -> Any:
    part = {"weight": [(values, None, None)]}
    return PatchParts(host_merge, can_patch).delta(Network("a"), part, torch.Size(shape), dtype)


@pytest.mark.parametrize("alpha", [2.0, None])
def test_a_lora_is_its_formula(alpha: float | None):
    values = lora_values(1, alpha=alpha)
    found = delta(values).materialize(torch.device("cpu"), torch.float64).reshape(16, 24)
    assert torch.allclose(found, delta_of_lora(values), rtol=1e-6)


def test_a_loha_and_a_lokr_are_their_formulas():
    random = torch.Generator().manual_seed(3)
    a, b, c, d = (torch.randn(*size, generator=random) for size in ((16, 2), (2, 24), (16, 2), (2, 24)))
    found = delta(("loha", (a, b, torch.tensor(1.0), c, d, None, None, None)))
    wanted = (a.double() @ b.double()) * (c.double() @ d.double()) / 2
    assert torch.allclose(found.materialize(torch.device("cpu"), torch.float64).reshape(16, 24), wanted, rtol=1e-5)
    w1, w2a, w2b = (torch.randn(*size, generator=random) for size in ((4, 4), (4, 2), (2, 6)))
    found = delta(("lokr", (w1, None, torch.tensor(1.0), None, None, w2a, w2b, None, None)))
    wanted = torch.kron(w1.double(), w2a.double() @ w2b.double()) / 2
    assert torch.allclose(found.materialize(torch.device("cpu"), torch.float64).reshape(16, 24), wanted, rtol=1e-5)


def test_an_adapter_object_is_read_as_a_tuple_is():
    kind, values = lora_values(1)
    found = delta(SimpleNamespace(name=kind, weights=(*values, None)))
    assert torch.allclose(found.materialize(torch.device("cpu"), torch.float64).reshape(16, 24),
                          delta_of_lora((kind, values)), rtol=1e-6)


@pytest.mark.parametrize(
    "values",
    [("oft", (None,)), ("lora", (*lora_values(1)[1][:4], torch.ones(16, 1))), ("set", (torch.ones(16, 24),))],
    ids=["another type", "DoRA", "set"],
)
def test_what_has_no_formula_here_is_merged_by_the_host(values: Any):
    weight = torch.randn(16, 24)
    assert torch.allclose(delta(values).compute(weight), 0.5 * weight)


def fused(*patches: Any, shape: tuple[int, ...]) -> Any:
    part = {"weight": [*patches]}
    return PatchParts(host_merge, can_patch).delta(Network("a"), part, torch.Size(shape), torch.float32)


@pytest.mark.parametrize("dimension", [0, 1])
def test_parts_of_a_fused_weight_are_one_delta(dimension: int):
    first, second = lora_values(1), lora_values(2, alpha=8.0)
    shape = (48, 24) if dimension == 0 else (16, 72)
    size = shape[dimension] // 3
    found = fused(
        (first, (dimension, 0, size), None), (second, (dimension, 2 * size, size), None), shape=shape
    ).materialize(torch.device("cpu"), torch.float64)
    wanted = torch.zeros(shape, dtype=torch.float64)
    wanted.narrow(dimension, 0, size).copy_(delta_of_lora(first))
    wanted.narrow(dimension, 2 * size, size).copy_(delta_of_lora(second))
    assert torch.allclose(found.reshape(shape), wanted, rtol=1e-5)


def test_a_part_of_a_fused_weight_that_does_not_fit_is_refused():
    with pytest.raises(UnsupportedPartError):
        fused((lora_values(1), (0, 0, 12), None), shape=(48, 24))


def test_parts_of_a_fused_weight_that_are_no_loras_are_merged_by_the_host():
    values = ("loha", (*lora_values(1)[1][:3], *lora_values(2)[1][:2], None, None, None))
    weight = torch.randn(48, 24)
    assert torch.allclose(fused((values, (0, 0, 16), None), shape=(48, 24)).compute(weight), 0.5 * weight)


def test_a_part_for_another_shape_is_refused_by_name():
    with pytest.raises(UnsupportedPartError, match=r"16x24, the layer's is \(16, 32\)"):
        delta(lora_values(1), shape=(16, 32))


@pytest.mark.parametrize("error", GPU_ERRORS, ids=str)
def test_a_part_for_which_the_gpu_failed_is_not_refused(error: RuntimeError, monkeypatch: pytest.MonkeyPatch):
    parts, network, part = PatchParts(host_merge, can_patch), Network("a"), {"weight": [(lora_values(1), None, None)]}
    arguments = (network, part, torch.Size((16, 24)), torch.float32)
    with monkeypatch.context() as patched, pytest.raises(type(error)):
        patched.setattr(parts, "_delta", Mock(side_effect=error))
        parts.delta(*arguments)
    assert parts.delta(*arguments).materialize(torch.device("cpu"), torch.float64).any()


class Bed:
    """A layer with a bias, and the engine with this family's ledger and parts."""

    def __init__(self, device: str, policy: Policy) -> None:
        torch.manual_seed(1)
        self.layer = nn.Linear(24, 16).half().to(device).requires_grad_(False)
        self.base, self.bias = self.layer.weight.clone(), self.layer.bias.clone()
        self.engine = LoraEngine(OwnPages(), PatchParts(host_merge, can_patch), policy, device=torch.device(device))
        self.network = Network("a", patches={LAYER: {
            "weight": [(lora_values(1), None, None)], "bias": [(("diff", (torch.ones(16),)), None, None)],
        }})  # fmt: skip

    def update(self, strength: float, *, samples: bool = True) -> int:
        self.engine.bind(self, {LAYER: self.layer}, [self.network])
        return self.engine.manual_lora_update({LAYER: (strength,)}, NAMES, samples=samples).layers_updated

    def has(self, strength: float) -> bool:
        delta = strength * delta_of_lora(lora_values(1)).to(self.base.device)
        return ulp_distance(self.layer.weight, (self.base.double() + delta).half()) <= 1

    def is_pristine(self) -> bool:
        return self.layer.weight.equal(self.base) and self.layer.bias.equal(self.bias)


BEDS = [("cpu", "single", Policy.AUTO)]
BEDS += [(device, "grouped", policy) for device in ("cpu", "cuda") for policy in (Policy.GPU, Policy.LEAN, Policy.RAM)]


@pytest.fixture(params=BEDS, ids=lambda place: f"{place[0]}-{place[1]}-{place[2].value}")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    device, way, policy = request.param
    with available(device, way):
        yield Bed(device, policy)


def test_weight_and_bias_are_written_and_brought_back_at_rest(bed: Bed):
    assert bed.engine.rests
    assert bed.update(0.5) == 1
    assert bed.has(0.5)
    assert torch.allclose(bed.layer.bias.float(), bed.bias.float() + 0.5, rtol=1e-3)
    bed.engine.settle()
    assert bed.is_pristine()


def test_a_layer_that_is_not_at_work_waits(bed: Bed):
    assert bed.update(1.0, samples=False) == 0 and bed.is_pristine()
    assert [bound.layer for bound in bed.engine.waiting] == [bed.layer]
    assert bed.update(1.0) == 1 and not bed.engine.waiting


@pytest.mark.parametrize(("failures", "strength"), [(1, 1.0), (2, 0.0)])
def test_an_update_that_fails_leaves_nothing_wrong(
    monkeypatch: pytest.MonkeyPatch, failures: int, strength: float
):
    """Nobody else would restore the layer."""
    bed, write = Bed("cpu", Policy.AUTO), kernel.update_weight
    left = [MemoryError("no memory")] * failures

    def fail(weight: Tensor, *args: Any) -> Any:
        if left:
            weight.zero_()
            raise left.pop()
        return write(weight, *args)

    monkeypatch.setattr(kernel, "update_weight", fail)
    bed.update(1.0)
    assert bed.has(strength)
    assert [bound.layer for bound in bed.engine.failed] == [bed.layer] * (strength == 0)
    bed.update(0.5)
    assert bed.has(0.5) and not bed.engine.failed
    bed.engine.settle()
    assert bed.is_pristine()


def test_an_engine_without_binding_keeps_no_layer_in_memory(bed: Bed):
    bed.update(1.0)
    bed.engine.unbind()
    layer = ref(bed.layer)
    del bed.layer
    gc.collect()
    assert layer() is None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_in_8_bits_are_rounded_where_the_host_adds_nothing_in_forwards(dtype: torch.dtype):
    bed = Bed("cpu", Policy.AUTO)
    bed.layer.weight = nn.Parameter(bed.base.to(dtype), requires_grad=False)
    base = bed.layer.weight.clone()
    for strength in (1.0, 0.5, 0.0):
        bed.update(strength)
        wanted = (base.double() + strength * delta_of_lora(lora_values(1))).to(dtype)
        assert bed.layer.weight.float().equal(wanted.float())
    bed.update(1.0)
    bed.engine.settle()
    assert bed.layer.weight.view(torch.uint8).equal(base.view(torch.uint8))


def test_layers_that_stay_on_the_cpu_can_be_written_there(bed: Bed):
    bed.engine.device = torch.device("meta")
    assert bed.update(1.0) == 0 and bed.is_pristine()
    assert bed.engine.write_where_they_are({LAYER})
    assert bed.update(1.0) == 1 and bed.has(1.0) and not bed.engine.waiting
    assert bed.update(0.3) == 1 and bed.has(0.3)
    bed.engine.settle()
    assert bed.is_pristine()
    assert bed.update(0.5) == 1 and bed.has(0.5)
    bed.engine.settle()
    assert bed.is_pristine()


@pytest.mark.parametrize("then", [1.0, 0.5, 0.0])
def test_a_layer_that_leaves_the_device_patched_is_restored_before_the_host_adds_anything(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, then: float
):
    """Somebody moves it, unannounced; the host would add to a weight that has it all already."""
    bed.update(1.0)
    if bed.layer.weight.is_cuda:
        bed.layer.to("cpu")
        bed.base, bed.bias = bed.base.to("cpu"), bed.bias.to("cpu")
    else:
        monkeypatch.setattr(parameters, "device_of", lambda layer: torch.device("cuda"))
    bed.update(then)
    assert bed.is_pristine() if bed.engine.waiting or not then else bed.has(then)
    bed.engine.settle()
    assert bed.is_pristine()


def test_layers_that_stay_elsewhere_are_noticed(bed: Bed):
    """On a host whose GPU's memory is short."""
    bed.update(1.0, samples=False)
    assert not bed.engine.works_elsewhere
    bed.layer.weight = nn.Parameter(bed.base.to("meta"), requires_grad=False)
    assert bed.engine.works_elsewhere


@pytest.mark.parametrize("in_place", [False, True])
def test_weights_that_the_host_has_replaced_at_rest_are_the_pristine_ones(bed: Bed, in_place: bool):
    """It merges what another extension patches while nothing of ours is in them."""
    for _ in range(3):
        bed.update(1.0)
        bed.engine.settle()
        bed.base = torch.randn(16, 24).half().to(bed.layer.weight.device)
        if in_place:
            bed.layer.weight.copy_(bed.base)
        else:
            bed.layer.weight = nn.Parameter(bed.base.clone(), requires_grad=False)
        bed.update(1.0)
        assert bed.has(1.0)
        bed.update(0.3)
        assert bed.has(0.3)
        bed.engine.settle()
        assert bed.is_pristine()


def test_layers_have_the_names_that_blocks_are_found_by():
    assert layer_name(KEY) == LAYER
