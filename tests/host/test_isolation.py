"""No generation leaves anything behind for the next one; off is off; a failure heals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.host.conftest import Bench
from tests.host.measure import forget_conditioning

PLAIN = "a red cat <lora:t_lora:1>"
SCHEDULED = "a red cat <lora:t_lora:1:lbw=OUTALL:stop=4>"


def pixels(result: Any) -> np.ndarray:
    return np.asarray(result.images[0]).astype(int)


def difference(a: Any, b: Any) -> int:
    return int(np.abs(pixels(a) - pixels(b)).max())


@pytest.fixture
def inactive(bench: Bench) -> Callable[..., Any]:
    """Generate as the host does by itself, with the extension switched off."""
    return lambda **fields: bench.webui.generate(args=["", False], **fields)


def without_scripts(bench: Bench, prompt: str) -> Any:
    """Generate without any always-on script, ours included."""
    p = bench.webui.request(prompt=prompt)
    p.scripts = None
    forget_conditioning(p)
    return bench.webui.run(p)


def interrupted(bench: Bench, prompt: str) -> None:
    def interrupt(params: Any) -> None:
        if params.sampling_step == 1:
            bench.webui.shared.state.interrupt()

    with bench.webui.observing(interrupt):
        bench.webui.generate(prompt=prompt)


def failed(bench: Bench, prompt: str) -> None:
    p = bench.webui.request(prompt=prompt)

    sample = p.sample

    def sample_and_break(*args: Any, **kwargs: Any) -> None:
        sample(*args, **kwargs)
        raise RuntimeError("the sampler broke")

    p.sample = sample_and_break
    with pytest.raises(RuntimeError, match="the sampler broke"):
        bench.webui.run(p)


BEFORE = {
    "a stop that was never reached": lambda bench: bench.webui.generate(prompt="a red cat <lora:t_lora:1:stop=99>"),
    "a start that was never reached": lambda bench: bench.webui.generate(prompt="a red cat <lora:t_lora:1:start=99>"),
    "a stop that was reached": lambda bench: bench.webui.generate(prompt=SCHEDULED),
    "an interrupted generation": lambda bench: interrupted(bench, SCHEDULED),
    "a failed generation": lambda bench: failed(bench, SCHEDULED),
    "another LoRA": lambda bench: bench.webui.generate(prompt="a dog <lora:t_lora2:0.7:INALL>"),
    "the host by itself": lambda bench: bench.webui.generate(args=["", False], prompt="a dog <lora:t_lora2:0.7>"),
}


@pytest.mark.parametrize("prompt", ["a red cat", PLAIN, SCHEDULED], ids=["no tag", "plain", "scheduled"])
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_the_next_generation_is_what_it_would_have_been_on_its_own(
    bench: Bench, before: Callable[[Bench], Any], prompt: str
):
    alone = bench.webui.generate(prompt=prompt)
    before(bench)
    after = bench.webui.generate(prompt=prompt)
    assert difference(alone, after) == 0


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_switched_off_the_host_is_as_if_the_extension_had_never_run(
    bench: Bench, inactive: Callable[..., Any], before: Callable[[Bench], Any]
):
    alone = inactive(prompt=PLAIN)
    before(bench)
    after = inactive(prompt=PLAIN)
    assert difference(alone, after) == 0
    inactive(prompt="a red cat")
    assert bench.differences_from_base() == []


def test_a_plain_tag_gives_the_hosts_own_image(bench: Bench, inactive: Callable[..., Any]):
    assert difference(inactive(prompt=PLAIN), bench.webui.generate(prompt=PLAIN)) <= 1


def test_without_our_hooks_the_host_repairs_what_a_generation_left(bench: Bench, inactive: Callable[..., Any]):
    """A script that runs the model by itself, without always-on scripts, is told the truth about the weights."""
    wanted = inactive(prompt=PLAIN)
    bench.webui.generate(prompt=SCHEDULED)
    assert difference(wanted, without_scripts(bench, PLAIN)) == 0


def test_a_preset_whose_numbers_changed_encodes_the_prompt_anew(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:lbw=MINE>"

    def with_base(value: float) -> Any:
        return bench.webui.generate(args=["MINE:" + ",".join([str(value)] + ["0"] * 16)], prompt=prompt)

    first = with_base(1)
    assert difference(first, with_base(0)) > 0
    assert difference(first, with_base(1)) == 0


def test_the_networks_are_never_changed(bench: Bench):
    bench.not_on_forge("has nothing in its networks")
    bench.webui.generate(prompt=PLAIN)
    net = bench.webui.networks.loaded_networks[0]
    before = (net.name, net.te_multiplier, net.unet_multiplier, len(net.modules), set(vars(net)))
    factors = {key: module.up_model.weight.clone() for key, module in net.modules.items()}
    bench.webui.generate(prompt=SCHEDULED)
    assert bench.webui.networks.loaded_networks[0] is net, "the file was read again"
    assert (net.name, net.te_multiplier, net.unet_multiplier, len(net.modules), set(vars(net))) == before
    assert all(module.up_model.weight.equal(factors[key]) for key, module in net.modules.items())


def test_a_failing_update_heals_through_the_host(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    from lbw.engine.kernels import torch as kernel

    wanted = bench.webui.generate(prompt=PLAIN)
    original = kernel.update_weight
    calls = 0

    def fails_now_and_then(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise MemoryError("no memory")
        return original(*args)

    monkeypatch.setattr(kernel, "update_weight", fails_now_and_then)
    assert difference(bench.webui.generate(prompt=PLAIN), wanted) <= 1
    monkeypatch.undo()
    assert difference(bench.webui.generate(prompt=PLAIN), wanted) == 0


def test_a_multiplier_that_somebody_else_changes_takes_effect(bench: Bench):
    bench.not_on_forge("looks at multipliers when it loads networks, and never again")
    def halve(params: Any) -> None:
        if params.sampling_step == 2:
            bench.webui.networks.loaded_networks[0].unet_multiplier = 0.5

    with bench.webui.observing(halve):
        _, record = bench.record("t_lora", prompt="a red cat <lora:t_lora:1:lbw=OUTALL>")
    assert record.strengths[2]["t_lora"]["OUT05"] == pytest.approx((1, 1), abs=1e-3)
    assert record.strengths[-1]["t_lora"]["OUT05"] == pytest.approx((0.5, 0.5), abs=1e-3)
    assert record.strengths[-1]["t_lora"]["IN04"] == pytest.approx((0, 0), abs=1e-3)


def test_weights_that_somebody_else_patches_are_seen(bench: Bench):
    """A re-patch by the host in the middle of sampling is noticed by the next step."""

    def patch(params: Any) -> None:
        if params.sampling_step == 2:
            for layer in bench.layers().values():
                if getattr(layer, "network_weights_backup", None) is not None:
                    layer.network_current_names = (("somebody else", 1.0, 1.0, None),)

    with bench.webui.observing(patch):
        _, record = bench.record("t_lora", prompt="a red cat <lora:t_lora:1:lbw=OUTALL>")
    assert record.strengths[-1]["t_lora"]["OUT05"] == pytest.approx((1, 1), abs=1e-3)
    assert record.strengths[-1]["t_lora"]["IN04"] == pytest.approx((0, 0), abs=1e-3)


def test_reload_ui_leaves_nothing(bench: Bench):
    bench.webui.generate(prompt=SCHEDULED)
    from lbw.hosts import hooks

    hooks.unload()
    assert bench.differences_from_base() == []
    touched = [layer for name, layer in bench.layers().items() if name in bench.deltas["t_lora"]]
    if not bench.webui.is_forge:
        assert all(layer.network_weights_backup is None and layer.network_current_names == () for layer in touched)


def test_a_generation_inside_another_leaves_it_as_it_was(bench: Bench, inactive: Callable[..., Any]):
    """As a detailer does: between two batches it makes images of its own."""
    alone = bench.webui.generate(prompt=SCHEDULED, n_iter=2)
    plain = inactive(prompt=PLAIN)
    p = bench.webui.request(prompt=SCHEDULED, n_iter=2)
    save_samples = p.save_samples

    def save_after_detailing() -> Any:
        bench.webui.processing.process_images(bench.webui.request(prompt="a face <lora:t_lora2:0.6:start=2>"))
        return save_samples()

    p.save_samples = save_after_detailing
    nested = bench.webui.run(p)
    for expected, image in zip(alone.images, nested.images, strict=True):
        assert np.array_equal(np.asarray(expected), np.asarray(image))
    assert difference(plain, without_scripts(bench, PLAIN)) == 0


def test_a_network_that_the_settings_add_works_plainly(bench: Bench):
    options = bench.webui.shared.opts
    options.sd_lora = "t_lora2"
    try:
        _, record = bench.record("t_lora", "t_lora2", prompt="a red cat <lora:t_lora:1:lbw=INALL:stop=4>")
    finally:
        options.sd_lora = "None"
    last = record.strengths[-1]
    assert last["t_lora"]["IN04"] == pytest.approx((0, 0), abs=2e-3)
    assert last["t_lora2"]["IN04"] == pytest.approx((1, 1), abs=2e-3)


def test_the_rank_of_an_earlier_request_does_not_stay(bench: Bench, inactive: Callable[..., Any]):
    """The host sets it in the network that it has kept."""
    bench.not_on_forge("takes a rank and never uses it")
    ranks = [":dyn=1", "", ":dyn=1", ":dyn=2", ""]
    wanted = {rank: inactive(prompt=f"a red cat <lora:t_lora:1{rank}>", steps=4) for rank in ranks}
    assert difference(wanted[""], wanted[":dyn=1"]) > 1
    bench.webui.generate(prompt="a red cat", steps=1)
    for blocks in ("", ":lbw=ALL"):
        for rank in ranks:
            found = bench.webui.generate(prompt=f"a red cat <lora:t_lora:1{blocks}{rank}>", steps=4)
            assert difference(found, wanted[rank]) <= 1, (blocks, rank)


def test_lyco_is_another_word_for_lora(bench: Bench):
    """On the Forge family, which has lost it, too."""
    _, record = bench.record("t_lora", prompt="a red cat <lyco:t_lora:0.5:INALL>")
    assert record.strengths[0]["t_lora"]["IN04"] == pytest.approx((0.5, 0.5), abs=2e-3)
    assert record.strengths[0]["t_lora"]["OUT04"] == pytest.approx((0, 0), abs=2e-3)
