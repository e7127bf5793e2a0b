"""What the first LoRA costs in memory, where pristine weights live, and the settings that say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lbw.tags.families import SD1
from tests.host.conftest import Bench
from tests.host.measure import forget_conditioning
from tests.host.test_isolation import PLAIN, SCHEDULED, difference, without_scripts


@contextmanager
def options(bench: Bench, **values: Any) -> Iterator[None]:
    """Settings as a user would have changed them."""
    data = bench.webui.shared.opts.data
    before = {key: data[key] for key in values if key in data}
    data.update(values)
    try:
        yield
    finally:
        for key in values:
            data.pop(key)
        data.update(before)


def real_copies(bench: Bench) -> list[str]:
    """The layers whose weight has a copy, and not only a stand-in for one."""
    backups = {name: getattr(layer, "network_weights_backup", None) for name, layer in bench.layers().items()}
    return [name for name, backup in backups.items() if isinstance(backup, torch.Tensor | tuple)]


@pytest.fixture
def fresh(bench: Bench) -> Bench:
    """Layers as after a model load: nothing patched, no backups."""
    bench.not_on_forge("has no backups where nothing is patched")
    bench.webui.generate(args=["", False], prompt="a red cat", steps=1)
    assert not real_copies(bench)
    return bench


def test_the_first_lora_copies_the_layers_that_it_changes_and_no_other(fresh: Bench):
    _, record = fresh.record("t_lora", prompt="a red cat <lora:t_lora:1:stop=4>")
    assert set(real_copies(fresh)) == set(fresh.deltas["t_lora"])
    assert record.host_layers_restored == [0] * 8


def test_layers_in_blocks_of_weight_0_are_not_copied_either(fresh: Bench):
    fresh.webui.generate(prompt=SCHEDULED)
    assert {SD1.block_of(name) for name in real_copies(fresh)} == {"BASE", *(f"OUT{i:02d}" for i in range(3, 12))}


def test_what_the_host_patches_after_us_has_its_true_base(fresh: Bench):
    """Layers that had a stand-in while we were in charge are patched by the host, by another LoRA, without us."""
    fresh.webui.generate(prompt=SCHEDULED)
    behind_our_back = without_scripts(fresh, "a red cat <lora:t_locon:1>")
    assert set(real_copies(fresh)) >= set(fresh.deltas["t_locon"])
    without_scripts(fresh, "a red cat")
    assert not fresh.differences_from_base()
    forget_conditioning(fresh.webui.request(prompt=""))
    alone = fresh.webui.generate(args=["", False], prompt="a red cat <lora:t_locon:1>")
    assert difference(behind_our_back, alone) == 0


@pytest.mark.parametrize("policy", ["auto", "gpu", "lean", "ram", "no such policy"])
def test_every_memory_policy_gives_the_same_image(fresh: Bench, policy: str):
    expected = fresh.webui.generate(prompt=SCHEDULED)
    fresh.webui.generate(args=["", False], prompt="a red cat", steps=1)
    with options(fresh, lbw_base_weights=policy):
        result, record = fresh.record("t_lora", prompt=SCHEDULED)
    assert difference(result, expected) == 0
    assert record.host_layers_restored == [0] * 8


def test_plain_loras_go_the_fast_way_unless_the_setting_says_otherwise(fresh: Bench):
    changed = PLAIN.replace(":1>", ":0.5>")
    fresh.webui.generate(prompt=PLAIN)
    fast, record = fresh.record("t_lora", prompt=changed)
    assert sum(record.host_layers_restored) == 0
    fresh.webui.generate(args=["", False], prompt="a red cat", steps=1)
    with options(fresh, lbw_plain_loras=False):
        fresh.webui.generate(prompt=PLAIN)
        slow, record = fresh.record("t_lora", prompt=changed)
        assert record.host_layers_restored[0] > 0, "the host did it"
        assert difference(fast, slow) <= 1
        _, record = fresh.record("t_lora", prompt=SCHEDULED)
        assert record.host_layers_restored == [0] * 8, "what the host cannot do stays ours"
        after, _ = fresh.record("t_lora", prompt=changed)
    assert difference(slow, after) == 0, "and leaves nothing behind for the host"
