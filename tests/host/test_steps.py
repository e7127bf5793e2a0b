"""The steps that a pass has, whatever its sampler: shares and curves are of them, and status and infotext tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lbw.tags.families import SD1
from tests.host.conftest import Bench
from tests.host.forge_samplers import HOSTS
from tests.host.measure import Recording, messages, recording
from tests.host.test_schedule import SAMPLERS, solver_steps, timeline

NETWORKS = ("t_lora", "t_lora2")

pytestmark = pytest.mark.usefixtures("quick_unet")  # steps are counted here, and there are many


ALL = sorted({*SAMPLERS, "DDIM CFG++", *(sampler for rows in HOSTS.values() for sampler in rows)})


def record_few(bench: Bench, **fields: Any) -> tuple[Any, Recording]:
    """As ``bench.record``, of one layer in each block."""
    few = {}
    for name in NETWORKS:
        layers = {SD1.block_of(layer): layer for layer in bench.deltas[name]}
        few[name] = {layer: bench.deltas[name][layer] for layer in layers.values()}
    with recording(bench.webui, bench.base, few) as record:
        return bench.webui.generate(**fields), record


STEPS_OF_8 = {"DPM fast": 3, "DDIM": 7, "DDIM CFG++": 7, "PLMS": 7, "UniPC": 7}
"""Of A1111's samplers, those that run less steps than they are asked for."""


def steps_of(bench: Bench, sampler: str, told: list[int]) -> int:
    """How many steps a sampler makes of 8 that are asked for."""
    if not bench.webui.is_forge:
        return STEPS_OF_8.get(sampler, 8)
    return max(told) + 1


def note(bench: Bench, result: Any, key: str) -> str:
    """What the infotext says of it."""
    return str(bench.webui.parse_infotext(result.infotexts[0]).get(key, ""))


@pytest.mark.parametrize("sampler", ALL)
def test_shares_are_of_the_steps_that_a_sampler_makes(bench: Bench, sampler: str):
    """The curve is at its end in the last step, half of the steps are over when they are over, and both are told."""
    bench.require_sampler(sampler)
    prompt = "a red cat <lora:t_lora:1:unet=0.2@0,1@1:te=0> <lora:t_lora2:1:stop=50%>"
    result, record = record_few(bench, prompt=prompt, sampler_name=sampler)
    told = solver_steps(bench, sampler, record)
    steps = steps_of(bench, sampler, told)
    assert max(told) + 1 == steps
    curve = [0.2 + 0.8 * step / (steps - 1) for step in told]
    assert timeline(record) == pytest.approx(curve, abs=2e-3)
    half = round(steps / 2)
    assert timeline(record, "t_lora2") == [float(step < half) for step in told]
    assert note(bench, result, "LBW steps") == f"t_lora2: 0-{half - 1} of {steps}"
    assert f"t_lora2: steps 0-{half - 1} of {steps}" in result.comments
    assert note(bench, result, "LBW strengths").endswith(" 1")
    assert "never on" not in result.comments


def test_shares_are_of_the_noise_schedule_where_a_solver_makes_as_many_steps_as_it_likes(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:unet=0.2@0,1@1:te=0> <lora:t_lora2:1:stop=50%>"
    _, asked = record_few(bench, prompt="a red cat <lora:t_lora:0>", sampler_name="Euler")
    result, record = record_few(bench, prompt=prompt, sampler_name="DPM adaptive")
    told = solver_steps(bench, "DPM adaptive", record)
    begins = [record.sigmas[told.index(step)] for step in told]
    course = np.interp(-np.log(begins), -np.log(asked.sigmas), np.linspace(0.2, 1, 8))
    assert timeline(record) == pytest.approx(course, abs=3e-3)
    on = [sigma > asked.sigmas[4] for sigma in begins]
    assert timeline(record, "t_lora2") == [float(each) for each in on]
    steps, last = max(told) + 1, told[on.index(False)] - 1
    assert steps > 8
    assert note(bench, result, "LBW steps") == f"t_lora2: 0-{last} of {steps}"
    assert f"t_lora2: steps 0-{last} of {steps}" in result.comments


@pytest.mark.parametrize("sampler", ["DPM adaptive", "DPM fast", "Euler"])
def test_the_infotext_says_in_which_steps_a_noise_level_was(bench: Bench, sampler: str):
    result, record = record_few(bench, prompt="a red cat <lora:t_lora:1:stop=2.5sigma>", sampler_name=sampler)
    told = solver_steps(bench, sampler, record)
    on = [record.sigmas[told.index(step)] > 2.5 for step in told]
    assert timeline(record) == [float(each) for each in on]
    assert note(bench, result, "LBW steps") == f"t_lora: 0-{told[on.index(False)] - 1} of {max(told) + 1}"


@pytest.mark.parametrize(
    ("sampler", "strength", "exactly"),
    [
        *((sampler, 0.75, False) for sampler in ("Euler a", "Heun", "DDIM", "UniPC", "DPM fast")),
        *((sampler, 0.6, True) for sampler in ("Euler a", "DPM++ SDE", "PLMS")),
    ],
)
def test_img2img_has_shares_of_the_steps_that_it_makes(
    bench: Bench, option: Callable[..., None], sampler: str, strength: float, exactly: bool
):
    bench.require_sampler(sampler)
    option(img2img_fix_steps=exactly)
    prompt = "a red cat <lora:t_lora:1:unet=0@0,1@1> <lora:t_lora2:1:start=50%>"
    result, record = record_few(
        bench, prompt=prompt, sampler_name=sampler, init_images=[Image.new("RGB", (64, 64))],
        denoising_strength=strength,
    )
    found = timeline(record)
    assert found[0] == 0
    assert found[-1] == 1
    steps = len(set(found))
    assert found == pytest.approx([round(each * (steps - 1)) / (steps - 1) for each in found], abs=2e-3)
    half = round(steps / 2)
    assert timeline(record, "t_lora2") == [float(round(each * (steps - 1)) >= half) for each in found]
    assert note(bench, result, "LBW steps") == f"t_lora2: {half}-{steps - 1} of {steps}"
    if exactly and sampler != "PLMS":
        assert steps == 8


HIRES_STEPS = {
    "enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 8, "denoising_strength": 0.7
}


@pytest.mark.parametrize(
    ("tag", "wanted"),
    [
        ("1:step=2-3:hrstop=7", range(2, 7)),
        ("1:step=2-3:hrstart=4", range(4, 8)),
        ("1:step=2-3:hrstep=5-6", range(5, 6)),
        ("1:start=2:stop=3:hrstop=100%", range(2, 8)),
        ("1:start=2:stop=3:hrstop=2", range(0, 2)),
    ],
)
def test_a_hires_key_replaces_its_side_of_the_first_pass_window(bench: Bench, tag: str, wanted: range):
    _, record = record_few(bench, prompt=f"a red cat <lora:t_lora:{tag}>", **HIRES_STEPS)
    first = range(2, 3)
    found = [step for step, strength in enumerate(timeline(record)[8:]) if strength == 1]
    assert found == [*wanted]
    assert [step for step, strength in enumerate(timeline(record)[:8]) if strength == 1] == [*first]


LATE = "<lora:t_lora>: start={}: the {}; it is never on in the U-Net"


@pytest.mark.parametrize(
    ("tag", "fields", "expected"),
    [
        ("start=50", {}, [LATE.format("50", "pass has 8 steps")]),
        ("step=8-", {}, [LATE.format("8", "pass has 8 steps")]),
        ("start=100%", {}, [LATE.format("100%", "pass has 8 steps")]),
        ("start=7", {}, []),
        ("stop=50", {}, []),
        ("start=99:stop=50", {}, ["<lora:t_lora>: its start is not before its stop, so it is never on in the U-Net"]),
        ("start=7", {"sampler_name": "UniPC"}, [LATE.format("7", "pass has 7 steps")]),
        ("start=0.001sigma", {}, [LATE.format("0.001sigma", "pass has 8 steps")]),
        ("start=1sigma", {}, []),
        ("start=5", {"sampler_name": "DPM adaptive"}, []),
        ("start=50%", {"sampler_name": "DPM adaptive"}, []),
        ("start=7:stop=50%", {"sampler_name": "DPM adaptive"}, []),
        ("start=70%:stop=30%", {"sampler_name": "DPM adaptive"},
         ["<lora:t_lora>: its start is not before its stop, so it is never on in the U-Net"]),
        ("start=7:hrstart=5", {**HIRES_STEPS, "hr_second_pass_steps": 5},
         [LATE.format("5", "hires pass has 5 steps")]),
        ("stop=7", {**HIRES_STEPS, "hr_second_pass_steps": 5}, []),
        ("start=5", {"init_images": [Image.new("RGB", (64, 64))], "denoising_strength": 0.3},
         [LATE.format("5", "pass has 3 steps")]),
        ("stop=5", {"init_images": [Image.new("RGB", (64, 64))], "denoising_strength": 0.3}, []),
    ],
)
def test_a_start_that_a_pass_never_comes_to_is_told(
    bench: Bench, tag: str, fields: dict[str, Any], expected: list[str]
):
    result = bench.webui.generate(prompt=f"a red cat <lora:t_lora:1:{tag}>", **fields)
    assert messages(result) == expected


def test_of_a_pass_whose_steps_nobody_knows_beforehand_it_is_told_at_its_end(bench: Bench):
    result, record = record_few(bench, prompt="a cat <lora:t_lora:1:start=999>", sampler_name="DPM adaptive")
    steps = max(solver_steps(bench, "DPM adaptive", record)) + 1
    assert messages(result) == [LATE.format("999", f"pass has {steps} steps")]
