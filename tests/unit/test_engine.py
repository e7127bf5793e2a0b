"""The engine's promises, on the CPU and, where there is one, on a CUDA GPU."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lbw.engine.base_weights import Policy
from lbw.engine.batch import Batch
from lbw.engine.batches import Batches
from lbw.engine.kernels import torch as kernel
from lbw.engine.ledger import Names
from lbw.engine.recoverable import Recoverable
from lbw.plan.plan import Coefficients
from tests.unit.cuda_on_cpu import available
from tests.unit.networks import Network, batches_of, lora_engine, random_network, small_model
from tests.unit.ulp import ulp_distance


class Bed:
    """A small model, its pristine weights, networks, and the engine."""

    def __init__(self, dtype: torch.dtype, device: str, way: str, policy: Policy) -> None:
        self.way, self.device = way, device
        self.is_slow = way == "grouped" and device == "cpu"
        # A code takes whole strips of rows.
        self.layers = small_model(dtype, device, taller=8 if policy is Policy.LEAN else 1)
        self.base = {name: layer.weight.clone() for name, layer in self.layers.items()}
        self.biases = {name: layer.bias.clone() for name, layer in self.layers.items() if layer.bias is not None}
        size = 0.0005 if policy is Policy.LEAN else 0.01
        self.networks = [
            random_network("a", self.layers, rank=4, seed=1, dtype=dtype, size=size),
            random_network("b", self.layers, rank=16, seed=2, dtype=dtype, size=size),
            random_network("c", self.layers, rank=3, seed=3, dtype=dtype, size=size),
        ]
        self.engine = lora_engine(policy, device=torch.device(device), is_grouping=way == "grouped")

    def names(self, networks: list[Network] | None = None) -> tuple[tuple[object, ...], ...]:
        nets = self.networks if networks is None else networks
        return tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in nets)

    def update(self, coefficients: Mapping[str, tuple[float, ...]]) -> int:
        self.engine.bind(self, self.layers, self.networks)
        return self.engine.manual_lora_update(coefficients, self.names()).layers_updated

    @property
    def is_grouped(self) -> bool:
        """Whether the last updates were done by launches."""
        written = [bound for batch in batches_of(self.engine) for bound in batch.layers]
        return len(written) == len(self.layers) and not self.engine.waiting

    def all(self, *values: float) -> dict[str, tuple[float, ...]]:
        return dict.fromkeys(self.layers, values)

    def reference(self, coefficients: Mapping[str, tuple[float, ...]]) -> dict[str, Tensor]:
        """The correctly rounded float64 result."""
        wanted = {}
        for name, base in self.base.items():
            total = base.double().cpu()
            for net, coefficient in zip(self.networks, coefficients[name], strict=True):
                total = total + coefficient * net.modules[name].delta().cpu().reshape(base.shape)
            wanted[name] = total.to(base.dtype)
        return wanted

    def worst_ulp(self, coefficients: Mapping[str, tuple[float, ...]]) -> int:
        wanted = self.reference(coefficients)
        return max(ulp_distance(layer.weight, wanted[name]) for name, layer in self.layers.items())

    def is_pristine(self) -> bool:
        return all(layer.weight.equal(self.base[name]) for name, layer in self.layers.items())


FLOATS = (torch.float16, torch.bfloat16, torch.float32)
PLACES = [
    *[(device, dtype, "single", Policy.AUTO) for device in ("cpu", "cuda") for dtype in FLOATS],
    *[
        (device, dtype, "grouped", policy)
        for device in ("cpu", "cuda") for dtype in FLOATS[:2] for policy in (Policy.AUTO, Policy.LEAN)
    ],
]


def name_of(place: tuple[str, torch.dtype, str, Policy]) -> str:
    device, dtype, way, policy = place
    return f"{device}-{str(dtype)[6:]}-{way}-{policy.value}"


def bed_at(place: tuple[str, torch.dtype, str, Policy]) -> Iterator[Bed]:
    """The body of a fixture: a bed, if this machine has the place."""
    device, dtype, way, policy = place
    with available(device, way):
        yield Bed(dtype, device, way, policy)


@pytest.fixture(params=PLACES, ids=name_of)
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    yield from bed_at(request.param)


def test_every_weight_is_the_correctly_rounded_sum_to_one_unit_in_the_last_place(bed: Bed):
    for values in [(1.0, 0.0, 0.0), (0.7, -0.5, 1.3), (0.0, 0.0, -1.0), (2.0, 2.0, 2.0)]:
        coefficients = bed.all(*values)
        bed.update(coefficients)
        assert bed.worst_ulp(coefficients) <= 1
    assert bed.is_grouped == (bed.way != "single")


def test_a_factor_that_is_no_number_does_no_harm_at_strength_0(bed: Bed):
    for name in list(bed.layers)[::2]:
        bed.networks[1].modules[name].up_model.weight[0, 0] = float("inf")
    bed.update(bed.all(0.5, 0.0, -1.0))
    del bed.networks[1]
    assert bed.worst_ulp(bed.all(0.5, -1.0)) <= 1


def test_layers_that_change_together_and_then_by_themselves_stay_exact(bed: Bed):
    groups = {name: index for index, name in enumerate(bed.layers)}
    for first, others in [(0.2, 0.2), (0.5, 0.5), (0.9, 0.9), (0.3, 0.9), (0.5, 0.5), (-0.4, 0.5)]:
        values = [(first if index == 0 else others,) * len(bed.networks) for index in range(len(groups))]
        bed.update(Coefficients(groups, values))
        assert bed.worst_ulp({name: values[index] for name, index in groups.items()}) <= 1
    bed.update(bed.all(0.0, 0.0, 0.0))
    assert bed.is_pristine()


def test_after_many_switches_everything_off_is_the_base_bit_for_bit(bed: Bed):
    choice = random.Random(5)
    for _ in range(15 if bed.is_slow else 1000):
        values = [0.0, 0.0, 1.0, 0.3, -0.7]
        bed.update({name: tuple(choice.choices(values, k=len(bed.networks))) for name in bed.layers})
    coefficients = bed.all(0.6, 0.0, -1.1)
    bed.update(coefficients)
    assert bed.worst_ulp(coefficients) <= 1, "the path to a state must not show in it"
    bed.update(bed.all(0.0, 0.0, 0.0))
    assert bed.is_pristine()


def test_only_layers_whose_coefficients_differ_are_touched(bed: Bed):
    first, *others = bed.layers
    assert bed.update(bed.all(1.0, 0.0, 0.0)) == len(bed.layers)
    assert bed.update(bed.all(1.0, 0.0, 0.0)) == 0
    changed = {**bed.all(1.0, 0.0, 0.0), first: (0.5, 0.0, 0.0)}
    versions = [bed.layers[name].weight._version for name in others]
    assert bed.update(changed) == 1
    assert [bed.layers[name].weight._version for name in others] == versions


def test_the_host_is_told_what_it_wants_to_hear_and_has_the_true_base(bed: Bed):
    bed.update(bed.all(0.5, 0.5, 0.5))
    for name, layer in bed.layers.items():
        assert layer.network_current_names == bed.names()
        assert layer.network_weights_backup.cpu().equal(bed.base[name].cpu())


def test_after_a_pass_no_layer_claims_to_hold_what_it_does_not(bed: Bed):
    first = next(iter(bed.layers))
    bed.update({**bed.all(0.5, 0.0, 0.0), first: (0.0, 0.0, 0.0)})
    bed.engine.end_pass(names_are_true=False)
    for name, layer in bed.layers.items():
        names = layer.network_current_names
        assert names != bed.names()
        assert names != () or name == first
    assert bed.update({**bed.all(0.5, 0.0, 0.0), first: (0.0, 0.0, 0.0)}) == 0, "what is in the weights is still known"


def test_release_leaves_the_layers_as_if_the_engine_had_never_run(bed: Bed):
    bed.update(bed.all(0.5, 1.0, 0.0))
    bed.engine.release()
    assert bed.is_pristine()
    for layer in bed.layers.values():
        assert layer.network_current_names == ()
        assert layer.network_weights_backup is None


def test_a_checkpoint_loaded_into_the_layers_becomes_the_new_base(bed: Bed):
    bed.update(bed.all(1.0, 0.0, 0.0))
    for name, layer in bed.layers.items():
        layer.weight.copy_(bed.base[name] * 2)
        layer.network_current_names = ()
        layer.network_weights_backup = layer.network_bias_backup = None
        bed.base[name] = bed.base[name] * 2
    coefficients = bed.all(0.0, 1.0, 0.0)
    bed.update(coefficients)
    assert bed.worst_ulp(coefficients) <= 1


def test_a_layer_that_the_host_patched_again_is_brought_back(bed: Bed):
    coefficients = bed.all(0.0, 1.0, 0.0)
    bed.update(coefficients)
    name, layer = next(iter(bed.layers.items()))
    layer.weight.copy_(layer.network_weights_backup)
    layer.weight.copy_(bed.base[name] * 3)
    layer.network_current_names = tuple(list(bed.names()))
    assert not bed.engine.holds(bed.names())
    assert bed.update(coefficients) == (4 if bed.way == "grouped" else 1), "the U-Net's layers are a batch"
    assert bed.worst_ulp(coefficients) <= 1


def patch_as_the_host(bed: Bed, index: int) -> None:
    """Have a layer patched with another network, its bias too."""
    name, layer = list(bed.layers.items())[index]
    layer.weight.copy_(layer.network_weights_backup)
    layer.weight.copy_(bed.base[name] * 3)
    if layer.bias is not None:
        layer.network_bias_backup = layer.bias.clone()
        layer.bias.add_(1)
    layer.network_current_names = (("another", 1.0, 1.0, None),)


def check_exact(bed: Bed, coefficients: Mapping[str, tuple[float, ...]]) -> None:
    assert bed.worst_ulp(coefficients) <= 1
    for name, layer in bed.layers.items():
        assert layer.network_current_names == bed.names()
        assert layer.network_weights_backup.cpu().equal(bed.base[name].cpu())
        assert layer.bias is None or layer.bias.equal(bed.biases[name])


@pytest.mark.parametrize("index", [0, 1, -1])
def test_a_layer_that_the_host_patched_between_two_switches_is_found_when_they_are_written(
    bed: Bed, index: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lbw.engine.launch.CUTS", (0.2, 0.5))
    for strength in (1.0, 0.4, 0.7):
        bed.update(bed.all(strength, 0.0, 0.0))
    patch_as_the_host(bed, index)
    coefficients = bed.all(0.5, 0.5, 0.0)
    bed.update(coefficients)
    check_exact(bed, coefficients)
    bed.update(bed.all(0.0, 0.0, 0.0))
    assert bed.is_pristine()


def test_a_layer_that_the_host_patched_is_found_when_layers_change_together_for_the_first_time(bed: Bed):
    first, *_ = bed.layers
    groups = {name: int(name != first) for name in bed.layers}

    def update(one: float, others: float) -> None:
        bed.update(Coefficients(groups, [(one, 0.0, 0.0), (others, 0.0, 0.0)]))

    for one, others in [(0.2, 0.2), (0.3, 0.2), (0.3, 0.4), (0.2, 0.4), (0.2, 0.3)]:
        update(one, others)
    patch_as_the_host(bed, -1)
    update(0.6, 0.5)
    check_exact(bed, {**bed.all(0.5, 0.0, 0.0), first: (0.6, 0.0, 0.0)})


def test_a_failed_update_leaves_the_layer_to_the_host(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    bed.update(bed.all(1.0, 0.0, 0.0))

    def half_done(weight: Tensor, *_: object) -> None:
        if bed.engine.policy is not Policy.LEAN:  # what lean needs is in the weight itself, which is written last
            weight.view(-1)[: weight.numel() // 2] = 0
        raise MemoryError("no memory")

    def fails(*_: object) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(kernel, "update_weight", half_done)
    monkeypatch.setattr(Batch, "_launch", fails)
    assert bed.update(bed.all(0.5, 0.0, 0.0)) == 0
    for name, layer in bed.layers.items():
        assert layer.network_current_names not in ((), bed.names()), "the host must see that it has to restore"
        assert layer.network_weights_backup.cpu().equal(bed.base[name].cpu())
    monkeypatch.undo()
    coefficients = bed.all(0.5, 0.0, 0.0)
    bed.update(coefficients)
    assert bed.worst_ulp(coefficients) <= 1


def test_an_update_that_is_broken_off_leaves_no_layer_that_the_host_takes_for_its_own(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
):
    def broken_off(*_: object) -> None:
        raise KeyboardInterrupt

    bed.update(bed.all(1.0, 0.0, 0.0))
    monkeypatch.setattr(Batch, "_launch", broken_off)
    monkeypatch.setattr(kernel, "update_weight", broken_off)
    with pytest.raises(KeyboardInterrupt):
        bed.update(bed.all(0.5, 0.0, 0.0))
    assert not bed.engine.holds(bed.names())
    for layer in bed.layers.values():
        assert layer.network_current_names not in ((), bed.names())


def test_an_update_that_is_broken_off_while_layers_are_gathered_loses_none_of_them(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
):
    def broken_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "_residence_of", broken_off)
        patch.setattr(kernel, "update_weight", broken_off)  # of layers that are written one by one
        with pytest.raises(KeyboardInterrupt):
            bed.update(bed.all(0.5, 0.0, 0.0))
    coefficients = bed.all(0.5, 0.0, 0.0)
    bed.update(coefficients)
    assert bed.worst_ulp(coefficients) <= 1


@pytest.mark.parametrize("policy", [Policy.GPU, Policy.LEAN, Policy.RAM])
def test_a_layer_at_strength_0_that_the_host_patched_is_found_when_others_are_not_at_0(bed: Bed, policy: Policy):
    bed.engine.policy = policy
    first, *_ = bed.layers
    groups = {name: int(name != first) for name in bed.layers}
    for of_first in (0.3, 0.0):
        bed.update(Coefficients(groups, [(of_first, 0.0, 0.0), (0.5, 0.0, 0.0)]))
    patch_as_the_host(bed, 0)
    coefficients = bed.all(0.5, 0.5, 0.0)
    bed.update(Coefficients(groups, [(0.5, 0.5, 0.0)] * 2))
    assert bed.worst_ulp(coefficients) <= 1
    bed.update(bed.all(0.0, 0.0, 0.0))
    assert bed.is_pristine()


@pytest.mark.parametrize("told", [0, 1])
def test_an_update_that_is_broken_off_while_the_host_is_told_leaves_what_restores_the_layers(
    told: int, bed: Bed, monkeypatch: pytest.MonkeyPatch
):
    def broken_off(batch: Batch, token: Names) -> None:
        for bound in batch.layers[:told]:
            bound.record.token = bound.page.names = token
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):  # none of layers that are written one by one
        patch.setattr(Batch, "_tell", broken_off)
        bed.update(bed.all(0.5, 0.0, 0.0))
    bed.update(bed.all(0.0, 0.0, 0.0))
    assert all(layer.weight.cpu().equal(bed.base[name].cpu()) for name, layer in bed.layers.items())


def test_a_launch_that_fails_is_made_good_layer_by_layer(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    launch = Batch._launch

    def fails_at_the_end(batch: Batch, *arguments: Any) -> bool:
        launch(batch, *arguments)
        raise RuntimeError("no compiler")

    monkeypatch.setattr(Batch, "_launch", fails_at_the_end)
    for coefficients in (bed.all(1.0, 0.0, 0.0), bed.all(0.0, 0.5, 0.5)):
        assert bed.update(coefficients) == len(bed.layers)
        assert bed.worst_ulp(coefficients) <= 1


@pytest.mark.parametrize("policies", [(Policy.RAM, Policy.GPU), (Policy.GPU, Policy.RAM)], ids=str)
def test_the_memory_policy_can_change_between_two_switches(bed: Bed, policies: tuple[Policy, Policy]):
    for policy, coefficients in zip(policies, (bed.all(0.3, 0.0, 1.0), bed.all(1.0, 0.5, 0.0)), strict=True):
        bed.engine.policy = policy
        bed.engine.bind(bed, bed.layers, bed.networks)
        bed.engine.begin_pass(Coefficients.of(bed.all(1.0, 1.0, 1.0)))
        bed.update(coefficients)
        assert bed.engine.placement is policy or bed.device == "cpu"
        assert bed.worst_ulp(coefficients) <= 1
    bed.update(bed.all(0.0, 0.0, 0.0))
    assert bed.is_pristine()


@pytest.mark.parametrize("bed", [place for place in PLACES if place[3] is Policy.LEAN], ids=name_of, indirect=True)
def test_lean_keeps_no_copy_and_at_most_a_quarter_of_the_memory(bed: Bed):
    for coefficients in (bed.all(1.0, 0.0, 0.0), bed.all(0.2, 0.7, -1.0), bed.all(0.0, 3.0, 0.5)):
        bed.update(coefficients)
        assert bed.worst_ulp(coefficients) <= 1
        assert bed.engine.placement is Policy.LEAN
        codes = [launch.codes for batch in batches_of(bed.engine) for launch in batch._launches]
        assert 4 * sum(code.nbytes for code in codes) <= sum(layer.weight.nbytes for layer in bed.layers.values())
        for layer in bed.layers.values():
            assert isinstance(layer.__dict__["network_weights_backup"], Recoverable)
    for name, layer in bed.layers.items():
        assert layer.network_weights_backup.cpu().equal(bed.base[name].cpu()), "whoever reads the backup gets the base"


def test_parameters_that_moved_are_found_again(bed: Bed):
    """The host moves models to the CPU and back; the old addresses then belong to somebody else."""
    for strength in (1.0, 0.4, 0.2):
        bed.update(bed.all(strength, 0.0, 0.0))
    strangers = []
    for layer in bed.layers.values():
        strangers.append(layer.weight.data)
        layer.weight.data = layer.weight.data.clone()
        strangers[-1].fill_(7.0)
    coefficients = bed.all(0.5, 0.5, 0.0)
    bed.update(coefficients)
    assert bed.worst_ulp(coefficients) <= 1
    assert all((stranger == 7.0).all() for stranger in strangers)


def test_a_weight_that_moved_is_found_after_others_have_been_written(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lbw.engine.launch.CUTS", (0.2, 0.5))
    for strength in (1.0, 0.4):
        bed.update(bed.all(strength, 0.0, 0.0))
    last = list(bed.layers.values())[-1]
    stranger = last.weight.data
    last.weight.data = stranger.clone()
    stranger.fill_(7.0)
    coefficients = bed.all(0.5, 0.5, 0.0)
    bed.update(coefficients)
    assert bed.worst_ulp(coefficients) <= 1 and (stranger == 7.0).all()
    bed.update(bed.all(0.0, 0.0, 0.0))
    assert bed.is_pristine()


@pytest.mark.parametrize("bed", [place for place in PLACES if place[3] is Policy.LEAN], ids=name_of, indirect=True)
def test_a_layer_with_the_nan_that_the_lean_kernel_cannot_keep_is_copied(bed: Bed):
    name, layer = next(iter(bed.layers.items()))
    layer.weight.data.view(torch.int16)[0, 0] = -1
    for strength in (1.0, 0.5, 0.0):
        bed.update(bed.all(strength, 0.0, 0.0))
    assert layer.weight.view(torch.int16)[0, 0] == -1
    assert type(layer.network_weights_backup) is Tensor
    assert all(type(other.network_weights_backup) is Recoverable for other in [*bed.layers.values()][1:])
    del bed.layers[name]
    assert bed.is_pristine()


def test_layers_that_are_on_the_cpu_at_one_step_and_on_the_gpu_at_the_next(bed: Bed):
    """As with --medvram and --lowvram, where one part of the model is on the GPU at a time."""
    home = next(iter(bed.base.values())).device
    for step, strength in enumerate((1.0, 0.6, 0.6, 0.2, -0.7, 0.0)):
        coefficients = bed.all(strength, 0.5 * strength, 0.0)
        wanted = bed.reference(coefficients)
        for away in (lambda number, step=step: (step + number) % 3, lambda number: False):
            for number, layer in enumerate(bed.layers.values()):
                layer.to("cpu" if away(number) else home)
            bed.update(coefficients)
            waiting = {bound.keys[0] for bound in bed.engine.waiting}
            for name, layer in bed.layers.items():
                assert name in waiting or ulp_distance(layer.weight, wanted[name]) <= bool(strength)
        assert not waiting, "all have come home"


def test_dyn_dim_cuts_the_rank(bed: Bed):
    for net in bed.networks:
        net.dyn_dim = 2
    coefficients = bed.all(1.0, 1.0, 0.0)
    bed.update(coefficients)
    assert bed.worst_ulp(coefficients) <= 1


def test_the_cp_form_is_as_exact_as_its_factors(bed: Bed):
    convs = {name: layer for name, layer in bed.layers.items() if isinstance(layer, nn.Conv2d)}
    bed.networks = [random_network("mid", convs, rank=4, seed=9, dtype=next(iter(bed.base.values())).dtype, mid=True)]
    bed.base = {name: bed.base[name] for name in convs}
    bed.layers = convs
    coefficients = bed.all(0.8)
    bed.update(coefficients)
    assert bed.worst_ulp(coefficients) <= 1


def test_a_part_for_another_shape_is_left_out_and_the_rest_works(bed: Bed):
    name = next(iter(bed.layers))
    bed.networks[1] = random_network("odd", {**bed.layers, name: nn.Linear(7, 9)}, seed=4)
    bed.update(bed.all(1.0, 1.0, 0.0))
    assert bed.engine.binding is not None
    assert [message for message in bed.engine.binding.messages if "odd" in message and name in message]
    bed.networks[1].modules[name] = bed.networks[2].modules[name]
    coefficients = {**bed.all(1.0, 1.0, 0.0), name: (1.0, 0.0, 0.0)}
    assert bed.worst_ulp(coefficients) <= 1


def test_a_network_that_fits_no_layer_leaves_every_layer_with_a_backup(bed: Bed):
    """The host raises where a layer has names and no backup."""
    bed.networks = [random_network("odd", dict.fromkeys(["diffusion_model_elsewhere"], nn.Linear(7, 9)))]
    assert bed.update(bed.all(1.0)) == 0
    for layer in bed.layers.values():
        assert layer.network_current_names == bed.names()
        assert layer.network_weights_backup is not None


def test_weights_without_a_known_base_are_not_touched(bed: Bed):
    name, layer = next(iter(bed.layers.items()))
    layer.network_current_names = (("somebody else", 1.0, 1.0, None),)
    assert bed.update(bed.all(1.0, 0.0, 0.0)) == len(bed.layers) - 1
    assert layer.weight.equal(bed.base[name])
