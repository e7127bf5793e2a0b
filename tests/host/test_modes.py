"""Modes of the host, and what other extensions do in the middle of ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.host import slow_path
from tests.host.conftest import Bench
from tests.host.lora_files import attention_layers, write_lora
from tests.host.measure import OUTPUT_BLOCKS, restore_counter
from tests.host.test_isolation import difference, without_scripts

SCHEDULED = f"a red cat <lora:t_lora:1:lbw={OUTPUT_BLOCKS}:stop=2>"
STEPS = 4


def output_block(record: Any, network: str = "t_lora", block: str = "OUT05") -> list[float]:
    return [round(found[network][block][0], 2) for found in record.strengths]


class TestFunctional:
    """The option lora_functional, with which the host leaves the weights alone and adds to each layer's output."""

    @pytest.fixture(autouse=True)
    def _only_where_it_is(self, bench: Bench) -> None:
        bench.not_on_forge("has no such option")

    def test_blocks_and_steps_count(self, bench: Bench, option: Callable[..., None]):
        usual = bench.webui.generate(prompt=SCHEDULED, steps=STEPS)
        option(lora_functional=True)
        with restore_counter(bench.webui) as counter:
            result, record = bench.record("t_lora", prompt=SCHEDULED, steps=STEPS)
            assert counter.take() == 0
        assert output_block(record) == [1, 1, 0, 0]
        assert output_block(record, block="IN04") == [0, 0, 0, 0]
        assert difference(result, usual) == 0

    def test_the_option_and_the_weights_are_as_before_afterwards(self, bench: Bench, option: Callable[..., None]):
        option(lora_functional=True)
        wanted = bench.webui.generate(args=["", False], prompt="a red cat <lora:t_lora:1>", steps=STEPS)
        bench.webui.generate(prompt=SCHEDULED.replace(":stop=2", ""), steps=STEPS)
        assert bench.webui.shared.opts.lora_functional is True
        assert bench.differences_from_base() == []
        found = bench.webui.generate(args=["", False], prompt="a red cat <lora:t_lora:1>", steps=STEPS)
        assert difference(wanted, found) == 0

    def test_a_script_without_our_hooks_finds_the_host_as_it_is(self, bench: Bench, option: Callable[..., None]):
        option(lora_functional=True)
        wanted = without_scripts(bench, "a red cat")
        bench.webui.generate(prompt=SCHEDULED.replace(":stop=2", ""), steps=STEPS)
        assert difference(wanted, without_scripts(bench, "a red cat")) == 0

    def test_a_request_that_keeps_its_settings_is_left_alone_and_told(self, bench: Bench, option: Callable[..., None]):
        option(lora_functional=True)
        result = bench.webui.generate(
            prompt=SCHEDULED, steps=STEPS, override_settings_restore_afterwards=False
        )
        assert "lora_functional" in result.comments
        assert bench.webui.shared.opts.lora_functional is True
        assert bench.differences_from_base() == []


@pytest.mark.parametrize("limit", [0, 3])
def test_networks_kept_in_memory_and_not(bench: Bench, option: Callable[..., None], limit: int):
    """The host gives the same network objects again, or new ones; each image is the same."""
    option(lora_in_memory_limit=limit)
    first, _ = bench.record("t_lora", prompt=SCHEDULED, steps=STEPS)
    bench.webui.generate(prompt="a red cat <lora:t_lora2:1:lbw=INALL>", steps=STEPS)
    again, record = bench.record("t_lora", prompt=SCHEDULED, steps=STEPS)
    assert output_block(record) == [1, 1, 0, 0]
    assert difference(first, again) == 0


@pytest.mark.parametrize("limit", [0, 3])
@pytest.mark.parametrize("seed", [31, 32])
def test_a_file_replaced_on_disk_counts_from_the_next_generation_on(
    bench: Bench, option: Callable[..., None], limit: int, seed: int
):
    option(lora_in_memory_limit=limit)
    path = bench.webui.lora_folder / "t_replaced.safetensors"
    layers = attention_layers(bench.layers())
    prompt = "a red cat <lora:t_replaced:1:lbw=OUTALL:stop=3>"
    for version in (seed, seed + 10):
        new = path.with_suffix(".new")
        deltas = write_lora(new, layers, seed=version)
        os.replace(new, path)  # as people do it; the host may still have the old file mapped
        os.utime(path, (2e9 + version, 2e9 + version))
        bench.deltas["t_replaced"] = deltas
        _, record = bench.record("t_replaced", prompt=prompt, steps=STEPS)
        assert output_block(record, "t_replaced") == [1, 1, 1, 0]


@pytest.mark.parametrize(
    "prompt",
    [
        "a red cat AND a dog :0.5 <lora:t_lora:0.8:lbw=OUTALL:stop=2>",
        "a red cat <lora:t_lora:0.8:lbw=OUTALL:stop=2> BREAK a dog",
        "a [red <lora:t_lora:0.8:lbw=OUTALL:stop=2>:blue:2] cat",
        "a [red|blue] (cat:1.3) [dog::3] <lora:t_lora:0.8:lbw=OUTALL:stop=2>",
    ],
    ids=["AND", "BREAK", "inside an edit", "edits and emphasis"],
)
def test_composed_and_edited_prompts(bench: Bench, prompt: str):
    """Wherever the tag stands, it counts for all of the prompt; the host takes it out before it reads the rest."""
    with restore_counter(bench.webui) as counter:
        result, record = bench.record("t_lora", prompt=prompt, steps=STEPS)
        assert counter.take() == 0, "the host re-patched"
    assert output_block(record) == [0.8, 0.8, 0, 0]
    assert output_block(record, block="IN04") == [0, 0, 0, 0]
    assert difference(result, slow_path.generate(bench.webui, prompt, steps=STEPS)) <= 1
    assert difference(result, bench.webui.generate(prompt="a red cat", steps=STEPS)) > 0


def test_a_model_that_is_unloaded_and_comes_back(bench: Bench):
    """As by the API's unload-checkpoint and reload-checkpoint."""
    from modules import sd_models

    before = bench.webui.generate(prompt=SCHEDULED, steps=STEPS)
    sd_models.unload_model_weights()
    if not bench.webui.is_forge:  # which brings it back when it is needed
        sd_models.send_model_to_device(bench.webui.shared.sd_model)
    result, record = bench.record("t_lora", prompt=SCHEDULED, steps=STEPS)
    assert output_block(record) == [1, 1, 0, 0]
    assert difference(before, result) == 0


def test_a_network_named_twice_with_other_blocks_and_steps(bench: Bench):
    prompt = "a red cat <lora:t_lora:0.5:lbw=INALL:stop=3> <lora:t_lora:1:lbw=OUTALL:start=1>"
    with restore_counter(bench.webui) as counter:
        _, record = bench.record("t_lora", prompt=prompt, steps=STEPS)
        assert counter.take() == 0
    assert output_block(record, block="IN04") == [0.5, 0.5, 0.5, 0]
    assert output_block(record) == [0, 1, 1, 1]
    assert output_block(record, block="M00") == [0, 0, 0, 0]


def test_another_script_generates_in_the_middle_of_sampling(bench: Bench):
    """Its networks take the place of ours in the host, and in the weights; ours come back with the next step."""
    prompt = "a red cat <lora:t_lora:1:lbw=OUTALL:stop=4>"
    alone = bench.webui.generate(prompt=prompt, steps=5)
    from lbw.hosts.serving import adapter

    networks, state = bench.webui.networks, bench.webui.shared.state
    strengths_inside: list[float] = []

    def generate(params: Any) -> None:
        if strengths_inside or params.sampling_step != 1:
            return
        counters = (state.sampling_step, state.sampling_steps)
        strengths_inside.append(0.0)

        def note(_params: Any) -> None:
            strengths_inside.append(adapter.networks()[0].unet_multiplier)

        with bench.webui.observing(note):
            bench.webui.processing.process_images(
                bench.webui.request(prompt="a face <lora:t_lora2:0.6:lbw=INALL:start=1>", steps=3)
            )
        networks.load_networks(["t_lora"], [1.0], [1.0], [None])
        state.sampling_step, state.sampling_steps = counters

    with bench.webui.observing(generate):
        nested, record = bench.record("t_lora", "t_lora2", prompt=prompt, steps=5)
    assert strengths_inside[1:] == [0.6] * 3, "the inner generation ran"
    last = record.strengths[-2:]
    assert [round(found["t_lora"]["OUT05"][0], 2) for found in last] == [1, 0]
    assert all(round(found["t_lora2"]["IN04"][0], 2) == 0 for found in last)
    assert difference(alone, nested) == 0


def test_a_multiplier_written_before_each_evaluation_takes_effect(bench: Bench):
    """As regional prompters do, which give each region's evaluation a strength of its own."""
    bench.not_on_forge("looks at multipliers when it loads networks, and never again")
    strengths = iter([0.2, 0.8, 0.4, 0.6])

    def write(_params: Any) -> None:
        bench.webui.networks.loaded_networks[0].unet_multiplier = next(strengths)

    with bench.webui.observing(write):
        _, record = bench.record("t_lora", prompt="a red cat <lora:t_lora:1:lbw=OUTALL:stop=3>", steps=STEPS)
    assert output_block(record) == [1, 0.2, 0.8, 0]
    assert output_block(record, block="IN04") == [0, 0, 0, 0]


@pytest.fixture
def weight_scheduler(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As loractl: a Lora network of its own, derived from the host's, reads keyframes where that has a number, and
    raises at all else; the multipliers of the host's networks are properties that follow the host's step counter."""
    bench.not_on_forge("looks at multipliers when it loads networks, and never again")
    import extra_networks_lora
    import network
    from modules import extra_networks

    keyframes: dict[str, list[tuple[list[float], list[float]]]] = {}

    class WeightScheduler(extra_networks_lora.ExtraNetworkLora):
        def activate(self, p: Any, params_list: list[Any]) -> None:
            for params in params_list:
                name, *strengths = params.positional
                pairs = [[item.split("@") for item in text.split(",")] for text in strengths]
                curves = [
                    ([float(pair[-1]) if pair[1:] else 1.0 for pair in curve], [float(pair[0]) for pair in curve])
                    for curve in pairs
                ]
                keyframes[name] = [curves[0], curves[-1]]
                params.positional, params.named = [name, 1], {}
            super().activate(p, params_list)

    def multiplier(index: int) -> property:
        def value(net: Any) -> float:
            state = bench.webui.shared.state
            positions, values = keyframes.get(net.name, [([1.0], [1.0])] * 2)[index]
            return float(np.interp(state.sampling_step / (state.sampling_steps - 2), positions, values))

        return property(value, lambda _net, _value: None)

    bench.webui.generate(prompt="a red cat", steps=1)  # no network is loaded that has multipliers of its own
    monkeypatch.setattr(network.Network, "te_multiplier", multiplier(0), raising=False)
    monkeypatch.setattr(network.Network, "unet_multiplier", multiplier(1), raising=False)
    monkeypatch.setitem(extra_networks.extra_network_registry, "lora", WeightScheduler())


@pytest.mark.parametrize(
    ("tag", "wanted"),
    [
        ("<lora:t_lora:0@0,1@1>", [0, 0, 0.5, 1]),
        ("<lora:t_lora:0.5:0@0,1@1:lbw=OUTALL>", [0, 0, 0.5, 1]),
        ("<lora:t_lora:0@0,1@1:lbw=OUTALL:stop=3>", [0, 0, 0.5, 0]),
        ("<lora:t_lora:0.5:lbw=OUTALL:stop=2>", [0.5, 0.5, 0, 0]),
        ("<lora:t_lora:0.5:OUTALL>", [0.5] * 4),
        ("<lora:t_lora:0@0,1@1:hr=0.3:lbw=OUTALL@0,OUTALL@1>", [0, 0, 0.5, 1]),
    ],
)
def test_with_a_lora_network_of_another_extension_the_strengths_are_its_own(
    bench: Bench, weight_scheduler: None, tag: str, wanted: list[float]
):
    with restore_counter(bench.webui) as counter:
        presets = f"OUTALL:{OUTPUT_BLOCKS}"
        result, record = bench.record("t_lora", args=[presets], prompt=f"a red cat {tag}", steps=STEPS)
        assert counter.take() == 0, "the host re-patched"
    assert len(result.images) == 1 and "<lora:t_lora>" not in (result.comments or "")
    assert output_block(record) == wanted
    assert output_block(record, block="IN04") == ([0] * 4 if "OUTALL" in tag else wanted)
    bench.webui.generate(prompt="a red cat", steps=2)


def write_bundle(bench: Bench, word: str) -> None:
    """t_lora once more, with two vectors for a word."""
    tensors = load_file(bench.webui.lora_folder / "t_lora.safetensors")
    width = next(weight.shape[1] for name, weight in bench.base.items() if name.endswith("self_attn_q_proj"))
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(9))
    bundled = {"string_to_param.*": vectors}
    second = bench.layers().get("1_model_ln_final")
    if second is not None:
        bundled = {"clip_l": vectors, "clip_g": torch.ones(2, len(second.weight))}
    tensors |= {f"bundle_emb.{word}.{parameter}": value for parameter, value in bundled.items()}
    save_file(tensors, bench.webui.lora_folder / "t_bundle.safetensors")


def test_words_that_a_network_brings_along_are_the_hosts_business(bench: Bench, capfd: pytest.CaptureFixture):
    """Bundled textual inversions are in force as long as the network is loaded, and nothing stumbles over them."""
    bench.not_on_forge("knows no words in files of networks")
    from modules.sd_hijack import model_hijack

    write_bundle(bench, "qxword")
    plain = bench.webui.generate(prompt="a qxword cat", steps=STEPS)
    without = bench.webui.generate(prompt="a qxword cat <lora:t_lora:1:lbw=OUTALL:stop=2>", steps=STEPS)
    words: list[bool] = []
    with bench.webui.observing(lambda _params: words.append("qxword" in model_hijack.embedding_db.word_embeddings)):
        bench.deltas["t_bundle"] = bench.deltas["t_lora"]
        result, record = bench.record(
            "t_bundle", prompt="a qxword cat <lora:t_bundle:1:lbw=OUTALL:stop=2>", steps=STEPS, n_iter=2
        )
    assert words == [True] * 2 * STEPS
    assert output_block(record, "t_bundle") == [1, 1, 0, 0] * 2
    assert difference(without, result) > 0, "the word means something else"
    ours = bench.webui.generate(prompt="a qxword cat <lora:t_bundle:1>", steps=STEPS)
    hosts = bench.webui.generate(args=["", False], prompt="a qxword cat <lora:t_bundle:1>", steps=STEPS)
    assert difference(ours, hosts) <= 1
    assert difference(plain, bench.webui.generate(prompt="a qxword cat", steps=STEPS)) == 0
    assert "qxword" not in model_hijack.embedding_db.word_embeddings
    assert "Error" not in "".join(capfd.readouterr())
