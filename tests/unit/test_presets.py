from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.plan.plan import build
from lbw.tags.blocks import families_with
from lbw.tags.families import FLUX, KNOWN, SD1, SDXL, Family, family_of_layers, label_ranges
from lbw.tags.library import Library
from lbw.tags.limits import shortened
from lbw.tags.presets import (
    DEFAULT_PRESETS,
    DEFAULT_RULE_SETS,
    ORIGINAL_PRESETS,
    parse_presets,
    parse_rule_sets,
    read,
    read_or_create,
    with_preset,
    write_atomically,
)
from lbw.tags.prompt import LoraRequest
from lbw.tags.weights import draw
from tests.unit.model_layers import layers_of

ONES = ",".join(["1"] * 17)


def test_the_defaults_are_complete_and_sound():
    presets, problems = parse_presets(DEFAULT_PRESETS)
    assert problems == []
    assert list(presets) == [
        "NONE", "ALL", "ALL0.5", "INALL", "MIDD", "OUTALL", "INS", "IND", "OUTD", "OUTS", "FLUXALL"
    ]
    assert presets["OUTD"][-1] == "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0", "other tools take the last"
    rule_sets, problems = parse_rule_sets(DEFAULT_RULE_SETS)
    assert problems == []
    assert rule_sets["ATTNDEEPOFF"] == "IN05-OUT05:attn:0"
    assert rule_sets["XYZ"] == "::1"


def test_lines_that_are_no_presets_are_comments():
    presets, problems = parse_presets(f"hello\n#A:{ONES}\n# B:{ONES} # note\n\nC:{ONES}\nnote: see the wiki\n")
    assert list(presets) == ["C"]
    assert problems == []


def test_bad_lines_are_named_by_number_and_reason():
    presets, problems = parse_presets(f"A:{ONES}\nB:1,2,3\nC:{ONES[:-1]}abc\nD:1,b,3")
    assert list(presets) == ["A", "B", "C"], "what can be told of them when they are used"
    assert [(problem.line, problem.reason.partition(":")[0]) for problem in problems] == [
        (2, "B"), (3, "C"), (4, "D")
    ]


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
def test_no_text_can_break_the_files_parsers(text: str):
    presets, problems = parse_presets(text)
    rule_sets, more = parse_rule_sets(text)
    assert all(name == name.strip() and ":" not in name for name in (*presets, *rule_sets))
    assert all(1 <= problem.line <= len(text.splitlines()) for problem in (*problems, *more))


def on(name: str, family: Family) -> list[str]:
    """The labels that a default preset turns on, the text encoders apart."""
    ratios = draw(Library.read(DEFAULT_PRESETS, "", "").vector(name, family)).ratios
    return [label for label in family.labels if ratios[label] and label not in family.of_encoders]


def test_the_defaults_mean_on_sd1_what_the_originals_do():
    before, now = (Library.read(text, "", "") for text in (ORIGINAL_PRESETS, DEFAULT_PRESETS))
    assert before.presets.keys() == now.presets.keys()
    for name in before.presets.keys() - {"FLUXALL"}:
        assert draw(now.vector(name, SD1)) == draw(before.vector(name, SD1))
    assert now.vector("FLUXALL", FLUX) == before.vector("FLUXALL", FLUX)


ORIGINAL_NAMES = ("INS", "IND", "INALL", "MIDD", "OUTD", "OUTS", "OUTALL")
MIDDLES = {
    "sdxl": "IN06-IN08 M00 OUT00-OUT02", "sd3_medium": "IN06-IN11 OUT00-OUT05", "sd35_large": "IN10-IN18 OUT00-OUT08",
    "flux1_dev": "D09-D18 S00-S18", "chroma": "D09-D18 S00-S18",
}  # fmt: skip


@pytest.mark.parametrize("model", MIDDLES)
def test_the_defaults_have_halves_on_newer_models(model: str):
    """Shallow and deep input are the input, deep and shallow output the output; no block is in two, none is left."""
    family = family_of_layers(layers_of(model))
    halves = {name: [label for label in on(name, family) if label in family.blocks] for name in ORIGINAL_NAMES}
    ins, outs = halves["INS"] + halves["IND"], halves["OUTD"] + halves["OUTS"]
    assert ins == halves["INALL"] and outs == halves["OUTALL"]
    assert label_ranges(halves["MIDD"], family.labels) == MIDDLES[model].split()
    assert {*ins, *outs, "M00"} >= {*family.blocks}
    assert on("NONE", family) == [] and {*on("ALL", family)} == {*family.labels} - {*family.of_encoders}
    messages: list[str] = []
    layers = layers_of(model)
    for name in (*ORIGINAL_NAMES, "NONE", "ALL", "ALL0.5"):
        request = LoraRequest("a", weights=name)
        build([request], {"a": layers}, Library.read(DEFAULT_PRESETS, "", ""), messages.append, model_layers=layers)
    assert messages == []


NEWER = [family for family in KNOWN if family.title not in ("SD1/SD2", "SDXL refiner")]
"""On the others, 17 values are what they always were."""


@pytest.mark.parametrize("family", NEWER, ids=[family.title for family in NEWER])
def test_all_and_none_are_so_on_every_model(family: Family):
    library = Library.read(DEFAULT_PRESETS, "", "")
    for name, ratio in (("ALL", 1), ("NONE", 0), ("ALL0.5", 0.5)):
        assert set(draw(library.vector(name, family)).ratios.values()) == {ratio}


def test_of_lines_of_one_name_the_one_that_fits_counts():
    twelve, twenty = (",".join([value] * count) for value, count in (("0.25", 12), ("0.5", 20)))
    library = Library.read(f"A:{twelve}\nA:{ONES}\nB:{ONES}\nB:{twelve}\nB:{twenty}\nC:NONE,D00=1\nC:IN=0\n", "", "")
    assert library.vector("A", SD1).text == library.vector("B", SD1).text == ONES
    assert library.vector("A", SDXL).text == twelve
    assert library.vector("B", SDXL).text == twenty, "of two that fit, the last"
    assert library.vector("C", FLUX).values["D00"] == "1" and library.vector("C", SD1).values["IN00"] == "0"
    with pytest.raises(ValueError, match="none of its 3 lines is for this model; of the last one, 20 values"):
        library.vector("B", FLUX)


def test_defaults_of_earlier_are_renewed_and_a_changed_file_never(tmp_path: Path):
    path = tmp_path / "lbwpresets.txt"

    def after(text: str) -> str:
        path.write_text(text)
        return read_or_create(path, DEFAULT_PRESETS, ORIGINAL_PRESETS)

    assert after(ORIGINAL_PRESETS) == after(ORIGINAL_PRESETS.rstrip()) == path.read_text() == DEFAULT_PRESETS
    others = (ORIGINAL_PRESETS + "# mine\n", ORIGINAL_PRESETS.replace("OUTD", "OUTE"), "", DEFAULT_PRESETS + "A:1")
    for changed in others:
        assert after(changed) == path.read_text() == changed


def test_a_preset_is_replaced_by_one_with_as_many_values():
    twelve = ",".join(["0.25"] * 12)
    text = with_preset(f"A:{ONES}\n# kept\nB:{ONES}\n", "A", twelve)
    assert text == f"A:{ONES}\nA:{twelve}\n# kept\nB:{ONES}\n"
    assert with_preset(text, "A", twelve.replace("0.25", "1")).splitlines()[1] == "A:" + ",".join(["1"] * 12)
    assert with_preset(text, "A", "IN=0").splitlines()[2] == "A:IN=0"
    named = with_preset("A:NONE,D00=1\nA:NONE,BASE=1\nA:NONE,OUT03=1\n", "A", "IN00=0")
    assert named.splitlines() == ["A:NONE,D00=1", "A:NONE,BASE=1", "A:IN00=0"], "those of other models stay"


def test_a_preset_may_have_blanks_between_its_values_and_a_sentence_is_none():
    presets, problems = parse_presets(f"A:{ONES.replace(',', ' ')}\nnote: one two three\nlist: 1 2 x\n")
    assert list(presets) == ["A"] and problems == []


def test_presets_that_begin_with_one_another_are_read_in_time():
    lines = [f"P{i}:P{i + 1},IN{j:02d}=1" for i in range(19) for j in range(12)]
    library = Library.read("\n".join([*lines, "P19:NONE,M=1"]), "", "")
    assert library.vector("P0", SD1).values["M00"] == "1"
    endless = Library.read("\n".join(f"P{i}:P{i + 1},M=1" for i in range(3000)), "", "")
    with pytest.raises(ValueError, match="more than 20 presets that begin with one another"):
        endless.vector("P0", SD1)
    assert len(endless.names("P0")) == 3000


def test_hostile_presets_are_read_in_time():
    many = "A:IN=1\n" * 100_000
    library = Library.read(many, "", "")
    assert len(library.presets["A"]) == 100_000
    assert library.vector("A", SD1) is library.vector("A", SD1), "read once, however many keyframes name it"
    assert shortened("a" + " " * 1_000_000 + "b", 20).startswith("a ")
    assert families_with("Q" * 1_000_000) == ()
