"""Slips in tags, from public reports: what is in force, measured, is what was meant; what is told is in the result."""

from __future__ import annotations

import pytest

from tests.host.conftest import Bench
from tests.host.measure import messages

WIDE = "".join(chr(ord(sign) - ord("!") + 0xFF01) for sign in "lbw=OUTD:stop=2")
"""As keyboards for Japanese and Chinese write it."""

UNTOLD = {
    "1: lbw=OUTD": "1:lbw=OUTD",
    "1:LBW =outd": "1:lbw=OUTD",
    "1:STOP=2": "1:stop=2",
    "1:start=0:end=0.5": "1:stop=0.5",
    "1:step_end=2": "1:stop=2",
    "weight=0.5": "0.5",
    "1:1::OUTD": "1:1:OUTD",
    ":lbw=OUTD": "1:lbw=OUTD",
    "1:stop=2:": "1:stop=2",
    "1.0:1-3": "1:step=1-3",
    "1:lbw=0.5": "0.5:lbw=ALL",
    "1:lbwe=attndeepoff": "1:lbwe=ATTNDEEPOFF",
    f"1:{WIDE}": "1:lbw=OUTD:stop=2",
    "1:stop=1.0": "1",
    "1:0@0,1@0.0,0@2": "1:1@0,0@2",
}
TOLD = {
    "1:lbw=OUTD:stop:2": ("1:lbw=OUTD:stop=2", "stop:2: expected stop=2"),
    "1:lbw=OUTD,stop=2": ("1:lbw=OUTD:stop=2", "a comma before stop="),
    "1:lbw=OUTD stop=2": ("1:lbw=OUTD:stop=2", "a blank before stop="),
    "1;stop=2": ("1:stop=2", "a semicolon before stop="),
    "0,5": ("0.5", "a decimal comma"),
    "1:lwb=OUTD": ("1", "there is no key 'lwb'; the nearest is lbw="),
    "1:start=0.5:stop=1": ("1:start=0.5", "this is its end, 1.0"),
    "1:step=1-4:start=2": ("1:step=1-4", "start=2: the tag also has step=1-4"),
    "1:te=0.25": ("0.25", "which is used for both"),
}


def measured(bench: Bench, arguments: str) -> tuple[list[dict[str, dict[str, tuple[float, float]]]], list[str]]:
    result, record = bench.record("t_lora", prompt=f"a red cat <lora:t_lora:{arguments}>", steps=4)
    return record.strengths, messages(result)


def approximately(strengths: list[dict[str, dict[str, tuple[float, float]]]]) -> list[object]:
    return [
        {block: pytest.approx(pair, abs=2e-3) for block, pair in found["t_lora"].items()} for found in strengths
    ]


@pytest.mark.parametrize("arguments", UNTOLD)
def test_what_has_one_meaning_only_has_that_effect(bench: Bench, arguments: str):
    strengths, told = measured(bench, arguments)
    assert [found["t_lora"] for found in strengths] == approximately(measured(bench, UNTOLD[arguments])[0])
    assert told == []


@pytest.mark.parametrize("arguments", TOLD)
def test_what_is_not_as_it_should_be_has_its_effect_and_is_told_once(bench: Bench, arguments: str):
    meant, wanted = TOLD[arguments]
    strengths, told = measured(bench, arguments)
    assert [found["t_lora"] for found in strengths] == approximately(measured(bench, meant)[0])
    assert [wanted in message for message in told] == [True], told


def test_the_status_line_says_which_rules_were_used(bench: Bench):
    def status(arguments: str) -> str:
        result = bench.webui.generate(prompt=f"<lora:t_lora:1:{arguments}>", steps=2)
        (line,) = [line for line in result.comments.splitlines() if "| base weights " in line]
        return line

    assert "rules" not in status("lbwe=nosuchset:lbw=OUTD")
    assert "rules attndeepoff" in status("lbwe=attndeepoff")


@pytest.mark.parametrize("tag", [
    "\uff1clora\uff1at_lora\uff1a1\uff1e", "\u2039lora:t_lora:1\u203a", "<lora\uff1at_lora:1", "<lora:t_lora:1",
])
def test_what_only_looks_like_a_tag_is_told(bench: Bench, tag: str):
    result, record = bench.record("t_lora", prompt=f"a red cat {tag}", steps=1)
    assert ["it is no tag, and stays in the prompt" in message for message in messages(result)] == [True]
    assert record.strengths[0]["t_lora"]["OUT05"] == pytest.approx((0, 0), abs=2e-3)


def test_a_tag_may_be_written_in_any_case(bench: Bench):
    result, record = bench.record("t_lora", prompt="a red cat <LoRA:t_lora:0.5:stop=1>", steps=2)
    found = [round(each["t_lora"]["OUT05"][0], 2) for each in record.strengths]
    assert (found, messages(result)) == ([0.5, 0], [])
