"""The schedule picture: behind a generation's images where it is asked for, and before it in the panel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lbw.tags.presets import DEFAULT_PRESETS
from tests.host.conftest import Bench
from tests.host.test_memory import options

PROMPT = "a red cat <lora:t_lora:0@0,1@1:lbw=OUTALL>"
WITH_PICTURE = [{"schedule_picture": True}]


def test_there_is_none_unless_it_is_asked_for(bench: Bench):
    assert len(bench.webui.generate(prompt=PROMPT, steps=2).images) == 1
    result = bench.webui.generate(args=WITH_PICTURE, prompt="a red cat", steps=2)
    assert len(result.images) == 1, "without a LoRA there is nothing to draw"
    off = [{"schedule_picture": True, "active": False}]
    assert len(bench.webui.generate(args=off, prompt=PROMPT, steps=2).images) == 1


def test_the_picture_comes_last_and_the_images_are_the_same(bench: Bench):
    plain = bench.webui.generate(prompt=PROMPT, steps=2, n_iter=2)
    result = bench.webui.generate(args=WITH_PICTURE, prompt=PROMPT, steps=2, n_iter=2)
    assert result.index_of_first_image == plain.index_of_first_image
    assert len(result.images) == len(result.infotexts) == len(plain.images) + 1
    for image, same in zip(result.images, plain.images, strict=False):
        assert image.tobytes() == same.tobytes()
    assert result.images[-1].info["parameters"] == result.infotexts[0] == plain.infotexts[0]
    assert json.loads(result.js())["infotexts"] == result.infotexts


def test_it_is_as_high_as_its_passes_need(bench: Bench):
    heights = [
        bench.webui.generate(args=WITH_PICTURE, prompt=prompt, steps=2, **fields).images[-1].height
        for prompt, fields in (
            ("a red cat <lora:t_lora:1:stop=1>", {}),
            (PROMPT, {}),
            (PROMPT, {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_upscaler": "Latent"}),
        )
    ]
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize(("saves", "forbids", "count"), [(True, False, 1), (False, False, 0), (True, True, 0)])
def test_it_is_saved_where_grids_are(bench: Bench, tmp_path: Path, saves: bool, forbids: bool, count: int):
    with options(bench, grid_save=saves):
        p = bench.webui.request(WITH_PICTURE, prompt=PROMPT, steps=2, do_not_save_grid=forbids)
        p.outpath_grids = str(tmp_path)
        bench.webui.run(p)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == count


def asked(**page: Any) -> str:
    usual = {"prompt": PROMPT, "steps": 4, "sampler": "Euler", "denoising": None, "hires": None, "theme": "light"}
    return json.dumps(usual | page)


def shown(page: str, default_preset: str = "") -> str:
    from lbw.hosts.backend import Backend
    from lbw.ui.schedule import schedule_html

    return schedule_html(page, DEFAULT_PRESETS, "", default_preset, backend=Backend())


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ({}, "First pass, t_lora: 0 0.33 0.67 1\""),
        ({"prompt": "<lora:n:1:stop=50%>", "steps": 6}, "First pass, n: 1 1 1 0 0 0"),
        ({"hires": {"prompt": "", "steps": 0, "sampler": "Euler"}}, "Hires pass, t_lora: 0 0.33 0.67 1"),
        ({"hires": {"prompt": "<lora:t_lora2:0.5>", "steps": 2, "sampler": ""}}, "Hires pass, t_lora2: 0.5 0.5"),
        ({"prompt": "<lora:n:1>", "steps": 8, "denoising": 0.75}, "First pass, n: 1 1 1 1 1 1 1\""),
        ({"prompt": "[<lora:n:1>:4]", "steps": 8}, "First pass, n: 0 0 0 0 0 1 1 1\""),
        ({"prompt": "[<lora:n:1>:4]", "steps": 8, "denoising": 0.75}, "First pass, n: 0 0 0 0 0 1 1\""),
        ({"prompt": "[<lora:n:1>:4]", "steps": 4, "sampler": "Heun"}, "First pass, n: 0 0 0.5 1\""),
        ({"prompt": "[<lora:n:1>|]", "steps": 4, "sampler": "Heun"}, "First pass, n: 1 0.5 0.5 0.5\""),
        (
            {"prompt": "[<lora:n:1>:1.5]", "hires": {"prompt": "", "steps": 6, "sampler": "Euler"}},
            "Hires pass, n: 0 0 0 0 1 1\"",
        ),
        ({"prompt": "<lora:n:1:lbw=NOPE>"}, "lbw=NOPE: no preset of this name"),
        ({"prompt": "a cat"}, "There is no LoRA tag in the prompt."),
        ({"prompt": "<lora:n:1:stop=2>", "steps": 10**9}, "n: 1 1 0 0"),
    ],
)
def test_the_panel_shows_what_the_page_is_set_to(bench: Bench, page: dict[str, Any], expected: str):
    assert expected in shown(asked(**page))


@pytest.mark.parametrize(
    "page",
    [
        "", "{", "null", "5", "[]", "{}", "[" * 100_000, asked(steps="x"), asked(steps=float("inf")), asked(hires=5),
        asked(denoising=[]),
    ],
)
def test_what_no_page_would_ask_for_is_answered_with_a_message(bench: Bench, page: str):
    assert "The page did not say what is asked for" in shown(page)


def test_a_name_in_the_picture_is_text_and_nothing_else(bench: Bench):
    found = shown(asked(prompt='<lora:"$x^{<b:1:lbw=<i>oh</i>>'))
    assert "<b" not in found and "<i" not in found.replace("<img", "")


def test_a_plots_cells_have_none(bench: Bench):
    plot = {"mode": 1, "x_type": "values", "x_values": "0,1", "y_type": "none", "presets": f"XYZ:{','.join('1' * 17)}"}
    counts = [
        len(bench.webui.generate(args=[plot | more], prompt="a red cat <lora:t_lora:1:lbw=XYZ>", steps=1).images)
        for more in ({}, {"schedule_picture": True})
    ]
    assert counts == [3, 3]
