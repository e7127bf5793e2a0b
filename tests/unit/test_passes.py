"""Passes whose steps nobody knows beforehand: shares of their noise schedule."""

from __future__ import annotations

import math

import pytest

from lbw.plan.plan import Pass, build
from lbw.tags.library import Library
from lbw.tags.positions import Position, Unit, nominal_sigmas, step_at
from lbw.tags.prompt import LoraRequest, parse

LEVELS = (16.0, 8.0, 4.0, 2.0, 1.0)


def request(tag: str) -> LoraRequest:
    return parse(tag.split(":"), print).by_noise(LEVELS)


@pytest.mark.parametrize(
    ("sigma", "step"), [(20, 0), (16, 0), (8, 1), (math.sqrt(8 * 4), 1.5), (1.0, 4), (0.1, 4), (2 * 2**0.75, 2.25)]
)
def test_a_noise_level_is_at_a_step_of_the_schedule_or_between_two(sigma: float, step: float):
    assert step_at(sigma, LEVELS) == pytest.approx(step)


def test_of_a_schedule_of_one_level_all_is_the_first_step():
    assert step_at(3, (3,)) == step_at(1, (3,)) == step_at(9, (3,)) == 0


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (Position(0.0, Unit.SHARE), math.inf),
        (Position(0.4, Unit.SHARE), 4.0),
        (Position(0.05, Unit.SHARE), 8.0),  # at least one step
        (Position(1.0, Unit.SHARE), 0.0),
    ],
)
def test_a_share_is_the_noise_level_of_its_step(position: Position, expected: float):
    assert position.by_noise(LEVELS) == Position(expected, Unit.SIGMA)


@pytest.mark.parametrize("position", [Position(3), Position(2.5, Unit.SIGMA)])
def test_steps_and_noise_levels_stay(position: Position):
    assert position.by_noise(LEVELS) is position


SIGMAS = (16.0, 11.0, 8.0, 5.6569, 4.0, 3.0, 2.0, 1.5, 1.0)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("a:1:stop=40%", [1, 1, 1, 1, 0, 0, 0, 0, 0]),
        ("a:1:start=60%", [0, 0, 0, 0, 0, 0, 1, 1, 1]),
        ("a:1:start=0.0:stop=100%", [1] * 9),
        ("a:1:start=100%", [0] * 9),
        ("a:1:stop=5", [1, 1, 1, 1, 1, 0, 0, 0, 0]),
        ("a:1:stop=5sigma", [1, 1, 1, 1, 0, 0, 0, 0, 0]),
        ("a:0@0,1@1", [0, 0.135, 0.25, 0.375, 0.5, 0.604, 0.75, 0.854, 1]),
        ("a:0@0,1@1:start=2", [0, 0, 0.25, 0.375, 0.5, 0.604, 0.75, 0.854, 1]),
    ],
)
def test_strengths_follow_the_noise(tag: str, expected: list[float]):
    assert request(tag).unet_strengths(len(SIGMAS), SIGMAS) == pytest.approx(expected, abs=1e-3)


def test_block_curves_do_too():
    layer = "diffusion_model_output_blocks_5_1_proj_in"
    plan = build([request("a:1:lbw=NONE@0,ALL@1")], {"a": [layer]}, Library({}, {}), print, model_layers=[layer])
    assert plan.depends_on_noise
    found = [plan.coefficients(step, 9, SIGMAS)[layer][0] for step in range(9)]
    assert found == pytest.approx([0, 0.135, 0.25, 0.375, 0.5, 0.604, 0.75, 0.854, 1], abs=1e-3)


def test_what_was_expected_of_an_open_pass_goes_as_it_goes_on():
    plan = build([request("a:1:stop=40%")], {}, Library({}, {}), print)
    made = Pass(plan, 1, nominal_sigmas(8), is_open=True)
    assert made.with_level(0, 16.0).sigmas == (16.0,)
    assert made.with_level(0, 16.0).with_level(1, 9.0).sigmas == (16.0, 9.0)
