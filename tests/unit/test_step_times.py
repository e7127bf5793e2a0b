"""The picture of step times has what runs in a real WebUI have measured."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.bench import step_times
from tests.bench.real_host import Bench, Case, Client

ABOUT = {"device": "a GPU", "dtype": "torch.float16", "model": "a model"}
TIMES = {"none": [90, 75, 75, 75], "original": [1080, 75, 1400, 75], "ours": [80, 75, 79, 75]}
"""What the steps take, in ms."""
CASES = {"none": "LoRA, again", "original": "three LoRAs, again", "ours": "three LoRAs, again"}


def measured(times: list[float], began: float = 0.5) -> dict[str, Any]:
    """What the extension in the WebUI tells of a run, in s."""
    moments = [began + sum(times[:step]) / 1e3 for step in range(len(times) + 1)]
    evaluations = [
        {"announced": before, "told": before + 0.001, "done": after, "strengths": {"a": [1.0, 1.0]}}
        for before, after in pairwise(moments)
    ]
    passes = [{"began": began, "evaluations": evaluations}]
    return {"took": moments[-1] + 1, "passes": passes, "memory": {}, "warnings": []}


@pytest.fixture
def reports(tmp_path: Path) -> dict[str, Any]:
    """Reports of three runs, of which the bench has made the rows."""
    for name in ("r32a", "r32b", "r32c", "r128"):
        (tmp_path / f"{name}.safetensors").touch()
    found = {}
    for extension, times in TIMES.items():
        bench = Bench(Client("http://127.0.0.1"), tmp_path, extension, steps=4, size=64)
        case = Case(CASES[extension], expected={"a": [1.0] * 4})
        rows = [bench._row(case, [measured([9, 9, 9, 9]), measured(times)])]
        found[extension] = {"about": ABOUT, "extension": extension, "rows": rows}
    return found


def draw(reports: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The figure that the command draws of the reports."""
    drawn = []
    original = step_times.step_times
    monkeypatch.setattr(step_times, "step_times", lambda *given: drawn.append(original(*given)) or drawn[0])
    options = {"--host": "none", "--original": "original", "--ours": "ours"}
    for extension in options.values():
        (folder / f"{extension}.json").write_text(json.dumps(reports[extension]))
    command = [part for option, extension in options.items() for part in (option, str(folder / f"{extension}.json"))]
    monkeypatch.setattr(sys, "argv", ["step_times", *command, "--image", str(folder / "image.png"), *arguments])
    step_times.main()
    assert (folder / "image.png").read_bytes().startswith(b"\x89PNG")
    return drawn[0]


def test_a_bar_is_as_long_as_the_step_took(reports: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figure = draw(reports, tmp_path, monkeypatch)
    titles = [axes.get_title(loc="left").splitlines() for axes in figure.axes]
    assert titles == [
        ["the WebUI alone", "one LoRA, on in all steps"],
        ["with the original", "three LoRAs that stop one after the other"],
        ["with this extension", "three LoRAs that stop one after the other"],
    ]
    for axes, times in zip(figure.axes, TIMES.values(), strict=True):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(times)
        assert axes.texts[0].get_text() == f"{max(times)} ms"
        assert axes.get_ylim() == figure.axes[0].get_ylim()
    assert figure.get_supxlabel() == "a model, float16, a GPU"


def test_what_cannot_be_compared_is_refused(reports: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(part: str, **changed: Any) -> None:
        wrong = json.loads(json.dumps(reports))
        wrong["original"] |= {key: value for key, value in changed.items() if key in wrong["original"]}
        wrong["original"]["rows"][0] |= {key: value for key, value in changed.items() if key not in wrong["original"]}
        with pytest.raises(SystemExit, match=re.escape(part)):
            draw(wrong, tmp_path, monkeypatch)

    refused("this one has ours", extension="ours")
    refused("has no case 'three LoRAs, again'", case="another")
    refused("HTTP 500", error="HTTP 500")
    refused("its strengths were wrong", wrong=1)
    refused("one number of steps", step_times=[1, 2])
    refused("one device", about={**ABOUT, "device": "another GPU"})
