"""The schedule picture: strengths over the steps as the plan has them, what is asked before generating, the figure."""

from __future__ import annotations

import numpy as np
import pytest

from lbw.pictures import Theme, png
from lbw.pictures.courses import MOST_LINES, MOST_MAPS, draw
from lbw.plan.courses import courses
from lbw.plan.plan import Pass
from lbw.request.preview import preview
from lbw.tags.library import Library
from lbw.tags.presets import DEFAULT_PRESETS, parse_presets
from tests.backend import Backend

LAYERS = (
    "diffusion_model_input_blocks_4_1_attn1", "diffusion_model_input_blocks_4_1_attn2",
    "diffusion_model_output_blocks_3_1_attn1", "transformer_text_model_encoder_layers_0_mlp_fc1",
    "diffusion_model_time_embed_0",
)
LIBRARY = Library(parse_presets(DEFAULT_PRESETS)[0], {"ATTN2": ":attn2:0"})


def made(prompt: str, steps: int, hires: bool = False) -> Pass:
    messages: list[str] = []
    result = preview(prompt, LIBRARY, Backend(LAYERS), messages.append, steps=steps, hires=hires)
    assert messages == []
    return result


def test_a_tag_without_blocks_has_one_course():
    (course,) = courses(made("<lora:a:0.5:stop=2>", 4))
    assert course.strengths == (0.5, 0.5, 0.0, 0.0)
    assert course.blocks == {}


def test_blocks_that_differ_have_courses_of_their_own():
    plain, blocks, rules = courses(made("<lora:a:0@0,1@4><lora:b:0.5:lbw=NONE@0,OUTD@2><lora:c:1:lbwe=ATTN2>", 5))
    assert (plain.strengths, plain.blocks) == ((0.0, 0.25, 0.5, 0.75, 1.0), {})
    assert blocks.strengths == (0.5,) * 5
    assert blocks.blocks == {"BASE": (0.0,) * 5, "IN04": (0.0,) * 5, "OUT03": (0.0, 0.25, 0.5, 0.5, 0.5)}
    assert rules.blocks == {"BASE": (1.0,) * 5, "IN04": (0.5,) * 5, "OUT03": (1.0,) * 5}


@pytest.mark.parametrize("theme", Theme)
def test_the_picture_shows_both_passes_and_the_blocks(theme: Theme):
    prompt = "<lora:a:1:stop=2:hr=0.5><lora:$b^:0.5:lbw=OUTD>"
    figure = draw([made(prompt, 4), made(prompt, 3, hires=True)], theme)
    titled = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in titled] == [
        "First pass: strength in the U-Net", r"First pass: <lora:\$b^> in each block",
        "Hires pass: strength in the U-Net", r"Hires pass: <lora:\$b^> in each block",
    ]
    lines = [[patch.get_data() for patch in axes.patches] for axes in titled[::2]]
    assert [[list(line.values) for line in part] for part in lines] == [
        [[1, 1, 0, 0], [0.5] * 4], [[0.5, 0.5, 0], [0.5] * 3],
    ]
    assert [list(part[0].edges) for part in lines] == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]
    for axes, steps in ((titled[1], 4), (titled[3], 3)):
        assert [label.get_text() for label in axes.get_yticklabels()] == ["BASE", "IN04", "OUT03"]
        np.testing.assert_allclose(axes.images[0].get_array(), np.outer([0.5, 0, 0.5], np.ones(steps)))
    assert len(png(figure)) > 1000


def test_what_is_too_much_for_a_picture_is_named():
    prompt = "".join(f"<lora:n{i}:1:lbw=OUTD>" for i in range(MOST_LINES + 3))
    figure = draw([made(prompt, 2)])
    assert figure.axes[0].get_title(loc="left") == (
        f"First pass: strength in the U-Net (not drawn: 3 more LoRAs, blocks of {MOST_LINES + 3 - MOST_MAPS} more)"
    )
    assert len(figure.axes[0].patches) == MOST_LINES
    assert sum(bool(axes.images) for axes in figure.axes if axes.get_title(loc="left")) == MOST_MAPS


