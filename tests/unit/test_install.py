"""install.py: silent when there is nothing to do, and it loses no preset."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL = Path(__file__).resolve().parents[2] / "install.py"


class Host:
    """A host's folders with the extension's install.py in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scripts = root / "extensions" / "ours" / "scripts"
        self.original = root / "extensions" / "sd-webui-lora-block-weight" / "scripts"
        for folder in (root / "modules", root / "scripts", self.scripts, self.original):
            folder.mkdir(parents=True)
        shutil.copy(INSTALL, self.scripts.parent)

    def start(self) -> str:
        """Run install.py as the host does, and return what it says."""
        command = [sys.executable, str(self.scripts.parent / "install.py")]
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return result.stdout + result.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_it_is_silent_when_there_is_nothing_to_do(host: Host):
    assert host.start() == ""
    assert list(host.scripts.iterdir()) == []


def test_presets_of_the_original_are_carried_over_once(host: Host):
    (host.original / "lbwpresets.txt").write_bytes(b"MINE:1,2\r\n# kept \xff\n")
    (host.root / "scripts" / "elempresets.txt").write_text("A:::1")
    assert "lbwpresets.txt" in host.start()
    assert (host.scripts / "lbwpresets.txt").read_bytes() == b"MINE:1,2\r\n# kept \xff\n"
    assert (host.scripts / "elempresets.txt").read_text() == "A:::1"
    (host.scripts / "lbwpresets.txt").write_text("CHANGED")
    assert host.start() == ""
    assert (host.scripts / "lbwpresets.txt").read_text() == "CHANGED"
