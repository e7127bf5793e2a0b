"""Texts with presets, from a file or a request: parsed when they changed, and bad lines told when they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.host.conftest import Bench
from tests.host.measure import messages

OUTD = "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"


def test_a_large_file_is_parsed_once_for_all_images(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from lbw.hosts import preset_files
    from lbw.hosts.backend import Backend
    from lbw.request.route_models import ParseRequest
    from lbw.request.routes import parse_prompt
    from lbw.tags import preset_lines

    parsed: list[str] = []
    check = preset_lines.check_weights
    monkeypatch.setattr(preset_lines, "check_weights", lambda weights: parsed.append(weights) or check(weights))
    file = tmp_path / "lbwpresets.txt"
    monkeypatch.setattr(preset_files, "PRESETS_FILE", file)
    lines = [f"P{i}:{OUTD}" for i in range(3000)]
    file.write_text("\n".join(lines) + "\n")
    prompt = "a red cat <lora:t_lora:1:lbw=P2999>"
    for presets in ("", "", file.read_text(), file.read_text()):  # the file's; then the panel's, or a client's
        args = [{"presets": presets}]
        assert messages(bench.webui.generate(args, prompt=prompt, steps=1)) == []
        answer = parse_prompt(ParseRequest(prompt=prompt, presets=presets), Backend())
        assert answer.warnings == [] and answer.tags[0].values is not None
    assert len(parsed) == len(lines)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"MINE:{OUTD[:-2]}", "16 values"),
        (f"MINE:{OUTD},", "a comma stands behind the last one"),
        (f"MINE:{OUTD} # note", "line 1 of the presets: a # behind it makes the line a comment"),
        (f"MINE\t{OUTD}", "line 1 of the presets: a tab where the colon belongs"),
        (f"MINE:{OUTD.replace('1', 'nan', 1)}", "value 1 of 17: 'nan' is not a value"),
        ("MINE:", "line 1 of the presets: nothing behind the colon"),
    ],
)
def test_why_a_preset_of_a_request_cannot_be_used_is_told(bench: Bench, line: str, reason: str):
    args: list[Any] = [{"presets": line}]
    (message,) = messages(bench.webui.generate(args, prompt="a red cat <lora:t_lora:1:lbw=MINE>", steps=1))
    assert reason in message and "all blocks are 1" in message and "no preset of this name" not in message
    args = [{"presets": line, "default_preset": "MINE"}]
    (message,) = messages(bench.webui.generate(args, prompt="a red cat <lora:t_lora:1>", steps=1))
    assert reason in message and "no preset of this name" not in message


def test_a_client_that_says_nothing_of_presets_gets_those_that_are_in_the_file_now(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from lbw.hosts import preset_files

    file = tmp_path / "lbwpresets.txt"
    file.write_text(f"SAVED_LATER:{OUTD}\n")
    monkeypatch.setattr(preset_files, "PRESETS_FILE", file)
    fields = {"prompt": "a red cat <lora:t_lora:1:lbw=SAVED_LATER>", "steps": 1}
    assert messages(bench.webui.generate(**fields)) == []
    (message,) = messages(bench.webui.generate([f"OTHER:{OUTD}\n"], **fields))
    assert "no preset of this name" in message
