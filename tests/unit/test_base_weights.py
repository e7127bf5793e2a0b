"""Where pristine weights live, and stand-ins for the copies that nobody needs yet."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lbw.engine import base_weights
from lbw.engine.ledger import Page
from lbw.engine.pinned_memory import PinnedMemory
from lbw.engine.stand_ins import MissingBaseError, Unchanged
from lbw.hosts.a1111.ledger import LayerAttributes


def page_of(layer: nn.Module) -> Page:
    return Page(layer, LayerAttributes())


def linear() -> nn.Linear:
    layer = nn.Linear(6, 4).requires_grad_(False)
    base_weights.keep(page_of(layer))
    return layer


def host_restores(layer: nn.Module) -> None:
    """What the host does before it patches a layer."""
    layer.weight.copy_(layer.network_weights_backup)
    layer.bias.copy_(layer.network_bias_backup)


def test_a_layer_that_nothing_changes_gets_stand_ins_instead_of_copies():
    layer = linear()
    assert isinstance(layer.network_weights_backup, Unchanged)
    assert isinstance(layer.network_bias_backup, Unchanged)


def test_the_host_can_patch_a_layer_that_has_stand_ins_and_restore_it():
    layer = linear()
    weight, bias = layer.weight.clone(), layer.bias.clone()
    host_restores(layer)
    layer.weight.add_(1.0)
    layer.bias.add_(1.0)
    assert type(layer.network_weights_backup) is Tensor and type(layer.network_bias_backup) is Tensor
    host_restores(layer)
    assert layer.weight.equal(weight) and layer.bias.equal(bias)


@pytest.mark.parametrize(
    "read",
    [
        lambda backup: backup.clone(),
        lambda backup: backup.to(torch.float64),
        lambda backup: torch.cat([backup, backup]),
        lambda backup: torch.add(torch.zeros(4, 6), other=backup),
        lambda backup: copy.deepcopy(backup),
        lambda backup: backup[0],
        lambda backup: backup + 0,
    ],
)
def test_whoever_reads_a_stand_in_has_the_copy_made(read):
    layer = linear()
    weight = layer.weight.clone()
    read(layer.network_weights_backup)
    layer.weight.zero_()
    assert layer.network_weights_backup.equal(weight)


def test_a_stand_in_follows_parameters_that_move():
    layer = linear()
    weight = layer.weight.clone()
    layer.weight.data = layer.weight.data.clone()
    assert layer.network_weights_backup.clone().equal(weight)


def test_patched_weights_without_a_backup_have_no_base():
    layer = nn.Linear(2, 2)
    layer.network_current_names = (("somebody", 1.0, 1.0, None),)
    with pytest.raises(MissingBaseError):
        base_weights.keep(page_of(layer))


def test_attention_layers_have_a_pair_of_stand_ins():
    layer = nn.MultiheadAttention(8, 2).requires_grad_(False)
    base_weights.keep(page_of(layer))
    weights = [layer.in_proj_weight.clone(), layer.out_proj.weight.clone()]
    in_proj, out_proj = layer.network_weights_backup
    layer.in_proj_weight.copy_(in_proj)
    layer.in_proj_weight.zero_()
    layer.out_proj.weight.copy_(out_proj)
    layer.out_proj.weight.zero_()
    assert all(a.equal(b) for a, b in zip(layer.network_weights_backup, weights, strict=True))


@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=str)
def test_placing_makes_real_copies_and_keeps_those_that_are_there(device: torch.device | None):
    layer = linear()
    weight = layer.weight.clone()
    base_weights.place([page_of(layer)], device, PinnedMemory())
    made = layer.network_weights_backup
    layer.weight.zero_()
    assert made.equal(weight)
    base_weights.place([page_of(layer)], device, PinnedMemory())
    assert layer.network_weights_backup is made


def test_pinned_copies_keep_shape_strides_and_bits():
    memory = PinnedMemory()
    tensors = [torch.randn(3, 5).half(), torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.ones(1)]
    copies = [memory.copy(tensor, torch.device("cpu")) for tensor in tensors]
    for tensor, copied in zip(tensors, copies, strict=True):
        assert copied.equal(tensor) and copied.stride() == tensor.stride() and copied.dtype == tensor.dtype
