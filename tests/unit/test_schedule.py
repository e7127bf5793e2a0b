from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.tags.positions import parse_position
from lbw.tags.schedule import Schedule, parse_range, parse_windows

STEPS = 20


def parse_schedule(arguments: dict[str, str]) -> tuple[Schedule, list[str]]:
    windows, problems = parse_windows(arguments)
    return Schedule(tuple(windows.values())), problems


def timeline(steps: int = STEPS, **arguments: str) -> str:
    schedule, problems = parse_schedule(arguments)
    assert problems == []
    return "".join(".#"[int(schedule.strength(step, steps))] for step in range(steps))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({}, "####################"),
        ({"stop": "10"}, "##########.........."),
        ({"start": "10"}, "..........##########"),
        ({"step": "5-10"}, ".....#####.........."),
        ({"stop": "1"}, "#..................."),
        ({"start": "1"}, ".###################"),
        ({"start": "10", "stop": "5"}, "...................."),
        ({"step": "5-"}, ".....###############"),
        ({"step": "-5"}, "#####..............."),
        ({"step": "5"}, ".....#.............."),
        ({"stop": "0.25"}, "#####..............."),
        ({"start": "50%"}, "..........##########"),
        ({"step": "25%-0.5"}, ".....#####.........."),
        ({"stop": "0.01"}, "#..................."),
        ({"stop": "100%"}, "####################"),
        ({"step": "2-10", "stop": "5"}, "..###..............."),
        ({"stop": "5.0"}, "#####..............."),
    ],
)
def test_timelines(arguments: dict[str, str], wanted: str):
    assert timeline(**arguments) == wanted


@pytest.mark.parametrize("text", ["abc", "", "-1", "1.5", "nan", "inf", "1e3", "120%", "%", "1,5", "\u0663"])
def test_bad_positions_are_refused_with_what_was_wrong_and_what_is_expected(text: str):
    with pytest.raises(ValueError, match="expected a whole number"):
        parse_position(text)


@pytest.mark.parametrize("text", ["abc", "", "-", "1-2-3", "a-b", "5-x"])
def test_bad_ranges_are_refused(text: str):
    with pytest.raises(ValueError, match="expected"):
        parse_range(text)


def test_an_unreadable_argument_is_named_and_the_others_count():
    schedule, problems = parse_schedule({"start": "abc", "stop": "5"})
    assert [schedule.strength(step, 10) for step in (0, 4, 5)] == [1, 1, 0]
    assert len(problems) == 1
    assert "start=abc" in problems[0]


@pytest.mark.parametrize(
    ("arguments", "empty"),
    [
        ({"start": "10", "stop": "5"}, True),
        ({"step": "5-2"}, True),
        ({"stop": "0"}, False),
        ({"start": "0.9", "stop": "50%"}, True),
    ],
)
def test_a_contradiction_is_known_as_one(arguments: dict[str, str], empty: bool):
    assert parse_schedule(arguments)[0].is_empty(STEPS) is empty


@given(st.floats(min_value=0.001, max_value=0.999), st.integers(min_value=1, max_value=150))
def test_a_fraction_is_max_1_round_v_steps(value: float, steps: int):
    assert parse_position(f"{value:.6f}").resolve(steps) == max(1, round(float(f"{value:.6f}") * steps))


@given(st.text(max_size=10), st.text(max_size=10), st.text(max_size=10))
def test_no_text_can_raise(start: str, stop: str, step: str):
    schedule, _ = parse_schedule({"start": start, "stop": stop, "step": step})
    assert schedule.strength(0, 20) in (0.0, 1.0)
