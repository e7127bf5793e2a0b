"""What README refers to exists, what it folds unfolds, and what it says twice is the same."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
JAPANESE = README.partition('<details lang="ja">')[2].partition("\n</details>")[0]
FIRST_SCREENS = {
    "English": README.partition("\n<details")[0],
    "Japanese": JAPANESE.partition("\n### 概要\n")[2].partition("\n### ")[0],
}
INSTALL = {
    "English": README.partition("\n## Install\n")[2].partition("\n### ")[0],
    "Japanese": JAPANESE.partition("\n### インストール\n")[2].partition("\n### ")[0],
}
DEVELOPMENT = README.partition("\n## Development\n")[2].partition("\n## ")[0]
MEASURED = README.partition("\n### Measured figures\n")[2].partition("\n## ")[0]


def without_code(text: str) -> str:
    """The text without fenced and indented blocks and without code in its lines."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]+`", "", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))


def anchors(text: str) -> list[str]:
    """What GitHub makes of a text's headings."""
    found, seen = [], Counter[str]()
    for heading in re.findall(r"^#{1,6} (.+)$", without_code(text), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def shell_lines(text: str) -> list[str]:
    """The lines of a text's indented blocks, those that go on in the next one joined, without comments."""
    lines = re.findall(r"^    (.+)$", text.replace("\\\n", ""), re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line).strip() for line in lines]


COMMANDS = [
    *shell_lines(DEVELOPMENT),
    *dict.fromkeys(re.findall(r"`((?:bash |\.venv/bin/python |python -m tests)[^`]+)`", README.replace("\n  ", " "))),
]


def test_links_and_pictures_lead_somewhere():
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(README)) + re.findall(r'src="([^"]+)"', README)
    assert len(links) > 30
    local = {link for link in links if not link.startswith("https://")}
    known = {f"#{anchor}" for anchor in anchors(README)}
    assert [link for link in local if link.startswith("#") and link not in known] == []
    assert [link for link in local if not link.startswith("#") and not (ROOT / link).is_file()] == []


def test_every_picture_says_what_it_shows():
    assert README.count("<img ") == len(re.findall(r'<img src="[^"]+" width="\d+" alt="[^"]{10,}">', README))
    assert "![" not in README


def test_every_part_that_is_folded_unfolds_as_markdown():
    lines = README.splitlines()
    tags = [line for line in lines if re.match(r"</?details", line)]
    for tag, expected in zip(tags, ["<details", "</details>"] * (len(tags) // 2), strict=True):
        assert tag.startswith(expected)
    for number, line in enumerate(lines):
        if line.startswith("<details"):
            assert re.fullmatch(r"<summary>.+</summary>", lines[number + 1]), line
            assert (lines[number - 1], lines[number + 2]) == ("", ""), lines[number + 1]
        if line == "</details>":
            assert (lines[number - 1], lines[number + 1]) == ("", ""), f"line {number + 1}"
    assert README.count("<details") == README.count("<summary>") == README.count("</summary>") > 10


def test_every_table_stands_alone_and_has_a_head():
    lines = README.splitlines()
    heads = [number for number, line in enumerate(lines) if re.fullmatch(r"\|(?: --- \|)+", line)]
    assert len(heads) > 15
    for before, line in pairwise(lines):
        if line.startswith("|") and not before.startswith("|"):
            assert before == "", line
    for head in heads:
        columns = {len(re.findall(r"(?<!\\)\|", lines[head - 1]))}
        for line in lines[head:]:
            if not line.startswith("|"):
                break
            columns.add(len(re.findall(r"(?<!\\)\|", line)))
        assert len(columns) == 1, lines[head - 1]


def test_the_tag_and_the_best_news_stand_on_the_first_screen():
    for language, text in FIRST_SCREENS.items():
        assert "<lora:name:1:lbw=OUTD:stop=5>" in text, language
        assert len(text.splitlines()) < 40, language
    assert "Presets and prompts of the original LoRA Block Weight work unchanged" in FIRST_SCREENS["English"]
    assert "本家のプリセットとプロンプトはそのまま使えます" in FIRST_SCREENS["Japanese"]


@pytest.mark.parametrize("language", FIRST_SCREENS)
def test_figures_of_the_first_screen_are_measured(language: str):
    table = MEASURED.partition("\n\n")[0] + MEASURED.split("\n\n")[1]
    measured = {float(number) for number in re.findall(r"(?<![\w=])\d+(?:\.\d+)?(?= and| ms)", table)}
    rows = MEASURED.partition("| 24 GiB |")[2].partition("</details>")[0]
    assert all(re.search(rf"(?<![\d.]){number:g}(?![\d.])", rows) for number in measured), "the tables have them all"
    whole = re.search(r"\(the whole image, .+: (\d+), (\d+) and (\d+) ms\)", MEASURED.replace("\n", " "))
    assert whole
    _alone, original, ours = (f"{int(number) / 1000:.1f}" for number in whole.groups())
    assert re.findall(r"(\d+\.\d) (?:s|秒)", FIRST_SCREENS[language]) == [ours, original]
    said = re.findall(r"(\d+(?:\.\d+)?) ms", FIRST_SCREENS[language])
    assert said == ["5", "5.3", "7.7", "1405"]
    for number in said:
        assert any(float(number) in (value, round(value)) for value in measured), number


def test_both_languages_install_in_three_lines_and_alike():
    assert [re.findall(r"^(\d)\. ", text, re.MULTILINE) for text in INSTALL.values()] == [["1", "2", "3"]] * 2
    english, japanese = map(shell_lines, INSTALL.values())
    assert english == japanese
    assert len(english) == 4
    assert all(re.search(r"1\.6\.1", text) for text in INSTALL.values())


def test_the_two_commands_are_there():
    assert shell_lines(DEVELOPMENT)[:2] == ["bash tests/demo.sh", "bash tests/run.sh"]


def test_commands_are_found():
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_names_exists(command: str):
    words = shlex.split(command)
    words = words[next(number for number, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]
    if words[0] == "export":
        return
    assert words[0] in ("bash", ".venv/bin/python", "python")
    if words[0] == "bash":
        script = ROOT / words[1]
        code, options = script.read_text(), words[2:]
        if words[1] == "tests/demo.sh":
            code += (ROOT / "tests" / "once.py").read_text()
            code += (ROOT / "tests" / "webui" / "modules" / "cmd_args.py").read_text()
    else:
        assert words[1] == "-m"
        code, options = "", words[3:]
        if words[2] == "pytest":
            options = [word for word in options if word not in ("-k", "cuda")]
        else:
            code = (ROOT / f"{words[2].replace('.', '/')}.py").read_text()
    for word in options:
        if word.startswith("--"):
            assert f'"{word}"' in code or f" {word} " in code, word
        elif word.startswith("tests/"):
            assert (ROOT / word).exists(), word


def test_files_that_are_named_exist():
    named = re.findall(r"`((?:tests|scripts|javascript)/[\w/.]+\.\w+)(?:::\w+)?`", README)
    own = {"scripts/lbwpresets.txt", "scripts/elempresets.txt"}
    assert len(named) > 15
    assert [name for name in named if name not in own and not (ROOT / name).is_file()] == []


def test_shell_scripts_that_are_named_are_shell():
    for name in sorted({word for command in COMMANDS for word in command.split() if word.endswith(".sh")}):
        subprocess.run(["bash", "-n", ROOT / name], check=True)


DIFFERENCES = {
    "stop=1": "| `stop=1` |", "start=1": "| `start=1` |", "step=5-2": "| `step=5-2`", "stop=-1": "| `stop=-1` |",
    "README :1:INALL": "| `:1:INALL`", "README positional 17": "`:0.5:0,0,1,0,…` without `lbw=` |",
    "same lora twice": "| one LoRA in two tags |", "same lora twice stop/start": "| one LoRA in two tags |",
}  # fmt: skip
SAME_NOW = {"start=0.5"}
"""What the original does as we do in its newest version."""


def test_what_differs_from_the_original_is_told():
    cases = json.loads((ROOT / "tests" / "data" / "syntax.json").read_text())
    differing = {case["title"] for case in cases if case.get("ours_differs")}
    wrong = {title for title in differing if re.match(r"lbw=|stop=abc|missing", title)}
    assert differing - wrong - SAME_NOW == set(DIFFERENCES)
    table = README.partition("| | the original | here |")[2].partition("\n\n")[0]
    assert all(cell in table for cell in (*DIFFERENCES.values(), "| a name or a value that is wrong |"))
