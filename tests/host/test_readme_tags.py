"""The README's tables of tags: each example works, and each mistake is answered with the message that stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.host.conftest import Bench
from tests.host.measure import messages

SECTION = (Path(__file__).parents[2] / "README.md").read_text().partition("\n## Tags\n")[2].partition("\n## ")[0]
MISTAKES = dict(re.findall(r"^\| `<lora:a:(.*)>` \| (.*) \|$", SECTION, re.MULTILINE))
EXAMPLES = [
    example
    for cells in re.findall(r"^\| .*`(?:te|curve|lbw|x|start|step|hr|hrlbw|dyn)=.*$", SECTION, re.MULTILINE)
    for example in re.findall(r"`(.*?)`", cells.split(" | ")[3])
]


def test_the_tables_are_found():
    assert len(MISTAKES) > 15
    assert {"0.8", "NONE@0,OUTD@0.3,ALL@1", "step=2-8", "hrlbw=OUTALL:hrstop=50%", "dyn=8"} <= set(EXAMPLES)


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_answered_with_the_message_that_the_readme_has(bench: Bench, arguments: str):
    result = bench.webui.generate(prompt=f"a red cat <lora:t_lora:{arguments}>", steps=1)
    wanted = ".*".join(map(re.escape, f"<lora:t_lora>: {MISTAKES[arguments]}".split("…")))
    assert [bool(re.fullmatch(wanted, message)) for message in messages(result)] == [True], messages(result)


@pytest.mark.parametrize("arguments", EXAMPLES)
def test_an_example_is_understood(bench: Bench, arguments: str):
    result = bench.webui.generate(prompt=f"a red cat <lora:t_lora:{arguments}>", steps=4)
    assert messages(result) == []
