"""The README's commands, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.host.real_host import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif("WEBUI_ROOT" in os.environ, reason="it starts the stand-in")
def test_the_demo_makes_one_image_and_tells_each_step(tmp_path: Path):
    (command,) = re.findall(r"`(bash tests/demo\.sh --once [^`]+)`", README)
    report, image = tmp_path / "report.json", tmp_path / "image.png"
    words = [*shlex.split(command), "--json", str(report), "--image", str(image)]
    of_a_shell = {name: value for name, value in os.environ.items() if not name.startswith("WEBUI_")}
    result = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, env=of_a_shell)
    assert result.returncode == 0, result.stderr
    found = json.loads(report.read_text())
    assert len(found["steps"]) == int(words[words.index("--steps") + 1]) == 8
    strengths = [step["strength"]["demo"] for step in found["steps"]]
    assert [blocks["OUT04"] for blocks in strengths] == [1] * 5 + [0] * 3, "lbw=OUTD:stop=5"
    assert {blocks["IN05"] for blocks in strengths} == {0}
    assert [step["layers_updated"] > 0 for step in found["steps"]][5:] == [True, False, False]
    assert found["base_restored"] and image.stat().st_size > 1000
    assert "OUT03-OUT06 1.0" in result.stdout
    assert f"slow path: {found['max_pixel_difference']} of 255" in result.stdout
