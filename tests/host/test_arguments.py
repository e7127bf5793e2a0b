"""What a request brings: all forms of the arguments, gone with the request; and what it may bring at most."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.host.conftest import Bench
from tests.host.measure import messages
from tests.host.webui import controls_of

ZEROS = ",".join(["0"] * 17)
TAG = "a red cat <lora:t_lora:1:lbw=MINE>"
PLENTY_OF_TIME_S = 60
"""Far more than the work takes, far less than work that grows with the square of its input."""


def warnings(result: Any) -> list[str]:
    return json.loads(result.js())["extra_generation_params"].get("LBW warnings", [])


def is_on(record: Any) -> bool:
    return record.strengths[0]["t_lora"]["OUT05"] != pytest.approx((0, 0), abs=2e-3)


@pytest.mark.parametrize(
    "args",
    [
        [f"MINE:{ZEROS}"],
        [f"MINE:{ZEROS}", None],
        [f"MINE:{ZEROS}", ""],
        [f"MINE:{ZEROS}\nYOURS:{ZEROS}", True, 0, *[""] * 15],
        [f"MINE:{ZEROS}", "true", "Disable", *[None] * 15],
        [{"presets": f"MINE:{ZEROS}"}],
    ],
    ids=["short", "null", "empty", "18 values", "as text", "object"],
)
def test_all_forms_of_the_arguments_say_the_same(bench: Bench, args: list[Any]):
    result, record = bench.record("t_lora", args=args, prompt=TAG, steps=1)
    assert not is_on(record)
    assert warnings(result) == []
    assert messages(result) == []


@pytest.mark.parametrize("mode", [1, 2, "XYZ plot"])
def test_plots_of_nothing_are_answered_with_one_image_and_one_message(bench: Bench, mode: Any):
    """The arguments of the examples in the original's README, with a prompt whose tags are not marked."""
    examples = {
        1: [f"MINE:{ZEROS}", True, 1, "seed", "-1,-1", *[""] * 12],
        2: [f"MINE:{ZEROS}", True, 2, "", "", "", "", "", "", "0,1", "17ALL", 1, "white", 20, True, "", ""],
        "XYZ plot": [f"MINE:{ZEROS}", True, "XYZ plot"],
    }
    result, record = bench.record("t_lora", args=examples[mode], prompt=TAG, steps=1)
    assert not is_on(record)
    assert len(result.images) == 1
    assert len(warnings(result)) == 1
    assert "no LoRA tag has lbw=XYZ" in warnings(result)[0]


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ([f"MINE:{ZEROS}", "maybe"], ("argument 2, active", "true or false", '"maybe"', "default true")),
        ([f"MINE:{ZEROS}", True, 9], ("argument 3, mode", "XYZ plot", "9", "default 0")),
        ([f"MINE:{ZEROS}", True, 0, "Seeds"], ("argument 4, x_type", "Original Weights", "Seeds")),
        ([f"MINE:{ZEROS}", *[None] * 12, "1e999"], ("argument 14, threshold", "0 to 255", "1e999")),
        ([f"MINE:{ZEROS}", *[None] * 12, float("nan")], ("argument 14, threshold", "0 to 255", "NaN")),
        ([f"MINE:{ZEROS}", *[None] * 17, "NOPE"], ("default preset NOPE", "expected one of MINE")),
        ([f"MINE:{ZEROS}", *[None] * 18, "rubbish"], ("pasted", "left out")),
    ],
)
def test_a_wrong_value_by_position_costs_one_message(bench: Bench, args: list[Any], parts: tuple[str, ...]):
    result, record = bench.record("t_lora", "t_lora2", args=args, prompt=TAG + " <lora:t_lora2:0.5>", steps=1)
    assert not is_on(record)
    assert record.strengths[0]["t_lora2"]["OUT05"] == pytest.approx((0.5, 0.5), abs=2e-3)
    assert len(warnings(result)) == 1
    for part in parts:
        assert part in warnings(result)[0]
    assert messages(result) == warnings(result)
    assert warnings(result)[0] not in result.infotexts[0]


def test_a_wrong_object_that_the_api_did_not_stop_is_a_message(bench: Bench):
    """Another extension may pass arguments on without a request."""
    result, record = bench.record("t_lora", args=[{"preset": "x"}], prompt=f"x <lora:t_lora:1:lbw={ZEROS}>", steps=1)
    assert not is_on(record)
    assert "preset: expected one of the keys presets" in warnings(result)[0]


def test_what_a_request_brings_is_gone_with_it(bench: Bench):
    args = [{"presets": f"MINE:{ZEROS}", "elements": "OFF:::0", "default_preset": "MINE"}]
    result, record = bench.record("t_lora", args=args, prompt="a red cat <lora:t_lora:1:lbwe=OFF>", steps=1)
    assert (is_on(record), warnings(result)) == (False, [])
    result, record = bench.record("t_lora", prompt="a red cat <lora:t_lora:1:lbwe=OFF>", steps=1)
    assert is_on(record)
    assert ["OFF" in message for message in warnings(result)] == [True]


@pytest.mark.parametrize("args", [None, [""], [None, True]], ids=["panel's text", "empty", "null"])
def test_the_presets_of_one_request_are_not_the_next_ones(bench: Bench, args: list[Any] | None):
    _, record = bench.record("t_lora", args=[f"MINE:{ZEROS}"], prompt=TAG, steps=1)
    assert not is_on(record)
    result, record = bench.record("t_lora", args=args, prompt=TAG, steps=1)
    assert is_on(record)
    assert ["MINE" in message for message in warnings(result)] == [True]


def test_debug_tells_what_the_tags_came_to_and_what_the_switches_cost(bench: Bench, capsys: pytest.CaptureFixture):
    prompt = "a red cat <lora:t_lora:0.5:0.7:lbw=OUTD:stop=2>"
    bench.webui.generate(prompt=prompt, steps=4)
    assert "strength" not in capsys.readouterr().out
    bench.webui.generate(args=[{"debug": True}], prompt=prompt, steps=4)
    found = capsys.readouterr().out
    assert "te 0.5, unet 0.7, weights 1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0, elements none" in found
    assert "strength in 4 steps: 1 1 0 0" in found
    assert re.search(r"[1-9]\d* updates of [1-9]\d* layers in [0-9.]+ ms", found)


def test_all_that_a_request_needs_can_be_forwarded_as_json(bench: Bench):
    """An extension that spreads a request over several machines sends the arguments as it finds them, by position."""
    p = bench.webui.request([f"MINE:{ZEROS}", *[None] * 17, "MINE"], prompt="a red cat <lora:t_lora:1>", steps=1)
    script = bench.webui.script(p.scripts)
    forwarded = json.loads(json.dumps(p.script_args[script.args_from : script.args_to]))
    assert len(forwarded) >= 20
    _, record = bench.record("t_lora", args=forwarded, prompt="a red cat <lora:t_lora:1>", steps=1)
    assert not is_on(record)


def test_a_panel_that_nobody_touched_says_nothing(bench: Bench):
    runner = bench.webui.scripts.scripts_txt2img
    script = bench.webui.script(runner)
    values = [control.value for control in controls_of(runner, script)]
    result = bench.webui.generate(args=values, prompt="a red cat <lora:t_lora:1:lbw=OUTD>", steps=1)
    assert warnings(result) == []


def test_the_default_preset_may_be_values(bench: Bench):
    result, record = bench.record("t_lora", args=[{"default_preset": ZEROS}], prompt="a <lora:t_lora:1>", steps=1)
    assert (is_on(record), warnings(result)) == (False, [])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "1e400", "-1e7", "1" * 50])
def test_a_weight_that_is_no_finite_number_is_refused(bench: Bench, value: str):
    tags = f"<lora:t_lora:1:lbw={value},{ZEROS[2:]}> <lora:t_lora2:te={value}:unet=1:x={value}>"
    result, record = bench.record("t_lora", "t_lora2", prompt=tags, steps=1)
    assert record.strengths[0]["t_lora"]["OUT05"] == pytest.approx((1, 1), abs=2e-3)
    assert record.strengths[0]["t_lora2"]["BASE"] == pytest.approx((1, 1), abs=2e-3)
    assert [("value 1 of 17" in message, "te=" in message, "x=" in message) for message in warnings(result)] == [
        (False, True, False), (False, False, True), (True, False, False)
    ]
    assert all("expected a number" in message for message in warnings(result))


def generate_in_time(bench: Bench, *names: str, **fields: Any) -> tuple[Any, Any]:
    start = time.monotonic()
    result, record = bench.record(*names, steps=1, **fields)
    assert time.monotonic() - start < PLENTY_OF_TIME_S
    assert len(result.images) == 1
    assert all(len(message) <= 1100 for message in warnings(result))
    assert len(warnings(result)) <= 51
    return result, record


TEN_MB = 10_000_000


@pytest.mark.parametrize(
    "text",
    ["x" * TEN_MB, f"MINE:{ZEROS}\n" * (TEN_MB // 40), " " * TEN_MB, "\n" * TEN_MB, "A:" + "1," * (TEN_MB // 2)],
    ids=["letters", "presets", "spaces", "lines", "one vector"],
)
@pytest.mark.parametrize("position", [0, 15, 19])
def test_ten_megabytes_are_refused_with_a_message(bench: Bench, position: int, text: str):
    args = [*[None] * position, text]
    result, record = generate_in_time(bench, "t_lora", args=args, prompt="a <lora:t_lora:1:lbw=OUTD:lbwe=ATTNDEEPOFF>")
    assert record.strengths[0]["t_lora"]["BASE"] == pytest.approx((1, 1), abs=2e-3)
    assert ["at most 1000000 characters" in message for message in warnings(result)] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "\n\n".join(f"R{i}:::0" for i in range(100_000)),
        "OFF:" + ",".join([f"IN0{i % 9}:attn:0.5" for i in range(50_000)]),
        "OFF:" + " ".join(["IN05"] * 150_000) + ":attn:0",
        "OFF:x" + " " * 900_000 + "y::0",
        "OFF:" + "\n" * 900_000,
    ],
    ids=["many sets", "many rules", "many words", "spaces", "lines"],
)
def test_just_under_a_megabyte_of_rules_is_read_in_time(bench: Bench, text: str):
    args = [{"elements": text[:1_000_000]}]
    generate_in_time(bench, "t_lora", args=args, prompt="a <lora:t_lora:1:lbwe=OFF>")


def test_a_hundred_thousand_tags_are_cut_with_a_message(bench: Bench):
    tags = "".join(f"<lora:t_lora:0.01:lbw=NOPE{i}>" for i in range(100_000))
    result, record = generate_in_time(bench, "t_lora", prompt=f"a red cat {tags}")
    assert record.strengths[0]["t_lora"]["OUT05"] == pytest.approx((1, 1), abs=2e-2)
    assert "100000 LoRA tags; expected at most 100" in warnings(result)[0]
    assert warnings(result)[-1] == "there are more warnings, which are left out"


@pytest.mark.parametrize(
    "tag",
    [
        "lbw=" + "1," * 1_000_000,
        "lbw=" + "x" * 1_000_000,
        "lbwe=" + "x" * 1_000_000,
        ":".join(["NOPE"] * 200_000),
        "start=" + "9" * 400,
        "stop=" + "9" * 1_000_000,
        "step=" + "1" * 500_000 + "-",
        "step=" + " " * 500_000,
        "x=" + "1" * 1_000_000,
    ],
    ids=lambda tag: tag[:8],
)
def test_an_endless_tag_costs_short_messages(bench: Bench, tag: str):
    prompt = f"a red cat <lora:t_lora:0.5:{tag}> <lora:t_lora2:0.5>"
    result, record = generate_in_time(bench, "t_lora", "t_lora2", prompt=prompt)
    assert warnings(result)
    assert record.strengths[0]["t_lora2"]["OUT05"] == pytest.approx((0.5, 0.5), abs=2e-3)
