"""Switching during sampling: in the right steps, with every sampler, without the host re-patching a layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.host import forge_samplers
from tests.host.conftest import Bench
from tests.host.measure import Recording, Strengths

SAMPLERS = json.loads((Path(__file__).parents[1] / "data" / "samplers.json").read_text())
TWO_EVALUATIONS = {"Heun", "DPM++ SDE", "DPM2", "DPM2 a", "DPM++ 2S a", "Restart"}


def unet_strength(found: Strengths, network: str = "t_lora") -> float:
    """The strength in the U-Net, which is the same in all blocks."""
    values = [value for block, pair in found[network].items() if block != "BASE" for value in pair]
    assert max(values) - min(values) < 1e-3
    return round(values[0], 3)


def timeline(record: Recording, network: str = "t_lora") -> list[float]:
    return [unet_strength(found, network) for found in record.strengths]


def solver_steps(bench: Bench, sampler: str, record: Recording) -> list[int]:
    """The solver's step of each evaluation, from what is known of the algorithm."""
    evaluations = range(len(record.strengths))
    if bench.webui.is_forge:
        from modules import sd_samplers

        row = forge_samplers.rows_of(sd_samplers).get(sampler, [])
        if len(row) == len(evaluations):
            return row
    if sampler in ("DPM fast", "DPM adaptive"):  # of the first, three evaluations but in its last step
        return [evaluation // 3 for evaluation in evaluations]
    if sampler in TWO_EVALUATIONS:
        return [evaluation // 2 for evaluation in evaluations]
    if sampler in ("UniPC", "PLMS"):
        return [max(evaluation - 1, 0) for evaluation in evaluations]
    return list(evaluations)


@pytest.mark.parametrize(
    "sampler",
    [
        sampler if sampler in ("Euler a", "Heun") else pytest.param(sampler, marks=pytest.mark.of_any_forge)
        for sampler in (*SAMPLERS, "DPM adaptive")
    ],
)
def test_a_sampler_switches_between_steps_never_inside_one(
    bench: Bench, request: pytest.FixtureRequest, sampler: str
):
    bench.require_sampler(sampler)
    if sampler == "DPM adaptive":  # it makes as many steps as it likes
        request.getfixturevalue("quick_unet")
    _, record = bench.record("t_lora", prompt="a red cat <lora:t_lora:1:step=2-5>", sampler_name=sampler)
    if sampler in SAMPLERS and not bench.webui.is_forge:
        assert record.sampling_steps == [evaluation[0] for evaluation in SAMPLERS[sampler]["evaluations"]]
    assert timeline(record) == [float(2 <= step < 5) for step in solver_steps(bench, sampler, record)]
    assert sum(record.host_layers_restored) == 0


@pytest.mark.of_any_forge
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("start=50%", [0, 0, 0, 0, 1, 1, 1, 1]),
        ("stop=25%", [1, 1, 0, 0, 0, 0, 0, 0]),
        ("step=5", [0, 0, 0, 0, 0, 1, 0, 0]),
        ("step=-3", [1, 1, 1, 0, 0, 0, 0, 0]),
        ("step=6-", [0, 0, 0, 0, 0, 0, 1, 1]),
        ("step=0.25-0.5", [0, 0, 1, 1, 0, 0, 0, 0]),
        ("start=2:stop=6", [0, 0, 1, 1, 1, 1, 0, 0]),
        ("start=6:stop=2", [0] * 8),
    ],
)
def test_ranges_fractions_and_percentages(bench: Bench, arguments: str, wanted: list[int]):
    result, record = bench.record("t_lora", prompt=f"a red cat <lora:t_lora:0.8:{arguments}>")
    assert timeline(record) == [0.8 * value for value in wanted]
    assert ("never on" in (result.comments or "")) == (not any(wanted))


def test_two_loras_follow_their_own_schedules(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:stop=3> <lora:t_lora2:0.5:start=2:lbw=ALL>"
    _, record = bench.record("t_lora", "t_lora2", prompt=prompt)
    assert timeline(record, "t_lora") == [1, 1, 1, 0, 0, 0, 0, 0]
    assert timeline(record, "t_lora2") == [0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert sum(record.host_layers_restored) == 0


def test_the_hires_pass_counts_from_its_own_step_0(bench: Bench):
    _, record = bench.record(
        "t_lora",
        prompt="a red cat <lora:t_lora:1:stop=0.5>",
        enable_hr=True,
        hr_scale=2,
        hr_upscaler="Latent",
        hr_second_pass_steps=4,
        denoising_strength=0.7,
    )
    assert timeline(record) == [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0]
    assert sum(record.host_layers_restored) == 0


def test_the_hires_prompt_has_tags_of_its_own(bench: Bench):
    _, record = bench.record(
        "t_lora",
        "t_lora2",
        prompt="a red cat <lora:t_lora:1:stop=2>",
        hr_prompt="a red cat <lora:t_lora2:0.5:INALL:start=1>",
        enable_hr=True,
        hr_scale=2,
        hr_upscaler="Latent",
        hr_second_pass_steps=3,
        denoising_strength=0.7,
    )
    hires = record.strengths[8:]
    assert [round(found["t_lora2"]["IN04"][0], 3) for found in hires] == [0, 0.5, 0.5]
    assert all(found["t_lora2"]["OUT05"] == pytest.approx((0, 0), abs=1e-3) for found in hires)
    assert [unet_strength(found) for found in record.strengths] == [1, 1] + [0] * 9


def test_every_batch_follows_the_schedule(bench: Bench):
    _, record = bench.record("t_lora", prompt="a red cat <lora:t_lora:1:stop=3>", n_iter=2, batch_size=2)
    assert timeline(record) == [1, 1, 1, 0, 0, 0, 0, 0] * 2
    assert sum(record.host_layers_restored) == 0


def test_img2img_counts_the_steps_that_it_runs(bench: Bench):
    picture = Image.new("RGB", (64, 64), (200, 40, 40))
    _, record = bench.record(
        "t_lora", prompt="a red cat <lora:t_lora:1:stop=3>", init_images=[picture], denoising_strength=0.75
    )
    assert timeline(record) == [1, 1, 1, 0, 0, 0, 0]
    assert sum(record.host_layers_restored) == 0


def test_from_the_second_generation_on_nothing_is_patched_at_the_start_either(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:lbw=OUTD:stop=5>"
    bench.record("t_lora", prompt=prompt)
    _, record = bench.record("t_lora", prompt=prompt)
    assert record.host_layers_restored == [0] * 8
