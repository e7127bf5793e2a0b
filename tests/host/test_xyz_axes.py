"""Our axes in the host's own X/Y/Z plot: each cell is the image that its tag makes alone."""

from __future__ import annotations

import inspect
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from tests.host.conftest import Bench
from tests.host.measure import messages

SHORT = {"steps": 2, "cfg_scale": 2}
PRESETS = "INS:1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0\nOUTD:1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
INS = "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0"
ONES = ",".join(["1"] * 26)


def plot_script(bench: Bench) -> tuple[int, Any]:
    """The number of the host's X/Y/Z plot in the Script menu, and the script."""
    scripts = bench.webui.scripts.scripts_txt2img.selectable_scripts
    return next((number, script) for number, script in enumerate(scripts, 1) if script.title() == "X/Y/Z plot")


def plot(bench: Bench, prompt: str, *axes: tuple[str, str], args: list[Any] | None = None) -> Any:
    number, script = plot_script(bench)
    labels = [option.label for option in script.current_axis_options]
    values: list[Any] = []
    for label, text in [*axes, *[("Nothing", "")] * 3][:3]:
        values += [labels.index(label), text, []]
    seeds = [False] * (len(inspect.signature(script.run).parameters) - 16)  # to vary along axes, since 1.8
    values += [True, True, False, False, *seeds, 0, True]
    p = bench.webui.request(args or [PRESETS], prompt=prompt, **SHORT)
    p.script_args = (number, *p.script_args[1:])
    with closing(p):
        bench.webui.shared.state.begin(job="test")
        try:
            return script.run(p, *values)
        finally:
            bench.webui.shared.state.end()


def alone(bench: Bench, prompt: str, args: list[Any] | None = None, **fields: Any) -> np.ndarray:
    return np.asarray(bench.webui.generate(args or [PRESETS], prompt=prompt, **{**SHORT, **fields}).images[0])


CASES = {
    "presets of all tags": (
        "a cat <lora:t_lora:1> <lora:t_lora2:0.5:lbw=OUTD>", [("[LBW] preset", "INS,OUTD")],
        ["a cat <lora:t_lora:1:lbw=INS> <lora:t_lora2:0.5:lbw=INS>",
         "a cat <lora:t_lora:1:lbw=OUTD> <lora:t_lora2:0.5:lbw=OUTD>"],
    ),
    "presets of the marked tag, and seeds": (
        "a cat <lora:t_lora:1:lbw=XYZ> <lora:t_lora2:0.5>", [("[LBW] preset", "INS,OUTD"), ("CFG Scale", "1.5,3")],
        [("a cat <lora:t_lora:1:lbw=INS> <lora:t_lora2:0.5>", {"cfg_scale": 1.5}),
         ("a cat <lora:t_lora:1:lbw=OUTD> <lora:t_lora2:0.5>", {"cfg_scale": 1.5}),
         ("a cat <lora:t_lora:1:lbw=INS> <lora:t_lora2:0.5>", {"cfg_scale": 3}),
         ("a cat <lora:t_lora:1:lbw=OUTD> <lora:t_lora2:0.5>", {"cfg_scale": 3})],
    ),
    "blocks at value": (
        "a cat <lora:t_lora:1:lbw=INS>", [("[LBW] blocks at value", "IN01 M00=0.5,NOT BASE=0")],
        ["a cat <lora:t_lora:1:lbw=1,0.5,1,1,0,0,0,0.5,0,0,0,0,0,0,0,0,0>",
         "a cat <lora:t_lora:1:lbw=1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0>"],
    ),
    "weights, start and stop": (
        "a cat <lora:t_lora:1>",
        [("[LBW] weights", f'"{INS}","{ONES}"'), ("[LBW] start", "0,1"), ("[LBW] stop", "50%")],
        [f"a cat <lora:t_lora:1:lbw={weights}:start={start}:stop=50%>"
         for start in (0, 1) for weights in (INS, ONES)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_cell_is_the_image_of_its_tag_alone(bench: Bench, case: str):
    prompt, axes, expected = CASES[case]
    result = plot(bench, prompt, *axes)
    images = [np.asarray(image) for image in result.images[1:]]
    assert len(images) == len(expected)
    for image, text, tags in zip(images, result.infotexts[1:], expected, strict=True):
        prompt, fields = tags if isinstance(tags, tuple) else (tags, {})
        assert np.array_equal(image, alone(bench, prompt, **fields))
        assert "lbw=" in text.splitlines()[0]


def test_elements(bench: Bench):
    result = plot(bench, "a cat <lora:t_lora:1>", ("[LBW] elements", "IN05-OUT05:attn1:0,ATTNDEEPOFF"))
    for image, words in zip(result.images[1:], ("attn1", "attn"), strict=True):
        elements = [{"elements": f"MINE:IN05-OUT05:{words}:0"}]
        assert np.array_equal(np.asarray(image), alone(bench, "a cat <lora:t_lora:1:lbwe=MINE>", elements))


@pytest.mark.parametrize(
    ("label", "value", "part"),
    [
        ("[LBW] preset", "NOPE", "expected one of INS, OUTD"),
        ("[LBW] blocks at value", "IN05", "expected BLOCKS=VALUE"),
        ("[LBW] blocks at value", "XX=1", "is not a block"),
        ("[LBW] weights", "OUTE", "no preset of this name"),
        ("[LBW] start", "abc", "expected a step"),
    ],
)
def test_a_wrong_value_stops_the_plot_before_it_begins(bench: Bench, label: str, value: str, part: str):
    with pytest.raises(ValueError, match=part):
        plot(bench, "a cat <lora:t_lora:1>", (label, value))


def test_an_inactive_extension_says_so(bench: Bench):
    result = plot(bench, "a cat <lora:t_lora:1>", ("[LBW] stop", "1,2"), args=[PRESETS, False])
    assert "not active, so that its axes change nothing" in messages(result)[0]


def test_the_axes_are_there_once(bench: Bench):
    from lbw.hosts import hooks

    hooks.add_axes()
    _number, script = plot_script(bench)
    from_module = [option.label for data in bench.webui.scripts.scripts_data if data.path.endswith("xyz_grid.py")
                   for option in data.module.axis_options]
    for labels in ([option.label for option in script.current_axis_options], from_module):
        assert len([label for label in labels if label.startswith("[LBW]")]) == 6
    presets = next(option for option in script.current_axis_options if option.label == "[LBW] preset")
    assert "OUTD" in presets.choices()


def test_a_marked_tag_whose_weights_no_axis_changes_has_1_in_all_blocks(bench: Bench):
    result = plot(bench, "a cat <lora:t_lora:1:lbw=XYZ>", ("[LBW] stop", "0,1"))
    assert messages(result) == []
    for image, stop in zip(result.images[1:], (0, 1), strict=True):
        assert np.array_equal(np.asarray(image), alone(bench, f"a cat <lora:t_lora:1:stop={stop}>"))


def test_a_marked_tag_of_which_a_preset_has_the_name_keeps_it(bench: Bench):
    args = [f"XYZ:{INS}"]
    result = plot(bench, "a cat <lora:t_lora:1:lbw=XYZ>", ("[LBW] stop", "1"), args=args)
    image = np.asarray(result.images[-1])
    assert np.array_equal(image, alone(bench, f"a cat <lora:t_lora:1:lbw={INS}:stop=1>"))


@pytest.mark.parametrize(
    ("tag", "happens"),
    [("lbw=XYZ", "all blocks are 1"), ("lbw=ZYX", "all blocks are 1"), ("lbwe=XYZ", "the tag works without it")],
)
def test_a_marked_tag_without_a_plot_is_told_who_fills_it_in(bench: Bench, tag: str, happens: str):
    args = [{"presets": PRESETS, "elements": "MINE:IN05:attn:0"}]
    result = bench.webui.generate(args, prompt=f"a cat <lora:t_lora:1:{tag}>", **SHORT)
    expected = f"<lora:t_lora>: {tag}: it is filled in by the XYZ plot, which is off; {happens}"
    assert messages(result) == [expected]
    assert np.array_equal(np.asarray(result.images[0]), alone(bench, "a cat <lora:t_lora:1>"))
