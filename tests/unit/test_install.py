"""install.py: silent when there is nothing to do, and it finds and loses no preset. What README says of installing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lbw.tags.presets import DEFAULT_PRESETS, ORIGINAL_PRESETS

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "install.py"
MINE = "MINE:1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0\n"


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


@pytest.mark.parametrize(
    "folder", ["sd-webui-lora-block-weight-old", "sd-webui-lora-block-weight.disabled", "LBW", "lora-block-weight-main"]
)
def test_presets_are_found_wherever_the_original_lies(host: Host, folder: str):
    host.original.parent.rename(host.root / "extensions" / folder)
    (host.root / "extensions" / folder / "scripts" / "lbwpresets.txt").write_text(MINE)
    (host.root / "extensions" / folder / "scripts" / "elempresets.txt").write_text("A:::1")
    assert host.start().count("took over") == 2
    assert (host.scripts / "lbwpresets.txt").read_text() == MINE
    assert (host.scripts / "elempresets.txt").read_text() == "A:::1"


def test_presets_are_found_beside_us_where_extensions_lie_in_a_data_folder(host: Host, tmp_path: Path):
    host.root = tmp_path / "program"
    (host.root / "modules").mkdir(parents=True)
    (host.original / "lbwpresets.txt").write_text(MINE)
    assert str(host.original) in host.start()


def test_of_several_the_newest_with_entries_of_ones_own_counts(host: Host):
    (host.scripts / "lbw").symlink_to(ROOT / "scripts" / "lbw")
    texts = {"d": MINE, "b": ORIGINAL_PRESETS + MINE, "c": ORIGINAL_PRESETS, "a": DEFAULT_PRESETS}
    for age, (folder, text) in enumerate(texts.items()):
        path = host.root / "extensions" / folder / "scripts" / "lbwpresets.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        os.utime(path, (age, age))
    (line,) = host.start().splitlines()
    assert (host.scripts / "lbwpresets.txt").read_text() == texts["b"]
    assert [folder for folder in re.findall(r"extensions/(\w+)/", line)] == ["b", "c", "a", "d"]
    assert line.count("and not") == 3


def test_of_several_without_entries_of_ones_own_the_newest_counts(host: Host):
    (host.scripts / "lbw").symlink_to(ROOT / "scripts" / "lbw")
    for age, text in enumerate((DEFAULT_PRESETS, ORIGINAL_PRESETS)):
        path = host.root / "extensions" / str(age) / "scripts" / "lbwpresets.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        os.utime(path, (age, age))
    host.start()
    assert (host.scripts / "lbwpresets.txt").read_text() == ORIGINAL_PRESETS


def test_nothing_outside_of_the_extensions_is_read(host: Host, tmp_path_factory: pytest.TempPathFactory):
    outside = tmp_path_factory.mktemp("outside") / "scripts"
    outside.mkdir()
    (outside / "lbwpresets.txt").write_text(MINE)
    (host.original / "lbwpresets.txt").symlink_to(outside / "lbwpresets.txt")
    (host.root / "extensions" / "linked").symlink_to(outside.parent)
    (host.root / "scripts" / "lbwpresets.txt").symlink_to(outside / "lbwpresets.txt")
    (host.root / "extensions" / "folder" / "scripts" / "lbwpresets.txt").mkdir(parents=True)
    assert host.start() == ""
    assert list(host.scripts.iterdir()) == []


def test_neighbours_of_a_checkout_elsewhere_are_not_read(tmp_path: Path):
    for folder in ("checkouts/ours/scripts", "checkouts/theirs/scripts", "webui/modules"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "checkouts" / "theirs" / "scripts" / "lbwpresets.txt").write_text(MINE)
    shutil.copy(INSTALL, tmp_path / "checkouts" / "ours")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "webui")}
    command = [sys.executable, str(tmp_path / "checkouts" / "ours" / "install.py")]
    assert subprocess.run(command, check=True, capture_output=True, env=environment).stdout == b""
    assert list((tmp_path / "checkouts" / "ours" / "scripts").iterdir()) == []


def git(*arguments: str | Path) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def repository(folder: Path) -> None:
    git("init", folder)
    git("-C", folder, "add", "-A")
    git("-C", folder, "commit", "-m", "all")


def shell_lines_of_readme(with_original: bool) -> list[str]:
    """The commands under "Install" for those who have the original, or for the others."""
    text = (ROOT / "README.md").read_text().partition("\n## Install\n")[2].partition("\n### ")[0]
    plain, own = re.findall(r"(?:^    .+\n)+", text, re.MULTILINE)
    return [line.strip() for line in (own if with_original else plain).splitlines()]


@pytest.mark.parametrize("with_original", [True, False])
def test_what_readme_says_of_installing_works_and_presets_come_over(tmp_path: Path, with_original: bool):
    ours, root = tmp_path / "ours", tmp_path / "webui"
    shutil.copytree(ROOT / "scripts", ours / "scripts", ignore=shutil.ignore_patterns("*.txt", "__pycache__"))
    shutil.copy(INSTALL, ours)
    repository(ours)
    installed = root / "extensions" / "sd-webui-lora-block-weight"
    for folder in (root / "modules", root / "extensions"):
        folder.mkdir(parents=True)
    if with_original:
        (installed / "scripts").mkdir(parents=True)
        (installed / "scripts" / "lora_block_weight.py").write_text("# the original's\n")
        (installed / ".gitignore").write_text("*.txt\n")
        repository(installed)
        (installed / "scripts" / "lbwpresets.txt").write_bytes(MINE.encode())
        (installed / "scripts" / "elempresets.txt").write_bytes(b"A:::1")
    lines = shell_lines_of_readme(with_original)
    assert len(lines) <= 3 and sum(" URL " in line for line in lines) == 1
    script = "\n".join(lines).replace(" URL ", f" {ours} ")
    subprocess.run(["sh", "-e", "-c", script], cwd=root, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, installed / "install.py"], check=True, capture_output=True, env=environment)
    found = {path.name: path.read_bytes() for path in (installed / "scripts").glob("*.txt")}
    assert found == ({"lbwpresets.txt": MINE.encode(), "elempresets.txt": b"A:::1"} if with_original else {})
    entries = [path.parents[1].name for path in root.glob("extensions/*/scripts/lora_block_weight.py")]
    assert entries == [installed.name], "one of the two is there"
