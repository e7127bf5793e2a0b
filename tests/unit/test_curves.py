from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.plan.plan import Pass
from lbw.tags.curves import Curve, Shape, is_curve, parse_curve
from lbw.tags.limits import MOST_KEYFRAMES
from lbw.tags.positions import nominal_sigmas
from lbw.tags.prompt import LoraRequest, parse
from tests.unit.test_plan import IN05, OUT03, TEXT, TIME, plan

LORACTL = json.loads((Path(__file__).parents[1] / "data" / "loractl.json").read_text())
"""What its documentation and its tests say, as facts; what is a share of the pass, on steps that it falls on."""

VALUES = st.floats(-2, 2, allow_subnormal=False).map(lambda value: round(value, 3))


def request(tag: str) -> LoraRequest:
    messages: list[str] = []
    found = parse(tag.split(":"), messages.append)
    assert messages == []
    return found


def unet(tag: str, steps: int, sigmas: tuple[float, ...] = ()) -> list[float]:
    return [round(strength, 6) for strength in request(tag).unet_strengths(steps, sigmas)]


@pytest.mark.parametrize("case", LORACTL["values"], ids=lambda case: case["weights"])
def test_curves_have_the_values_that_loractl_documents(case: dict[str, Any]):
    strengths = unet(f"n:{case['weights']}", case["steps"])
    assert {step: strengths[int(step)] for step in case["at"]} == pytest.approx(case["at"])


@pytest.mark.parametrize("case", LORACTL["tags"], ids=lambda case: case["tag"])
def test_strengths_belong_to_the_parts_and_passes_that_loractl_documents(case: dict[str, str]):
    for is_hires, prefix in ((False, ""), (True, "hr")):
        found, te, unet = request(case["tag"]).in_pass(is_hires), case[f"{prefix}te"], case[f"{prefix}unet"]
        wanted = request(f"n:te={te}:unet={unet}")
        assert found.unet_strengths(20) == wanted.unet_strengths(20)
        assert (found.te_multiplier, found.te_schedule) == (wanted.te_multiplier, wanted.te_schedule)


@given(
    st.lists(st.tuples(VALUES, st.integers(0, 60)), min_size=2, max_size=12, unique_by=lambda pair: pair[1]),
    st.integers(2, 40),
)
def test_steps_are_interpolated_as_numpy_does(pairs: list[tuple[float, int]], steps: int):
    pairs = [(value, place / 2 + 2) for value, place in pairs]
    curve = parse_curve(",".join(f"{value}@{place}" for value, place in pairs))
    places, values = zip(*sorted((place, value) for value, place in pairs), strict=True)
    wanted = np.interp(range(steps), places, values)
    assert [curve.value(step, steps) for step in range(steps)] == pytest.approx(wanted, abs=1e-12)


@given(
    st.lists(st.tuples(VALUES, st.integers(0, 1000)), min_size=2, max_size=12, unique_by=lambda pair: pair[1]),
    st.integers(2, 40),
)
def test_shares_and_noise_levels_are_interpolated_as_numpy_does(pairs: list[tuple[float, int]], steps: int):
    places, values = zip(*sorted((place / 1000, value) for value, place in pairs), strict=True)
    shares = parse_curve(";".join(f"{value}@{place / 1000}" for value, place in pairs))
    wanted = np.interp(np.arange(steps) / (steps - 1), places, values)
    assert [shares.value(step, steps) for step in range(steps)] == pytest.approx(wanted, abs=1e-9)
    levels = parse_curve(";".join(f"{value}@{place / 100}sigma" for value, place in pairs))
    sigmas = nominal_sigmas(steps)
    wanted = np.interp(sigmas, [place * 10 for place in places], values)
    assert [levels.value(step, steps, sigmas) for step in range(steps)] == pytest.approx(wanted, abs=1e-9)


@given(VALUES, st.integers(2, 150), st.sampled_from(list(Shape)))
def test_a_constant_stretch_is_constant_to_the_last_bit(value: float, steps: int, shape: Shape):
    curve = parse_curve(f"{value + 1}@0,{value}@0.13,{value}@0.77,{value - 1}@1", shape)
    stretch = [curve.value(step, steps) for step in range(steps) if 0.13 <= step / (steps - 1) <= 0.77]
    assert set(stretch) <= {value}


@pytest.mark.parametrize(
    ("tag", "wanted"),
    [
        ("n:0@0,1@4:curve=step", [0, 0, 0, 0, 1, 1, 1, 1, 1]),
        ("n:0@0,1@4:curve=linear", [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("n:0@0,1@4:curve=cosine", [0, 0.146447, 0.5, 0.853553, 1, 1, 1, 1, 1]),
        ("n:1@0,0@3,0.5@3", [1, 0.666667, 0.333333, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ("n:0@25%,1@75%", [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]),
        ("n:0@1,1@5", [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]),
        ("n:0.5@1,1@0", [1, 0.9375, 0.875, 0.8125, 0.75, 0.6875, 0.625, 0.5625, 0.5]),
        ("n:0@0.5,1@8", [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1]),
        ("n:0@0,1@8:start=2:stop=6", [0, 0, 0.25, 0.375, 0.5, 0.625, 0, 0, 0]),
        ("n:0.8@3", [0.8] * 9),
        ("n:0.7@0,0.7@1", [0.7] * 9),
    ],
)
def test_shapes_positions_and_windows(tag: str, wanted: list[float]):
    assert unet(tag, 9) == wanted


def test_a_curve_that_is_one_value_is_no_curve():
    assert request("n:0.7@0,0.7@1") == request("n:0.7")
    assert request("n:0.7@0,0.7@1").is_plain


def test_a_pass_of_one_step_has_the_value_at_its_start():
    assert unet("n:0.25@0,1@1", 1) == [0.25]


SIGMAS = (14.0, 10.0, 7.0, 5.0, 3.0, 2.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("tag", "wanted"),
    [
        ("n:stop=2.5sigma", [1, 1, 1, 1, 1, 0, 0, 0]),
        ("n:start=5sigma", [0, 0, 0, 1, 1, 1, 1, 1]),
        ("n:step=10sigma-1sigma", [0, 1, 1, 1, 1, 1, 0, 0]),
        ("n:step=2-1sigma", [0, 0, 1, 1, 1, 1, 0, 0]),
        ("n:1@14sigma,0@4sigma", [1, 0.6, 0.3, 0.1, 0, 0, 0, 0]),
        ("n:0@4sigma;1@14sigma", [1, 0.6, 0.3, 0.1, 0, 0, 0, 0]),
    ],
)
def test_noise_levels_are_positions(tag: str, wanted: list[float]):
    assert unet(tag, 8, SIGMAS) == wanted
    assert unet(tag, 4, SIGMAS[3:7]) == wanted[3:7] or "step=2" in tag


def test_without_a_sampler_a_usual_noise_schedule_is_taken():
    sigmas = nominal_sigmas(20)
    assert sigmas[0] == pytest.approx(14.6146)
    assert sigmas[-1] == pytest.approx(0.0292)
    assert unet("n:stop=2.5sigma", 20) == [float(sigma > 2.5) for sigma in sigmas]


def test_the_text_encoder_has_the_value_at_the_start_of_the_pass():
    made, messages = plan("a:0.25@0,1@1:unet=0@0,1@1")
    assert messages == []
    assert [made.coefficients(step, 5)[TEXT] for step in range(5)] == [(0.25,)] * 5
    assert [made.coefficients(step, 5)[TIME] for step in range(5)] == [(0.0,), (0.25,), (0.5,), (0.75,), (1.0,)]


def test_a_cached_text_conditioning_depends_on_that_value():
    ratios = [
        Pass(plan(tag)[0], 8, sigmas).text_encoder_ratios()
        for tag, sigmas in (
            ("a:0.25@0,1@1", ()), ("a:0.5@0,1@1", ()), ("a:0@14sigma,1@7sigma", (14.0,)),
            ("a:0@14sigma,1@7sigma", (12.0,)),
        )
    ]
    assert len(set(ratios)) == len(ratios)


def test_somebody_elses_multiplier_scales_the_curve():
    made, _ = plan("a:0@0,1@4")
    assert made.with_multipliers("a", 1.0, 0.5).coefficients(2, 5)[OUT03] == (0.25,)


def test_block_curves_blend_block_by_block():
    made, messages = plan("a:0.8:lbw=NONE@0,OUTD@4,ALL@8:start=1")
    assert messages == []
    assert [round(made.coefficients(step, 9)[OUT03][0], 9) for step in range(9)] == [0, 0.2, 0.4, 0.6] + [0.8] * 5
    assert [round(made.coefficients(step, 9)[IN05][0], 9) for step in range(9)] == [0] * 5 + [0.2, 0.4, 0.6, 0.8]
    assert [made.coefficients(step, 9)[TEXT] for step in range(9)] == [(0.0,)] * 9
    assert [made.coefficients(step, 9)[TIME] for step in range(9)] == [(0.0,)] + [(0.8,)] * 8


@pytest.mark.parametrize("separator", [",", ";"])
def test_vectors_are_keyframes_too_and_multiply_with_a_strength_curve(separator: str):
    zeros, ones = (",".join([value] * 17) for value in "01")
    made, messages = plan(f"a:1:0@0,1@4:lbw={ones}@0{separator}{zeros}@100%")
    assert messages == []
    assert [round(made.coefficients(step, 5)[IN05][0], 9) for step in range(5)] == [0, 0.1875, 0.25, 0.1875, 0]


def test_block_curves_stand_alone_and_in_the_hires_pass():
    assert request("a:1:NONE@0,OUTD@1").weights == "NONE@0,OUTD@1"
    found = request("a:1:lbw=NONE@0,ALL@1:hrlbw=OUTD:hrstop=3:stop=9:hrstep=2-")
    assert (found.weights, found.in_pass(True).weights) == ("NONE@0,ALL@1", "OUTD")
    assert found.in_pass(True).unet_strengths(5) == (0, 0, 1, 0, 0)
    assert found.in_pass(False).unet_strengths(5) == (1,) * 5
    assert request("a:1:stop=2:hrstart=1").in_pass(True).unet_strengths(4) == (0, 1, 0, 0)
    assert request("a:1:stop=2").in_pass(True) == request("a:1:stop=2")


def test_a_constant_block_of_a_block_curve_needs_no_schedule():
    made, _ = plan("a:1:lbw=OUTD@0,OUTALL@1")
    assert made.terms[OUT03][0].schedule is None
    assert made.coefficients(3, 9)[OUT03] == (1.0,)


@given(st.text("0123456789.@~,;%sigma -NOE", max_size=40))
def test_no_text_can_raise_anything_but_a_message(text: str):
    parse(["n", text, f"lbw={text}", f"stop={text}", f"hr={text}"], lambda message: None).unet_strengths(8)
    plan(f"n:lbw={text}")
    if is_curve(text):
        try:
            assert isinstance(parse_curve(text), Curve)
        except ValueError as error:
            assert str(error)


def test_keyframes_are_bounded_and_huge_texts_are_refused_quickly():
    for text in ("0@0," * 200_000, "0@" + "9" * 500_000, "0" + "@" * 500_000, "0@0" + ";" * 500_000):
        messages: list[str] = []
        parse(["n", text], messages.append)
        assert messages
        assert all(len(message) < 1000 for message in messages)
    assert len(parse_curve(",".join(f"{i}@{i + 2}" for i in range(MOST_KEYFRAMES))).values) == MOST_KEYFRAMES
