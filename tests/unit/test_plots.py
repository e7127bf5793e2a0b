"""Plots without a host: values of axes, the vectors and tags that they come to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lbw.plots.analyzer import preset, read_inquiry
from lbw.plots.axes import Change, Meaning, read_axes, read_change, split_values
from lbw.plots.tags import TagChange, has_mark, rewritten
from lbw.plots.vectors import changed, complement, varied_base
from lbw.tags.families import FLUX, KNOWN, SD1, SDXL, Family
from lbw.tags.library import Library
from lbw.tags.presets import parse_presets
from lbw.tags.weights import Vector

PRESETS = {
    "INS": "1,1,1,0,0,0,0,0,0,0,0,0",
    "MID": "1,0,0,0,0,1,0,0,0,0,0,0",
    "OUTD": "1,0,0,0,0,0,1,1,1,0,0,0",
    "SD": ",".join(["1"] * 17),
}
WAN = next(family for family in KNOWN if family.title == "Wan 14B")
LIBRARY = Library({name: (text,) for name, text in PRESETS.items()}, {"OFF": "::0"})
MEANING = Meaning(LIBRARY, SD1, draw=lambda: 77)


def change(**axes: str) -> Change:
    total = Change()
    for kind, value in axes.items():
        total &= read_change(kind.replace("_", " "), value, MEANING)
    return total


def vector(text: str) -> Vector:
    return LIBRARY.vector(text, SD1)


@pytest.mark.parametrize(
    ("blocks", "changed_blocks"),
    [
        ("BASE", "BASE"),
        ("IN01 OUT11", "IN01 OUT11"),
        ("IN05-OUT05", "IN05 IN07 IN08 M00 OUT03 OUT04 OUT05"),
        ("OUT05-IN05", "IN05 IN07 IN08 M00 OUT03 OUT04 OUT05"),
        ("BASE OUT10-OUT11", "BASE OUT10 OUT11"),
        ("NOT IN01-OUT10", "BASE OUT11"),
        ("NOT BASE IN01-OUT11", ""),
    ],
)
def test_blocks_get_the_value(blocks: str, changed_blocks: str):
    made = changed(vector("SD"), change(Block_ID=blocks, values="0.5"))
    assert [label for label, value in made.values.items() if value == "0.5"] == changed_blocks.split()
    assert vector(made.text).complete() == replace(made.complete(), given=frozenset(SD1.labels))


def test_a_block_that_the_layout_lacks_writes_the_vector_out():
    assert changed(vector("SD"), change(Block_ID="IN00", values="0.5")).values == {
        label: "0.5" if label == "IN00" else "1" if label in SD1.layouts[17] else "0" for label in SD1.layouts[26]
    }


def test_a_value_without_blocks_is_for_all_of_them():
    assert changed(vector("INS"), change(values="0.25")).text == ",".join(["0.25"] * 12)


@pytest.mark.parametrize(
    ("x", "y", "wanted"),
    [
        ("INS", "INS", "1,1,1,0,0,0,0,0,0,0,0,0"),
        ("MID", "INS", "1,1,1,0,0,1,0,0,0,0,0,0"),
        ("OUTD", "INS", "1,1,1,0,0,0,1,1,1,0,0,0"),
        ("INS", "MID", "1,1,1,0,0,1,0,0,0,0,0,0"),
    ],
)
def test_original_weights_on_two_axes_add_up(x: str, y: str, wanted: str):
    """The example of the original's README."""
    both = read_change("Original Weights", x, MEANING) & read_change("Original Weights", y, MEANING)
    assert changed(vector("1"), both).text == wanted


def test_of_two_weights_for_a_block_the_first_counts():
    first, second = (vector(",".join([value] * 12)) for value in ("0.3", "0.7"))
    assert changed(vector("1"), Change(originals=(first, second))) == first


def test_the_complement_is_one_minus_each_weight():
    text = "1,0,0.25,-0.5,R,U,X" + ",0" * 19
    assert complement(vector(text)).text == "0,1,0.75,1.5,R,U,X" + ",1" * 19
    assert complement(vector("1" + ",1" * 16)).values["IN00"] == "1", "17 values mean 0 there"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:a:1:lbw=XYZ>", "<lora:a:1:lbw=V>"),
        ("<lora:a:1:XYZ>", "<lora:a:1:lbw=V>"),
        ("<lyco:a:1:1:w=XYZ:x=2>", "<lyco:a:1:1:x=2:lbw=V>"),
        ("<lora:a:1:lbw=ZYX>", "<lora:a:1:lbw=W>"),
        ("<lora:a:1:lbw=OUTD>", "<lora:a:1:lbw=OUTD>"),
        ("<lora:a:1>", "<lora:a:1>"),
        ("<lora:XYZ:1>", "<lora:XYZ:1>"),
        ("<hypernet:a:XYZ>", "<hypernet:a:XYZ>"),
        ("x <lora:a:1:lbw=XYZ> y <lora:b:lbw=ZYX> z", "x <lora:a:1:lbw=V> y <lora:b:lbw=W> z"),
    ],
)
def test_marked_tags_get_the_weights(tag: str, expected: str):
    of = {"XYZ": "V", "ZYX": "W"}
    found = rewritten(
        tag,
        TagChange(weights=lambda own: of.get(own or "") if own == "XYZ" else None),
        TagChange(weights=lambda own: of.get(own or "") if own == "ZYX" else None),
    )
    assert found == expected


@pytest.mark.parametrize(
    ("tag", "given", "expected"),
    [
        ("<lora:a:1:lbw=XYZ>", {"stop": "5"}, "<lora:a:1:lbw=XYZ:stop=5>"),
        ("<lora:a:1:lbw=XYZ:stop=9:start=2>", {"stop": "5"}, "<lora:a:1:lbw=XYZ:start=2:stop=5>"),
        ("<lora:a:1:lbwe=XYZ>", {"start": "50%"}, "<lora:a:1:lbwe=XYZ:start=50%>"),
        ("<lora:a:1:lbw=XYZ>", {"strength": "0.3"}, "<lora:a:0.3:lbw=XYZ>"),
        ("<lora:a:1:0.5:lbw=XYZ>", {"strength": "0.3"}, "<lora:a:0.3:lbw=XYZ>"),
        ("<lora:a:1:0.5:8:lbw=XYZ>", {"strength": "0.3"}, "<lora:a:0.3:0.3:8:lbw=XYZ>"),
        ("<lora:a:te=1:unet=0.5:lbw=XYZ>", {"strength": "0.3"}, "<lora:a:0.3:lbw=XYZ>"),
    ],
)
def test_other_arguments_take_the_place_of_the_tags_own(tag: str, given: dict[str, str], expected: str):
    assert rewritten(tag, TagChange(**given)) == expected


def test_a_prompt_of_brackets_is_read_in_time():
    prompt = "<lora:a:lbw=XYZ" * 100_000
    assert not has_mark(prompt)
    assert rewritten(prompt, TagChange(start="1")) == prompt


def test_values_stand_between_commas_and_line_ends():
    assert split_values(' a, b ,\nc,"1,0,1", ,') == ["a", "b", "c", "1,0,1"]


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        ("Block ID", "IN12", "'IN12' is not a block"),
        ("Block ID", "D00", "'D00' is not a block of this SD1/SD2 model"),
        ("values", "abc", "is not a value"),
        ("seed", "1.5", "expected a whole number"),
        ("Original Weights", "NOPE", "expected one of INS, MID"),
        ("Original Weights", "1,0,1", "3 values given"),
        ("elements", "NOPE", "no rule set of this name"),
        ("elements", "IN05:attn", "has 2 fields"),
        ("start", "abc", "expected a step"),
        ("stop", "5:lbw=X", "expected a step"),
        ("strength", "strong", "expected"),
    ],
)
def test_a_wrong_value_is_left_out_with_one_message(kind: str, value: str, part: str):
    messages: list[str] = []
    quoted = f'"{value}"'
    good = {"Block ID": "BASE", "Original Weights": "INS", "elements": "OFF"}.get(kind, "1")
    given = {"X": (kind, f"{quoted},{good}"), "Y": ("values", "1") if kind == "Block ID" else ("none", "")}
    x, *_ = read_axes(given, MEANING, messages.append)
    assert [len(x.points), len(messages)] == [1, 1]
    assert all(text in messages[0] for text in (f"X: {kind} '{value}'", part, "left out"))


@pytest.mark.parametrize(
    ("given", "kinds", "part"),
    [
        ({"X": ("values", "0,1"), "Y": ("values", "2")}, ["values", "none"], "another axis has values"),
        ({"X": ("Block ID", "BASE"), "Y": ("none", "")}, ["none", "none"], "needs another one of type values"),
        ({"X": ("seed", ""), "Y": ("none", "5")}, ["none", "none"], "has no value"),
    ],
)
def test_axes_that_mean_nothing_are_left_out(given: dict[str, Any], kinds: list[str], part: str):
    messages: list[str] = []
    assert [axis.kind for axis in read_axes(given, MEANING, messages.append)] == kinds
    assert [part in message for message in messages] == [True]


def test_a_seed_of_minus_one_is_drawn_and_shown():
    (axis,) = read_axes({"Z": ("seed", "-1,5")}, MEANING, print)
    assert [(point.label, point.change.seed) for point in axis.points] == [("seed: 77", 77), ("seed: 5", 5)]


def test_a_preset_xyz_that_does_not_fit_the_model_is_told():
    warnings: list[str] = []
    fitting = Library({"XYZ": ("NONE,OUT11=0.5",)}, {})
    assert varied_base(fitting, SD1, warnings.append).text == ",".join(["0"] * 25 + ["0.5"]) and not warnings
    other = Library({"XYZ": ("NONE,D00=1",)}, {})
    assert varied_base(other, SD1, warnings.append).text == ",".join(["1"] * 26)
    assert len(warnings) == 1 and "'D00' is not a block" in warnings[0] and "all blocks are 1" in warnings[0]


def test_a_single_text_encoder_is_varied_and_the_others_keep_theirs():
    meaning = replace(MEANING, family=SDXL)
    base = LIBRARY.vector("ALL,CLIP_G=0.5", SDXL)

    def made(blocks: str) -> Vector:
        given = read_change("Block ID", blocks, meaning) & read_change("values", "0", meaning)
        return LIBRARY.vector(changed(base, given).text, SDXL)

    def of_encoders(vector: Vector) -> tuple[str, ...]:
        return tuple(vector.values.get(name, vector.values["BASE"]) for name in ("CLIP_L", "CLIP_G"))

    assert of_encoders(made("BASE")) == ("0", "0")
    assert of_encoders(made("CLIP_L")) == ("0", "0.5")
    assert of_encoders(made("NOT CLIP_L")) == ("1", "0") and made("NOT CLIP_L").values["IN04"] == "0"
    assert of_encoders(made("IN04")) == ("1", "0.5")
    both = Change(originals=(LIBRARY.vector("NONE,IN04=1", SDXL), LIBRARY.vector("NONE,CLIP_G=0.7", SDXL)))
    assert of_encoders(changed(base, both)) == ("0", "0.7") and changed(base, both).values["IN04"] == "1"


@pytest.mark.parametrize(
    ("family", "blocks", "points", "line"),
    [
        (FLUX, "58ALL", 58, "ANALYZED:" + ",".join(["0.5"] + ["1"] * 57)),
        (SDXL, "26ALL", 20, None),
        (SDXL, "CLIP_G,IN04", 2, "ANALYZED:ALL,CLIP_G=0.5"),
        (WAN, "B03", 1, "ANALYZED:1,BASE=1"),
    ],
)
def test_what_the_analyzer_examines_and_writes(family: Family, blocks: str, points: int, line: str | None):
    messages: list[str] = []
    inquiry = read_inquiry("0,1", blocks, replace(MEANING, family=family), messages.append)
    assert (len(inquiry.points), messages) == (points, [])
    percents = {point.label: 1.0 if index == 0 and points > 1 else 2.0 for index, point in enumerate(inquiry.points)}
    written = preset(inquiry, percents)
    assert written is not None and written == (line or written)
    (name,) = parse_presets(written)[0]
    assert name == "ANALYZED"


@pytest.mark.parametrize(
    ("family", "original", "blocks", "wanted"),
    [
        (SDXL, ",".join(["1"] * 19), None, "0"),  # a value without blocks is for those too that the vector lacks
        (FLUX, ",".join(["1"] * 58), None, "0"),
        (FLUX, ",".join(["1"] * 58), "NOT D03", "ALL,NOT D03=0"),
        (SDXL, "1", "NOT OUT11", "0"),
        (SDXL, ",".join(["0"] * 12), "IN04-OUT11", "NONE,IN04-OUT11=0"),
    ],
)
def test_what_a_vector_lacks_is_varied_too(family: Family, original: str, blocks: str | None, wanted: str):
    meaning = replace(MEANING, family=family)
    given = read_change("values", "0", meaning) & read_change("Original Weights", original, meaning)
    if blocks is not None:
        given &= read_change("Block ID", blocks, meaning)
    made = changed(LIBRARY.vector("1", family), given)
    assert made.complete().values == LIBRARY.vector(wanted, family).complete().values


def test_a_text_too_long_for_a_value_is_left_out_with_one_message():
    messages: list[str] = []
    read_axes({"X": ("values", "0 " * 70_000)}, MEANING, messages.append)
    assert len(messages) == 2 and "is not a value" in messages[0]
