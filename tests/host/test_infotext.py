"""Images that can be made again: from the infotext alone, on a machine that lacks what the prompt names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.host.conftest import Bench
from tests.host.lora_files import attention_layers, write_lora
from tests.host.measure import Strengths, messages
from tests.host.webui import controls_of

OUTD = "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
RANDOM = "0.5," + ",".join(["R", "U"] * 8)
NAMES = (
    "MINE", "a,b", 'say "hi"', '"quoted"', "ünï 猫🐈", "512x512", "back\\slash", "{json}", "NOT", "1.5x", "tab\tbed",
    "a=b=c",
)


def through_a_png(infotext: str) -> str:
    """What is left of an infotext after it has been written into a PNG file and read from it, as the host does both."""
    chunks, file = PngImagePlugin.PngInfo(), io.BytesIO()
    chunks.add_text("parameters", infotext)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=chunks)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        return image.info["parameters"]


def paste(bench: Bench, infotext: str, *, presets: str = "", elements: str = "") -> tuple[list[Any], dict[str, Any]]:
    """Read generation parameters by the host's own means, on a machine with these presets.

    Returns:
        the script's arguments, and the fields of the request.
    """
    from modules import script_callbacks

    text = through_a_png(infotext)
    parameters = bench.webui.parse_infotext(text)
    script_callbacks.infotext_pasted_callback(text, parameters)
    runner = bench.webui.scripts.scripts_txt2img
    script = bench.webui.script(runner)
    controls = controls_of(runner, script)
    args = [control.value for control in controls]
    for component, target in runner.infotext_fields:
        found = target(parameters) if callable(target) else parameters.get(target)
        if component in controls and found is not None:
            args[controls.index(component)] = found
    args[0], args[15] = presets, elements
    fields = {"prompt": parameters["Prompt"], "seed": int(parameters["Seed"]), "steps": int(parameters["Steps"])}
    return args, fields


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image).astype(int)


def assert_close(found: list[Strengths], wanted: list[Strengths]) -> None:
    assert len(found) == len(wanted)
    for at_step, expected in zip(found, wanted, strict=True):
        for network, blocks in expected.items():
            for block, pair in blocks.items():
                assert at_step[network][block] == pytest.approx(pair, abs=2e-3), (network, block)


def lbw_part(infotext: str) -> str:
    return infotext[infotext.find("LBW ") :] if "LBW " in infotext else ""


def test_a_plain_image_has_nothing_of_ours_in_its_infotext(bench: Bench):
    assert lbw_part(bench.webui.generate(prompt="a red cat <lora:t_lora:0.7>").infotexts[0]) == ""


def test_a_schedule_in_the_prompt_adds_the_version_alone(bench: Bench):
    told = lbw_part(bench.webui.generate(prompt="a red cat <lora:t_lora:1:stop=4>").infotexts[0])
    assert told.startswith("LBW version: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_that_the_other_machine_lacks_comes_with_the_infotext(bench: Bench, name: str):
    prompt = f"a red cat <lora:t_lora:1:lbw={name}>" if name.count("=") == 0 else f"a red cat <lora:t_lora:1:{name}>"
    first, record = bench.record("t_lora", args=[f"{name}:{OUTD}"], prompt=prompt)
    assert record.strengths[0]["t_lora"]["IN04"] == pytest.approx((0, 0), abs=2e-3)
    args, fields = paste(bench, first.infotexts[0], presets=f"OTHER:{OUTD}")
    assert fields["prompt"] == prompt
    again, repeated = bench.record("t_lora", args=args, **fields)
    assert_close(repeated.strengths, record.strengths)
    assert (pixels(again.images[0]) == pixels(first.images[0])).all()
    assert messages(again) == []
    assert again.infotexts == first.infotexts


def test_without_the_infotext_the_other_machine_makes_another_image(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:lbw=MINE>"
    first = bench.webui.generate(args=[f"MINE:{OUTD}"], prompt=prompt)
    other = bench.webui.generate(args=[f"OTHER:{OUTD}"], prompt=prompt)
    assert (pixels(other.images[0]) != pixels(first.images[0])).any()


def test_presets_and_rules_of_the_same_names_are_those_of_the_image(bench: Bench):
    elements = "RULE:IN05-OUT05:attn1:0.3,\nBASE::0.2"
    prompt = "a red cat <lora:t_lora:1:lbw=MINE:lbwe=RULE>"
    args = [f"MINE:{OUTD}", *[None] * 14, elements]
    first, record = bench.record("t_lora", args=args, prompt=prompt)
    args, fields = paste(bench, first.infotexts[0], presets="MINE:" + ",".join(["1"] * 17), elements="RULE:::1")
    again, repeated = bench.record("t_lora", args=args, **fields)
    assert_close(repeated.strengths, record.strengths)
    assert (pixels(again.images[0]) == pixels(first.images[0])).all()


def test_the_default_preset_is_for_tags_without_one_and_comes_back(bench: Bench):
    args = [f"MINE:{OUTD}", *[None] * 17, "MINE"]
    prompt = "a red cat <lora:t_lora:1> <lora:t_lora2:1:lbw=1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0>"
    first, record = bench.record("t_lora", "t_lora2", args=args, prompt=prompt)
    assert record.strengths[0]["t_lora"]["IN04"] == pytest.approx((0, 0), abs=2e-3)
    assert record.strengths[0]["t_lora"]["OUT03"] == pytest.approx((1, 1), abs=2e-3)
    assert record.strengths[0]["t_lora2"]["IN04"] == pytest.approx((1, 1), abs=2e-3)
    args, fields = paste(bench, first.infotexts[0])
    again, repeated = bench.record("t_lora", "t_lora2", args=args, **fields)
    assert_close(repeated.strengths, record.strengths)
    assert again.infotexts == first.infotexts
    _, plain = bench.record("t_lora", prompt="a red cat <lora:t_lora:1>")
    assert plain.strengths[0]["t_lora"]["IN04"] == pytest.approx((1, 1), abs=2e-3)


def test_an_image_without_a_default_preset_takes_the_panels_away(bench: Bench):
    first = bench.webui.generate(prompt=f"a red cat <lora:t_lora:1:lbw={OUTD}>")
    args, _ = paste(bench, first.infotexts[0])
    assert args[18:20] == ["", ""]


@pytest.mark.parametrize("image", [0, 1, 2, 3])
def test_random_weights_are_one_set_for_a_batch_and_each_image_brings_its_own_back(bench: Bench, image: int):
    """Two batches of two images: a batch draws by the seed of its first image."""
    prompt = f"a red cat <lora:t_lora:1:lbw={RANDOM}>"
    first, record = bench.record("t_lora", prompt=prompt, n_iter=2, batch_size=2, steps=4, do_not_save_grid=True)
    batches = [record.strengths[:4], record.strengths[4:]]
    assert batches[0][0] != batches[1][0]
    infotexts = first.infotexts[first.index_of_first_image :]
    assert lbw_part(infotexts[0]) == lbw_part(infotexts[1]) != lbw_part(infotexts[2]) == lbw_part(infotexts[3])
    args, fields = paste(bench, infotexts[image])
    assert fields["seed"] == 1 + image
    again, repeated = bench.record("t_lora", args=args, **fields)
    assert_close(repeated.strengths, batches[image // 2])
    difference = np.abs(pixels(again.images[0]) - pixels(first.images[first.index_of_first_image + image]))
    assert difference.max() <= 1  # a batch of one is computed in another order than one of two
    other_seed, fresh = bench.record("t_lora", args=args, **{**fields, "seed": 77})
    assert fresh.strengths[0] != repeated.strengths[0]
    assert lbw_part(other_seed.infotexts[0]) != lbw_part(infotexts[image])


def test_the_grids_infotext_has_the_values_of_the_first_image(bench: Bench):
    bench.webui.shared.opts.set("return_grid", True)
    prompt = f"a red cat <lora:t_lora:1:lbw={RANDOM}>"
    result = bench.webui.generate(prompt=prompt, n_iter=2, steps=1, do_not_save_grid=False)
    assert result.index_of_first_image == 1
    grid, first, second = (lbw_part(infotext) for infotext in result.infotexts)
    assert grid == first != second


def test_other_tags_do_not_change_what_is_drawn(bench: Bench):
    tag = f"<lora:t_lora:1:lbw={RANDOM}>"
    _, alone = bench.record("t_lora", prompt=f"a red cat {tag}", steps=1)
    _, beside = bench.record("t_lora", "t_lora2", prompt=f"a red cat <lora:t_lora2:1:lbw={RANDOM}> {tag}", steps=1)
    at_step = beside.strengths[0]
    assert at_step["t_lora"]["OUT05"] == pytest.approx(alone.strengths[0]["t_lora"]["OUT05"], abs=2e-3)
    assert at_step["t_lora2"]["OUT05"] != pytest.approx(at_step["t_lora"]["OUT05"], abs=2e-3)


@pytest.mark.parametrize(
    ("presets", "weights"),
    [
        ("MINE:NONE,OUT=R,BASE=1\n", "MINE"),
        (f"MINE:{OUTD}\n", "MINE,OUT=U,M00=X"),
        ("A:NONE,OUT=0.5\nMINE:A,M00=R\n", "NONE@0,MINE@0.5,IN=R@1"),
    ],
)
def test_blocks_by_name_and_their_random_values_come_back(bench: Bench, presets: str, weights: str):
    x = ":x=0.3" if "X" in weights else ""
    prompt = f"a red cat <lora:t_lora:1:lbw={weights}{x}>"
    first, record = bench.record("t_lora", args=[presets], prompt=prompt, steps=4)
    args, fields = paste(bench, first.infotexts[0], presets=f"OTHER:{OUTD}")
    again, repeated = bench.record("t_lora", args=args, **fields)
    assert messages(first) == messages(again) == []
    assert_close(repeated.strengths, record.strengths)
    assert again.infotexts == first.infotexts


@pytest.mark.parametrize("name", ["with, comma", 'with "quotes"', "ünï 猫🐈", "new\nline", "[a](b) {c}"])
def test_a_lora_file_with_any_name_comes_back(bench: Bench, name: str):
    folder: Path = bench.webui.lora_folder
    path = folder / f"{name}.safetensors"
    delta = write_lora(path, attention_layers(bench.layers()), seed=9)
    bench.webui.networks.list_available_networks()
    bench.deltas[name] = delta
    try:
        prompt = f"a red cat <lora:{name}:1:lbw=MINE:stop=0.5>"
        first, record = bench.record(name, args=[f"MINE:{RANDOM}"], prompt=prompt)
        assert record.strengths[0][name]["BASE"] == pytest.approx((0.5, 0.5), abs=2e-3)
        args, fields = paste(bench, first.infotexts[0])
        assert fields["prompt"] == prompt
        again, repeated = bench.record(name, args=args, **fields)
        assert_close(repeated.strengths, record.strengths)
        assert (pixels(again.images[0]) == pixels(first.images[0])).all()
    finally:
        bench.webui.generate(prompt="nothing", steps=1)
        path.unlink()
        del bench.deltas[name]
        bench.webui.networks.list_available_networks()


def test_lora_hashes_are_what_the_host_alone_writes(bench: Bench):
    def hashes(result: Any) -> str:
        return result.infotexts[0].partition("Lora hashes: ")[2].partition('"')[2].partition('"')[0]

    tags = "<lora:t_lora:1> <lora:t_lora2:0.5>"
    alone = bench.webui.generate(args=["", False], prompt=f"a red cat {tags}")
    prompt = "a red cat <lora:t_lora:1:lbw=OUTD:stop=4> <lora:t_lora2:te=0.5:lbw=" + RANDOM + ">"
    assert hashes(bench.webui.generate(prompt=prompt)) == hashes(alone) != ""


def test_steps_are_those_of_the_pass(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:stop=0.5>"
    both = bench.webui.generate(prompt=prompt, steps=6, enable_hr=True, hr_scale=2, hr_second_pass_steps=4,
                                hr_upscaler="Latent", denoising_strength=0.99)
    assert 'LBW steps: "t_lora: 0-2 of 6; t_lora: hires 0-1 of 4"' in both.infotexts[0]
    again = bench.webui.generate(prompt=prompt, init_images=[Image.new("RGB", (64, 64), "#a02020")],
                                 denoising_strength=0.75, steps=8)
    counts = []
    with bench.webui.observing(lambda params: counts.append(params.total_sampling_steps)):
        bench.webui.generate(prompt=prompt, init_images=[Image.new("RGB", (64, 64), "#a02020")],
                             denoising_strength=0.75, steps=8)
    assert f" of {counts[0]}" in again.infotexts[0]
