"""Every tag that the original was measured with: the same strengths here, but for the decided differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.host.conftest import Bench
from tests.host.measure import Strengths

CASES = json.loads((Path(__file__).parents[1] / "data" / "syntax.json").read_text())
pytestmark = pytest.mark.of_any_forge
UNET_BLOCKS = tuple(CASES[0]["changes"][0]["unet"]["t_lora"])
INPUT, OUTPUT = UNET_BLOCKS[:6], UNET_BLOCKS[7:]


def blocks(value: float, only: tuple[str, ...] = UNET_BLOCKS) -> dict[str, float]:
    return {block: value if block in only else 0.0 for block in UNET_BLOCKS}


OFF, ON = blocks(0.0), blocks(1.0)

Expected = tuple[float, list[tuple[int, dict[str, float]]]]

DIFFERENT: dict[str, tuple[str, Expected]] = {
    "stop=1": ("stop=N means steps 0..N-1", (1.0, [(0, ON), (1, OFF)])),
    "start=1": ("start=N means from step N on", (1.0, [(0, OFF), (1, ON)])),
    "step=5-2": ("an empty range is never on", (1.0, [(0, OFF)])),
    "README :1:INALL": ("the old positional form works", (1.0, [(0, blocks(1.0, INPUT))])),
    "README positional 17": ("the old positional form works", (0.0, [(0, blocks(0.5, ("IN02",)))])),
    "start=0.5": ("a fraction of the steps: max(1, round(v * steps))", (1.0, [(0, OFF), (4, ON)])),
    "stop=-1": ("a negative step is refused, the tag works without it", (1.0, [(0, ON)])),
    "same lora twice": (
        "both tags count", (1.5, [(0, {**blocks(1.0, INPUT), **dict.fromkeys(OUTPUT, 0.5)})])
    ),
    "same lora twice stop/start": ("both tags count", (1.5, [(0, blocks(1.0, INPUT)), (4, blocks(0.5))])),
}
"""Cases in which ours decided otherwise: (reason from the compatibility table, {text encoder, changes})."""

SAME_WITH_MESSAGE = {
    "lbw=wrong count 5", "lbw=unknown preset", "lbw=bad number", "lbw= empty values", "stop=abc", "missing lora"
}
"""Same strengths as the original, and a message instead of silence or a traceback."""


def expected(case: dict[str, Any], network: str) -> Expected:
    if case["title"] in DIFFERENT:
        return DIFFERENT[case["title"]][1]
    changes = [(change["evaluation"], change["unet"][network]) for change in case["changes"]]
    return case["text_encoder"][network], changes


def as_range(value: float | list[float]) -> tuple[float, float]:
    return (value[0], value[1]) if isinstance(value, list) else (value, value)


def assert_strengths(found: Strengths, network: str, wanted: dict[str, Any], where: str) -> None:
    measured = {block: found[network][block] for block in wanted}
    for block, value in wanted.items():
        assert measured[block] == pytest.approx(as_range(value), abs=2e-3), f"{where}, {block}: {measured}"


def test_every_decided_difference_is_in_the_data():
    differing = {case["title"] for case in CASES if case.get("ours_differs")}
    assert differing == set(DIFFERENT) | SAME_WITH_MESSAGE


@pytest.mark.parametrize("case", CASES, ids=[case["title"] for case in CASES])
def test_strengths_are_those_of_the_original(bench: Bench, case: dict[str, Any]):
    networks = case["networks"]
    result, record = bench.record(*networks, prompt=case["prompt"], negative_prompt=case["negative_prompt"])
    assert len(record.strengths) == case["evaluations"]
    for network in networks:
        text_encoder, changes = expected(case, network)
        assert record.strengths[0][network]["BASE"] == pytest.approx((text_encoder, text_encoder), abs=2e-3)
        for evaluation, found in enumerate(record.strengths):
            wanted = next(unet for start, unet in reversed(changes) if start <= evaluation)
            assert_strengths(found, network, wanted, f"evaluation {evaluation}")
    if case["title"] in SAME_WITH_MESSAGE - {"missing lora"}:
        assert "<lora:t_lora>" in result.comments


HALF_OUT = {**dict.fromkeys(OUTPUT, 0.4), **dict.fromkeys(INPUT, 0.0), "M00": 0.8}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("0.8:lbw=NONE,OUT=0.5,M00 BASE=1", HALF_OUT | {"BASE": 0.8}),
        ("0.8:NONE,OUT00-OUT11=0.5,M=1", HALF_OUT | {"BASE": 0.0}),
        ("0.8:in=0:mid=1:out=0.5", HALF_OUT | {"BASE": 0.8}),
        ("0.8:lbw=OUTALL,OUT=0.5,M=1", HALF_OUT | {"BASE": 0.8}),
        ("0.8:w=0.5", blocks(0.4) | {"BASE": 0.4}),
    ],
)
def test_blocks_by_name(bench: Bench, arguments: str, wanted: dict[str, float]):
    result, record = bench.record("t_lora", prompt=f"a red cat <lora:t_lora:{arguments}>", steps=2)
    for evaluation, found in enumerate(record.strengths):
        assert_strengths(found, "t_lora", wanted, f"evaluation {evaluation}")
    assert "<lora:t_lora>" not in result.comments
