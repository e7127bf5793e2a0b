"""The stand-in as a host of the Forge family: what it does by itself, and what our extension makes of it.

The hosts differ in what each fact is, and the stand-in is like them: `tests/host/forge_report.py` runs on them, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import requests

from tests.server import running_server

FAMILIES = ("forge-g1", "forge-g2", "forge-g3")
PROJECT = Path(__file__).resolve().parents[2]
LIMIT_S = 300

pytestmark = [
    pytest.mark.skipif(bool(os.environ.get("WEBUI_ROOT")), reason="WEBUI_ROOT names a real WebUI, and this is of none"),
    pytest.mark.parametrize("family", FAMILIES),
]


@cache
def report(family: str) -> dict[str, Any]:
    with TemporaryDirectory(prefix="webui-") as data:
        environment = {**os.environ, "WEBUI_FAMILY": family, "WEBUI_DATA": data}
        environment["PYTHONPATH"] = os.pathsep.join([str(PROJECT), str(PROJECT / "scripts")])
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.host.forge_report"], env=environment, capture_output=True,
            text=True, timeout=LIMIT_S)
    assert process.returncode == 0, process.stderr[-5000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_a_lora_is_merged_in_float32_and_rounded_once_whatever_was_merged_before(family: str):
    assert report(family)["merged exactly"] and report(family)["is a new parameter"]


def test_without_a_lora_the_weights_are_bit_equal_to_those_of_the_checkpoint(family: str):
    assert report(family)["restored"]


ENCODED_EARLY = ["load one", "encode with 1 one", "encode with 1 one"]
"""Negative prompt and prompt of the first pass."""

ORDERS = {
    "forge-g1": [
        *ENCODED_EARLY, "load two", "encode with 1 two", "encode with 1 two", "load one", "tell with none",
        "sample with 1 one", "load two", "tell with 1 one", "tell with 1 one", "sample with 1 two",
    ],
    "forge-g2": [  # it adds what it loads to what the batch has loaded before
        *ENCODED_EARLY, "load two", "encode with 1 one and 1 two", "encode with 1 one and 1 two", "load one",
        "tell with none", "sample with 2 one and 1 two", "load two", "tell with 2 one and 1 two",
        "sample with 2 one and 2 two",
    ],
    "forge-g3": [
        *ENCODED_EARLY, "load two", "encode with 1 two", "encode with 1 two", "load one", "tell with none",
        "sample with 1 one", "load two", "tell with 1 one", "sample with 1 two",
    ],
}  # fmt: skip


def test_parts_are_merged_when_they_are_needed_and_a_hires_pass_is_encoded_first(family: str):
    assert report(family)["order"] == ORDERS[family]


def test_the_model_is_there_from_the_start_but_for_one_generation_of_hosts(family: str):
    assert report(family)["has parts at first"] == (family != "forge-g1")


def test_a_missing_file_costs_all_loras(family: str):
    assert report(family)["a missing file costs all"]


def test_a_file_of_which_much_is_for_another_model_is_left_out_or_not(family: str):
    assert report(family)["strength with many strangers"] == (1 if family == "forge-g3" else 0)


def test_only_some_hosts_answer_to_the_other_name_of_the_tag(family: str):
    assert report(family)["lyco works"] == (family == "forge-g3")


def test_a_lora_that_is_named_twice_with_one_strength_counts_once_where_books_are_kept_by_file(family: str):
    assert report(family)["strength when named twice"] == (0.5 if family == "forge-g1" else 1)


def test_a_lora_of_another_width_stops_a_merge_halfway_or_loses_that_layer(family: str):
    found = report(family)
    stops = family == "forge-g1"
    assert found["another width raises"] == stops
    assert found["restored after it"] == (not stops) and found["restored after another"]


def test_a_replaced_file_is_read_again_where_the_host_keeps_none_in_memory(family: str):
    assert report(family)["a replaced file is read again"] == (family == "forge-g2")


STRENGTHS = {
    "stop": [1, 1, 1, 0, 0],
    "stop, Heun": [1, 1, 1, 1, 1, 1, 0, 0, 0],
    "stop, DDIM": [1, 1, 1, 0],
    "stop, img2img": [1, 1, 1, 0, 0],
    "start, hires": [0, 0.5, 0, 0.5],
}
"""For each evaluation. Heun has two a step, but for the last; DDIM has one step less than is asked for."""


@pytest.mark.parametrize("case", STRENGTHS)
def test_our_lora_works_in_its_steps_and_leaves_the_weights_bit_equal(family: str, case: str):
    assert report(family)[case] == {"strengths": STRENGTHS[case], "pristine": True, "comments": []}


def test_our_image_at_strength_1_is_the_hosts_own_and_its_own_is_undisturbed(family: str):
    found = report(family)
    assert found["the host's LoRA shows"] and found["ours and the host's"] <= 1
    assert found["the host's afterwards"] == found["plain afterwards"] == 0


def test_after_a_generation_that_failed_unclosed_one_without_scripts_has_its_loras(family: str):
    found = report(family)
    assert found["without scripts after a failure"] == [0.5] and found["pristine after a failure"]


def test_both_text_encoders_of_sdxl_have_the_lora(family: str):
    assert report(family)["sdxl, strengths"] == [1, 1, 1]


def test_our_image_of_sdxl_is_the_hosts_own(family: str):
    assert report(family)["sdxl, ours and the host's"] <= 1 and report(family)["sdxl, pristine"]


def test_the_page_and_the_api_make_an_image(family: str, tmp_path: Path):
    with running_server(tmp_path, "--family", family) as server:
        asked = {"prompt": "a cat <lora:demo:1:stop=1>", "steps": 2, "width": 64, "height": 64}
        answer = requests.post(f"{server.url}/sdapi/v1/txt2img", json=asked, timeout=60)
        assert answer.status_code == 200 and answer.json()["images"]
        assert "LoRA Block Weight" in requests.get(f"{server.url}/config", timeout=10).text
