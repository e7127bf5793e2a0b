"""Curves: strengths measured from the weights at every evaluation are those that the tag asks for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lbw.tags.families import SD1
from tests.host.conftest import Bench
from tests.host.measure import Recording, Strengths, messages, recording
from tests.host.test_schedule import SAMPLERS, solver_steps, unet_strength

HIRES = {
    "enable_hr": True,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 5,
    "denoising_strength": 0.7,
}


def unet(record: Recording, network: str = "t_lora") -> list[float]:
    return [unet_strength(found, network) for found in record.strengths]


def text_encoder(found: Strengths, network: str = "t_lora") -> float:
    return round(found[network]["BASE"][0], 3)


def linear(steps: int, places: list[float], values: list[float]) -> list[float]:
    """The strength of each step, by numpy, of keyframes in shares of the pass."""
    return list(np.interp(np.arange(steps) / (steps - 1), places, values))


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "DDIM", "Heun", "DPM++ SDE", "UniPC"])
def test_every_evaluation_of_a_step_has_the_curves_value(bench: Bench, sampler: str):
    result, record = bench.record("t_lora", prompt="a red cat <lora:t_lora:0@0,1@0.5,0@1>", sampler_name=sampler)
    steps = solver_steps(bench, sampler, record)
    wanted = linear(max(steps) + 1, [0, 0.5, 1], [0, 1, 0])
    assert unet(record) == pytest.approx([wanted[step] for step in steps], abs=2e-3)
    assert [text_encoder(found) for found in record.strengths] == [0] * len(record.strengths)
    assert sum(record.host_layers_restored) == 0
    assert messages(result) == []


def test_each_of_two_loras_and_each_part_follows_its_own_curve(bench: Bench):
    prompt = "a red cat <lora:t_lora:te=0.5@0,1@1:unet=1@0;0.25@3> <loractl:t_lora2:0.5:0@3,0.8@7:curve=step:stop=7>"
    _, record = bench.record("t_lora", "t_lora2", prompt=prompt)
    assert unet(record) == pytest.approx([1, 0.75, 0.5] + [0.25] * 5, abs=2e-3)
    assert unet(record, "t_lora2") == [0] * 8
    assert {text_encoder(found) for found in record.strengths} == {0.5}
    assert {text_encoder(found, "t_lora2") for found in record.strengths} == {0.5}


def test_the_hires_pass_has_strengths_and_steps_of_its_own(bench: Bench):
    prompt = "a red cat <lora:t_lora:0@0,1@1:stop=6:hr=1@0,0@1:hrte=0.3:hrstop=4>"
    result, record = bench.record("t_lora", prompt=prompt, **HIRES)
    first, second = record.strengths[:8], record.strengths[8:]
    wanted = linear(8, [0, 1], [0, 1])
    assert [unet_strength(found) for found in first] == pytest.approx([*wanted[:6], 0, 0], abs=2e-3)
    assert [unet_strength(found) for found in second] == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=2e-3)
    if not bench.webui.is_forge:  # which encodes both before it samples
        assert {text_encoder(found) for found in first} == {0}
    assert {text_encoder(found) for found in second} == {0.3}
    assert messages(result) == []


def test_what_the_hires_keys_do_not_say_is_as_in_the_first_pass(bench: Bench):
    prompt = "a red cat <lora:t_lora:0.5@0,1@1:lbw=OUTALL:hrlbw=INALL:hrstart=1>"
    _, record = bench.record("t_lora", prompt=prompt, **HIRES)
    wanted = [0, 0.625, 0.75, 0.875, 1]
    assert [round(found["t_lora"]["IN05"][0], 3) for found in record.strengths[8:]] == pytest.approx(wanted, abs=2e-3)
    assert all(found["t_lora"]["OUT05"] == pytest.approx((0, 0), abs=1e-3) for found in record.strengths[8:])
    assert all(found["t_lora"]["IN05"] == pytest.approx((0, 0), abs=1e-3) for found in record.strengths[:8])


def conditioning(bench: Bench, prompt: str, **fields: Any) -> tuple[Any, Any]:
    """The encoded prompts of the first pass and of the hires pass."""
    kept: list[Any] = []

    def keep(params: Any) -> None:
        kept.append(params.text_cond)

    with bench.webui.observing(keep, before=True):
        bench.webui.generate(prompt=prompt, **fields)
    return kept[0], kept[-1]


def test_the_hires_prompt_is_encoded_with_its_own_strength_in_every_batch(bench: Bench):
    first, second = conditioning(bench, "a red cat <lora:t_lora:1:hrte=0.2>", **HIRES, n_iter=2)
    _, other = conditioning(bench, "a red cat <lora:t_lora:1:hrte=0.6>", **HIRES)
    assert not first.equal(second)
    assert other.equal(conditioning(bench, "a red cat <lora:t_lora:te=0.6:unet=1>")[0])
    assert second.equal(conditioning(bench, "a red cat <lora:t_lora:te=0.2:unet=1>")[0])
    assert first.equal(conditioning(bench, "a red cat <lora:t_lora:1>")[0])
    assert conditioning(bench, "a red cat <lora:t_lora:0.2@0,1@1>")[0].equal(second)


@pytest.mark.usefixtures("quick_unet")
@pytest.mark.parametrize(
    ("sampler", "fields"),
    [
        ("Euler", {}),
        ("DDIM", {}),
        ("UniPC", {}),
        ("DPM adaptive", {}),
        ("Euler", {"init_images": [Image.new("RGB", (64, 64))], "denoising_strength": 0.4}),
        ("DDIM", {"init_images": [Image.new("RGB", (64, 64))], "denoising_strength": 0.4}),
    ],
)
def test_a_prompt_is_encoded_with_the_value_at_the_noise_level_where_sampling_begins(
    bench: Bench, sampler: str, fields: dict[str, Any]
):
    prompt = "a red cat <lora:t_lora:te=1@20sigma,0@0.1sigma:unet=1>"
    _, record = record_few_layers(bench, prompt=prompt, sampler_name=sampler, **fields)
    start = np.interp(levels(record, bench, sampler)[0], [0.1, 20], [0, 1])
    found, same, other = (
        conditioning(bench, text, sampler_name=sampler, **fields)[0]
        for text in (prompt, *(f"a red cat <lora:t_lora:te={te:.5f}:unet=1>" for te in (start, start - 0.02)))
    )
    assert (found - same).abs().max() < (found - other).abs().max() / 4


def test_block_curves_blend_block_by_block(bench: Bench):
    prompt = "a red cat <lora:t_lora:0.8:lbw=NONE@0,OUTD@4,ALL@7:start=1>"
    _, record = bench.record("t_lora", prompt=prompt)
    found = {block: [round(each["t_lora"][block][0], 3) for each in record.strengths] for block in ("OUT05", "IN05")}
    assert found["OUT05"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8], abs=2e-3)
    assert found["IN05"] == pytest.approx([0, 0, 0, 0, 0, 0.267, 0.533, 0.8], abs=2e-3)


def test_a_stretch_where_a_curve_is_constant_costs_no_update(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    from lbw.hosts.hooks import engine

    updates: list[Any] = []
    update = engine.manual_lora_update

    def counted(*args: Any, **options: Any) -> Any:
        updates.append(update(*args, **options))
        return updates[-1]

    monkeypatch.setattr(engine, "manual_lora_update", counted)
    made: list[int] = []
    with bench.webui.observing(lambda _params: made.append(len(updates))):
        bench.webui.generate(prompt="a red cat <lora:t_lora:0@0,1@2,1@5,0@6>")
    assert [after - before for before, after in pairwise(made)] == [1, 1, 0, 0, 0, 1, 0]
    assert [each.layers_updated > 0 for each in updates].count(True) == 3


def test_another_batch_begins_at_the_start_of_the_curve(bench: Bench):
    _, record = bench.record("t_lora", prompt="a red cat <lora:t_lora:1@0,0@7>", n_iter=2)
    assert unet(record) == pytest.approx(linear(8, [0, 1], [1, 0]) * 2, abs=2e-3)


@pytest.mark.parametrize(
    ("tag", "part"),
    [
        ("t_lora:0@x,1@1", "not a position"),
        ("t_lora:1:lbw=NONE@0,NOPE@1", "no preset of this name"),
        ("t_lora:1:curve=round", "expected linear, step, cosine"),
        ("t_lora:1:hrstop=x", "hrstop=x"),
    ],
)
def test_what_cannot_be_read_is_told_and_the_lora_works(
    bench: Bench, comments: Callable[[Any], str], tag: str, part: str
):
    result, record = bench.record("t_lora", prompt=f"a red cat <lora:{tag}>")
    assert part in comments(result)
    assert unet(record) == [1] * 8


def levels(record: Recording, bench: Bench, sampler: str) -> list[float]:
    """The noise level of each evaluation, from what the sampler calls sigma; the model's timesteps are
    converted, which the Forge family does itself."""
    if bench.webui.is_forge or sampler not in ("DDIM", "PLMS", "UniPC"):
        return record.sigmas
    signal = bench.webui.shared.sd_model.alphas_cumprod.double().numpy()
    logarithms = np.log((1 - signal) / signal) / 2
    return list(np.exp(np.interp(record.sigmas, np.arange(len(signal)), logarithms)))


def first_of_each_step(steps: list[int], values: list[float]) -> list[float]:
    """For each evaluation, the value of the first one that belongs to the same step."""
    return [values[steps.index(step)] for step in steps]


SIGMA_TAG = "<lora:t_lora:unet=0.25@10sigma,1@2sigma:te=1@20sigma,0@0.7sigma>"


def check_against_noise(bench: Bench, record: Recording, sampler: str) -> None:
    steps = solver_steps(bench, sampler, record)
    seen = levels(record, bench, sampler)
    wanted = np.interp(first_of_each_step(steps, seen), [2, 10], [1, 0.25])
    assert unet(record) == pytest.approx(wanted, abs=3e-3)
    start = float(np.interp(seen[0], [0.7, 20], [0, 1]))
    assert [text_encoder(found) for found in record.strengths] == pytest.approx([start] * len(steps), abs=2e-3)


def record_few_layers(bench: Bench, **fields: Any) -> tuple[Any, Recording]:
    """As ``bench.record``, of one layer in each block, which is quicker."""
    layers = {SD1.block_of(layer): layer for layer in bench.deltas["t_lora"]}
    few = {layer: bench.deltas["t_lora"][layer] for layer in layers.values()}
    with recording(bench.webui, bench.base, {"t_lora": few}) as record:
        return bench.webui.generate(**fields), record


@pytest.mark.usefixtures("quick_unet")
@pytest.mark.parametrize("sampler", [*SAMPLERS, "DPM adaptive"])
def test_a_curve_over_noise_follows_what_each_sampler_does(bench: Bench, sampler: str):
    bench.require_sampler(sampler)
    result, record = record_few_layers(bench, prompt=f"a red cat {SIGMA_TAG}", sampler_name=sampler)
    check_against_noise(bench, record, sampler)
    assert messages(result) == []


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ SDE"])
def test_the_host_restores_nothing_under_a_curve_over_noise(bench: Bench, sampler: str):
    _, record = record_few_layers(bench, prompt=f"a red cat {SIGMA_TAG}", sampler_name=sampler)
    assert sum(record.host_layers_restored) == 0


@pytest.mark.usefixtures("quick_unet")
@pytest.mark.parametrize(
    ("sampler", "scheduler"), [("Euler", "Karras"), ("Euler", "Exponential"), ("DPM2", "Uniform")]
)
def test_a_curve_over_noise_follows_the_scheduler(bench: Bench, sampler: str, scheduler: str):
    bench.require_sampler(sampler, scheduler)
    prompt = f"a red cat {SIGMA_TAG}"
    _, record = record_few_layers(bench, prompt=prompt, sampler_name=sampler, scheduler=scheduler)
    check_against_noise(bench, record, sampler)


@pytest.mark.usefixtures("quick_unet")
@pytest.mark.parametrize(("sampler", "strength"), [("Euler", 0.3), ("DPM++ 3M SDE", 1.0), ("DDIM", 0.6)])
def test_img2img_has_the_noise_levels_of_the_steps_that_it_runs(bench: Bench, sampler: str, strength: float):
    picture = Image.new("RGB", (64, 64), (200, 40, 40))
    _, record = record_few_layers(
        bench, prompt=f"a red cat {SIGMA_TAG}", sampler_name=sampler, init_images=[picture],
        denoising_strength=strength, steps=12,
    )
    check_against_noise(bench, record, sampler)


@pytest.mark.usefixtures("quick_unet")
def test_the_hires_pass_has_noise_levels_of_its_own(bench: Bench):
    prompt = f"a red cat {SIGMA_TAG[:-1]}:hrstop=2sigma>"
    _, record = record_few_layers(bench, prompt=prompt, sampler_name="Euler", hr_sampler_name="DPM++ 2M", **HIRES)
    hires = record.sigmas[8:]
    wanted = [float(np.interp(sigma, [2, 10], [1, 0.25])) if sigma > 2 else 0 for sigma in hires]
    assert unet(record)[8:] == pytest.approx(wanted, abs=3e-3)
    start = float(np.interp(hires[0], [0.7, 20], [0, 1]))
    assert text_encoder(record.strengths[8]) == pytest.approx(start, abs=2e-3)


@pytest.mark.usefixtures("quick_unet")
def test_a_sampler_that_adds_noise_again_comes_back_to_the_strength_of_that_level(bench: Bench):
    _, record = record_few_layers(bench, prompt=f"a red cat {SIGMA_TAG}", sampler_name="Restart", steps=20)
    assert max(np.diff(record.sigmas)) > 1
    check_against_noise(bench, record, "Restart")


@pytest.mark.usefixtures("quick_unet")
@pytest.mark.parametrize("steps", [8, 20])
def test_a_noise_level_is_the_same_phase_whatever_the_number_of_steps(bench: Bench, steps: int):
    _, record = record_few_layers(bench, prompt="a red cat <lora:t_lora:1:stop=2.5sigma>", steps=steps)
    assert unet(record) == [float(sigma > 2.5) for sigma in record.sigmas]
