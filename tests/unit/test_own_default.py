"""A LoRA's own default, in the host's file of what its user says of the LoRA."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lbw.tags.own_default import LONGEST, metadata_file, normalised, read, write

OTHERS = {"description": "\u732b", "sd version": "SD1", "preferred weight": 0.7, "notes": "a\nb", "x": {"y": [1, None]}}


def test_it_stands_beside_the_network_file_where_the_host_looks():
    assert metadata_file("/loras/a/style.v1.safetensors") == Path("/loras/a/style.v1.json")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("OUTD", "OUTD"), (":lbw=OUTD", "OUTD"), (" : LBW = OUTD:stop=5: ", "OUTD:stop=5"), ("1,0,0.5", "1,0,0.5"),
        ("lbw=NONE,OUT=1", "NONE,OUT=1"), ("NONE,OUT=1", "NONE,OUT=1"), ("stop=5", "stop=5"), ("", ""),
    ],
)
def test_every_form_that_somebody_may_have_written_is_read(text: str, meant: str, tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({**OTHERS, "additional weight": text}))
    assert normalised(text) == read(file) == meant


@pytest.mark.parametrize("content", [
    None, "", "{", "[]", "3", "null", "[" * 100_000, '{"additional weight": null}', '{"additional weight": "a<b"}',
])
def test_a_file_without_one_has_none(content: str | None, tmp_path: Path):
    file = tmp_path / "a.json"
    if content is not None:
        file.write_text(content)
    assert read(file) == ""


def test_all_else_in_the_file_stays(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(OTHERS, ensure_ascii=False), encoding="utf-8")
    file.chmod(0o640)
    assert write(file, ":lbw=OUTD:stop=5") == {**OTHERS, "additional weight": "OUTD:stop=5"}
    assert json.loads(file.read_text(encoding="utf-8")) == {**OTHERS, "additional weight": "OUTD:stop=5"}
    assert "\u732b" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o640
    write(file, "")
    assert json.loads(file.read_text(encoding="utf-8")) == OTHERS
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_link_stays_one(tmp_path: Path):
    (tmp_path / "real.json").write_text("{}")
    link = tmp_path / "a.json"
    link.symlink_to(tmp_path / "real.json")
    write(link, "OUTD")
    assert link.is_symlink() and read(tmp_path / "real.json") == "OUTD"


def test_what_changes_nothing_writes_nothing(tmp_path: Path):
    write(tmp_path / "a.json", "")
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"a"', b"\xff{}", b"[" * 100_000])
def test_a_file_of_something_else_is_left_alone(content: bytes, tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json .* left alone"):
        write(file, "OUTD")
    assert file.read_bytes() == content


@pytest.mark.parametrize("weights", ["a>b", "<lora:b:1>", "a\nb", "a\x00", "\ud83d", "1," * LONGEST])
def test_what_cannot_stand_in_a_tag_is_refused(weights: str, tmp_path: Path):
    with pytest.raises(ValueError, match="expected what may stand in a tag"):
        write(tmp_path / "a.json", weights)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ['{"additional weight": "a<b", "notes": "n"}', r'{"notes": "\ud83d"}'])
def test_what_cannot_be_kept_is_left_alone(content: str, tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="left alone"):
        write(file, "OUTD")
    assert file.read_text() == content and os.listdir(tmp_path) == ["a.json"]
