from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.tags.blocks import LAYOUTS
from lbw.tags.presets import (
    DEFAULT_PRESETS,
    DEFAULT_RULE_SETS,
    parse_presets,
    parse_rule_sets,
    read,
    read_or_create,
    write_atomically,
)

ONES = ",".join(["1"] * 17)


def test_the_defaults_are_complete_and_sound():
    presets, problems = parse_presets(DEFAULT_PRESETS)
    assert problems == []
    assert list(presets) == [
        "NONE", "ALL", "INS", "IND", "INALL", "MIDD", "OUTD", "OUTS", "OUTALL", "ALL0.5", "FLUXALL"
    ]
    assert presets["OUTD"] == "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
    rule_sets, problems = parse_rule_sets(DEFAULT_RULE_SETS)
    assert problems == []
    assert rule_sets["ATTNDEEPOFF"] == "IN05-OUT05:attn:0"
    assert rule_sets["XYZ"] == "::1"


def test_lines_that_are_no_presets_are_comments():
    presets, problems = parse_presets(f"hello\n#A:{ONES}\nB:{ONES} # note\n\nC:{ONES}\nnote: see the wiki\n")
    assert list(presets) == ["C"]
    assert problems == []


def test_bad_lines_are_named_by_number_and_reason():
    presets, problems = parse_presets(f"A:{ONES}\nB:1,2,3\nC:{ONES[:-1]}abc\n")
    assert list(presets) == ["A", "C"]
    assert [(problem.line, problem.reason.partition(":")[0]) for problem in problems] == [(2, "B"), (3, "C")]


def test_rule_sets_may_have_several_lines():
    rule_sets, problems = parse_rule_sets("A:IN05:attn:1\nOUT05:attn:0\n\n# a note\nB:::0,IN01::1\n\n\nBAD:x:y\n")
    assert rule_sets["A"] == "IN05:attn:1\nOUT05:attn:0"
    assert rule_sets["B"] == "::0,IN01::1"
    assert [problem.line for problem in problems] == [8]


def test_a_file_is_made_with_the_defaults_and_then_left_alone(tmp_path: Path):
    path = tmp_path / "lbwpresets.txt"
    assert read_or_create(path, DEFAULT_PRESETS) == DEFAULT_PRESETS
    path.write_text("MINE:" + ONES + "\r\n# kept\n", newline="")
    assert read_or_create(path, DEFAULT_PRESETS) == f"MINE:{ONES}\n# kept\n"


def test_reading_an_absent_file_gives_the_defaults_and_makes_nothing(tmp_path: Path):
    assert read(tmp_path / "lbwpresets.txt", DEFAULT_PRESETS) == DEFAULT_PRESETS
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_another_encoding_loses_no_readable_line(tmp_path: Path):
    path = tmp_path / "lbwpresets.txt"
    path.write_bytes(b"\xef\xbb\xbfA:" + ONES.encode() + b"\n\xff\xfe caf\xe9\nB:" + ONES.encode())
    assert list(parse_presets(read_or_create(path, ""))[0]) == ["A", "B"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "lbwpresets.txt"
    write_atomically(path, "old")

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["lbwpresets.txt"]
    assert path.read_text() == "old"


PIECES = st.sampled_from(
    [":", ",", "\n", "\n\n", "#", " ", "A", ONES, "R", "nan", "IN05-OUT05", "attn", "NOT", "\u2028"]
)


@given(st.lists(PIECES | st.text(max_size=3)).map("".join))
def test_no_text_can_break_the_files_parsers_and_every_preset_fits_a_layout(text: str):
    presets, problems = parse_presets(text)
    rule_sets, more = parse_rule_sets(text)
    assert all(vector.count(",") + 1 in LAYOUTS for vector in presets.values())
    assert all(name == name.strip() and ":" not in name for name in (*presets, *rule_sets))
    assert all(1 <= problem.line <= len(text.splitlines()) for problem in (*problems, *more))
