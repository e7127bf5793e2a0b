"""Bad tags: one clear message each, the image is made, other LoRAs keep their weights."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import save_file

from tests.host.conftest import Bench
from tests.host.lora_files import attention_layers, write_lora
from tests.host.measure import messages

BAD = {
    "lbw=NOPE": ("NOPE", "INALL", "all blocks are 1"),
    "lbw=1,2,3": ("3 values", "12, 17, 20, 25, 26", "all blocks are 1"),
    "lbw=1,0,abc,0,0,0,0,0,0,0,0,0,0,0,0,0,0": ("value 3 of 17", "abc", "all blocks are 1"),
    "lbw=1,0,,0,0,0,0,0,0,0,0,0,0,0,0,0,0": ("value 3 of 17", "''", "all blocks are 1"),
    "lbw=" + ",".join(["1"] * 61): ("Flux", "all blocks are 1"),
    "lbwe=NOPE": ("NOPE", "ATTNDEEPON", "works without it"),
    "stop=abc": ("stop=abc", "whole number", "works without it"),
    "start=-2": ("start=-2", "whole number", "works without it"),
    "step=abc": ("step=abc", "a-b", "works without it"),
    "step=-": ("step=-", "a-b", "works without it"),
    "stop=1.5": ("stop=1.5", "whole number", "works without it"),
    "stop=120%": ("stop=120%", "percentage", "works without it"),
    "x=abc": ("x=abc", "a number", "1 is used"),
    "te=abc": ("te=abc", "a number", "1 is used"),
    "unet=nan": ("unet=nan", "a number", "1 is used"),
    "dyn=abc": ("dyn=abc", "whole number", "full rank"),
    "WHAT": ("WHAT", "INALL", "all blocks are 1"),
}


@pytest.mark.of_any_forge
@pytest.mark.parametrize("argument", BAD, ids=[argument[:20] for argument in BAD])
def test_a_bad_argument_gets_one_message_and_costs_nobody_else_anything(bench: Bench, argument: str):
    prompt = f"a red cat <lora:t_lora:1:{argument}> <lora:t_lora2:0.5:lbw=OUTALL:stop=4>"
    result, record = bench.record("t_lora", "t_lora2", prompt=prompt)
    lines = [line for line in result.comments.splitlines() if "<lora:t_lora>" in line]
    assert len(lines) == 1, result.comments
    for part in BAD[argument]:
        assert part in lines[0]
    assert len(result.images) == 1
    for found in record.strengths:
        values = [value for pair in found["t_lora"].values() for value in pair]
        assert values == pytest.approx([1.0] * len(values), abs=2e-3)
    assert record.strengths[0]["t_lora2"]["OUT05"] == pytest.approx((0.5, 0.5), abs=2e-3)
    assert record.strengths[0]["t_lora2"]["IN04"] == pytest.approx((0, 0), abs=2e-3)
    assert record.strengths[4]["t_lora2"]["OUT05"] == pytest.approx((0, 0), abs=2e-3)


def test_a_lora_that_does_not_exist_is_the_hosts_business(bench: Bench):
    result, record = bench.record("t_lora", prompt="a red cat <lora:nope:1:stop=3> <lora:t_lora:1:stop=3>")
    assert len(result.images) == 1
    assert [round(found["t_lora"]["OUT05"][0], 3) for found in record.strengths] == [1, 1, 1, 0, 0, 0, 0, 0]


def test_a_file_that_the_host_cannot_load_is_told_once(bench: Bench):
    """The host says so in the console alone."""
    key = next(name for name in bench.deltas["t_lora"] if name.startswith("diffusion_model"))
    save_file({f"{key}.of_no_known_type": torch.ones(4, 4)}, bench.webui.lora_folder / "t_broken.safetensors")
    prompt = "a red cat <lora:t_broken:1:lbw=OUTD> <lora:t_lora:1:stop=3>"
    result, record = bench.record("t_lora", prompt=prompt, n_iter=2)
    is_forge = bench.webui.is_forge
    (line,) = [line for line in messages(result) if "t_broken" in line]
    assert ("0 of 1 parts are for this SD1 model" if is_forge else "the host cannot load its file, see the console; "
            "it is left out") in line
    assert "t_broken: " in result.comments and "t_broken: lbw=" not in result.comments
    assert len(result.images) == 2
    assert [round(found["t_lora"]["OUT05"][0], 3) for found in record.strengths] == [1, 1, 1, 0, 0, 0, 0, 0] * 2


def test_a_file_that_is_cut_off_costs_that_lora_alone(bench: Bench):
    path = bench.webui.lora_folder / "t_cut.safetensors"
    path.write_bytes((bench.webui.lora_folder / "t_lora.safetensors").read_bytes()[:2000])
    prompt = "a red cat <lora:t_cut:1:lbw=OUTD> <lora:t_lora:1:stop=3>"
    result, record = bench.record("t_lora", prompt=prompt)
    path.unlink(missing_ok=True)  # there are hosts that put it aside
    told = [line for line in messages(result) if "t_cut" in line]
    assert len(told) == 1 and "it is left out" in told[0]
    assert len(result.images) == 1
    assert [round(found["t_lora"]["OUT05"][0], 3) for found in record.strengths] == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.of_any_forge
def test_random_weights_follow_the_seed_and_are_told(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:lbw=" + ",".join(["1", *["R"] * 16]) + ">"
    first, record = bench.record("t_lora", prompt=prompt)
    again, repeated = bench.record("t_lora", prompt=prompt)
    other, differing = bench.record("t_lora", prompt=prompt, seed=2)
    assert record.strengths[0]["t_lora"]["OUT05"] == pytest.approx(repeated.strengths[0]["t_lora"]["OUT05"], abs=1e-6)
    assert record.strengths[0]["t_lora"]["OUT05"] != pytest.approx(differing.strengths[0]["t_lora"]["OUT05"], abs=1e-3)
    told = first.infotexts[0].partition("LBW values: ")[2]
    assert f"{record.strengths[0]['t_lora']['OUT05'][0]:.3f}".rstrip("0").rstrip(".") in told
    assert first.infotexts[0] == again.infotexts[0] != other.infotexts[0]


def test_a_lora_for_another_model_costs_nobody_else_anything(bench: Bench):
    """What does not fit is the host's to report; it says so with the result."""
    folder = bench.webui.lora_folder
    write_lora(folder / "t_other.safetensors", attention_layers(bench.layers()), seed=7, width=7)
    result, record = bench.record("t_lora", prompt="a red cat <lora:t_other:1:INALL> <lora:t_lora:1:lbw=OUTALL:stop=4>")
    assert len(result.images) == 1
    assert "t_other" in result.comments
    assert [round(found["t_lora"]["OUT05"][0], 3) for found in record.strengths] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_lora_that_fits_nothing_alone(bench: Bench):
    write_lora(bench.webui.lora_folder / "t_other.safetensors", attention_layers(bench.layers()), seed=7, width=7)
    result, record = bench.record("t_lora", prompt="a red cat <lora:t_other:1:stop=3>")
    assert len(result.images) == 1
    assert all(pair == (0, 0) for found in record.strengths for pair in found["t_lora"].values())


@pytest.mark.of_any_forge
def test_layers_in_no_block_are_listed_once_and_for_debugging_only(bench: Bench, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, logger="lbw"):
        result = bench.webui.generate(prompt="a red cat <lora:t_locon:1:lbw=NONE,OUT=1:stop=1>", steps=2, n_iter=2)
    lines = [record.getMessage() for record in caplog.records if "in no block" in record.getMessage()]
    assert len(lines) == 1 and "diffusion_model_out_2" in lines[0] and "output_blocks" not in lines[0]
    assert messages(result) == []


def test_strengths_beside_the_hosts_own_loras_say_so_and_are_not_kept(bench: Bench):
    from lbw.hosts import network_files

    before = network_files.measure("t_lora")
    network_files.meter.forget()
    bench.webui.generate(["", False], prompt="a red cat <lora:t_lora2:1>", steps=1)
    beside = network_files.measure("t_lora")
    if bench.webui.is_forge:  # it merges them into the weights; A1111 has backups of those
        assert beside.messages == (f"{network_files.PATCHED}; strengths are relative to these weights",)
    else:
        assert beside == before
    bench.webui.generate(prompt="nothing", steps=1)
    assert network_files.measure("t_lora") == before
