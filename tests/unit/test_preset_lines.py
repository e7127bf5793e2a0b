"""Lines of preset files that look like entries and are none: what the panel says of them, and who uses their names."""

from __future__ import annotations

import pytest

from lbw.plan.plan import build
from lbw.tags import preset_lines
from lbw.tags.elements import parse_rules
from lbw.tags.families import SD1
from lbw.tags.library import Library
from lbw.tags.presets import parse_presets, parse_rule_sets, with_preset
from lbw.tags.prompt import LoraRequest, parse
from tests.unit.model_layers import layers_of

OUTD = "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
SIXTEEN = OUTD[:-2]
WIDE = str.maketrans("0123456789,:=", "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19\uff0c\uff1a\uff1d")

BAD = [
    (f"A:{SIXTEEN}", "16 values"),
    (f"A:{OUTD},", "value 18 of 18: '' is not a value; a comma stands behind the last one"),
    (f"A:{SIXTEEN},", "value 17 of 17: '' is not a value; a comma stands behind the last one"),
    (f"A:{OUTD} # the outer blocks", "a # behind it makes the line a comment; expected the note in a line of its own"),
    (f"A:{OUTD} \uff03 note", "a # behind it makes the line a comment"),
    (f"A:{OUTD};", "value 17 of 17: '0;' is not a value"),
    (f"A:{OUTD.replace('1', 'nan', 1)}", "value 1 of 17: 'nan' is not a value"),
    (f"A:{OUTD.replace('1', 'one', 1)}", "value 1 of 17: 'one' is not a value"),
    (f"A:{OUTD.replace('0,0', ',0', 1)}", "value 2 of 17: '' is not a value; expected one between two commas"),
    ("A:one,two,three", "'one,two,three' is no block weights; expected values, or blocks by name"),
    ("A:", "nothing behind the colon; expected values, or blocks by name"),
    ("A:1", "one value alone is no preset; expected 1,BASE=1"),
    ("A:NONE,OUT03=", "'' is not a value"),
    ("A:NONE,OUTX=1", "'OUTX' is not a block"),
    (f"A\t{OUTD}", "a tab where the colon belongs"),
    (f"A {OUTD}", "a blank where the colon belongs"),
    (f"A {OUTD.replace(',', ' ')}", "a blank where the colon belongs"),
    (f"A={OUTD}", "'=' where the colon belongs"),
    ("A=NONE,OUT03-OUT06=1", "'=' where the colon belongs"),
    (f"A;{OUTD}", "';' where the colon belongs"),
    (f"A\uff1d{OUTD}".translate(WIDE), "'=' where the colon belongs"),
]


def told_when_used(text: str, name: str = "A") -> list[str]:
    messages: list[str] = []
    layers = layers_of("sd1")
    library = Library.read(text, "", "")
    build([LoraRequest("a", weights=name)], {"a": layers}, library, messages.append, model_layers=layers)
    return messages


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_flagged_and_told_when_it_is_used(line: str, reason: str):
    _presets, problems = parse_presets(f"B:{OUTD}\n{line}\n")
    assert [problem.line for problem in problems] == [2]
    assert problems[0].reason.startswith(f"A: {reason}")
    for name in ("A", "a"):
        (message,) = told_when_used(f"B:{OUTD}\n{line}\n", name)
        assert message.startswith(f"<lora:a>: lbw={name}: ") and message.endswith("; all blocks are 1")
        assert reason.partition(";")[0] in message


def test_a_name_may_be_that_of_a_block():
    for line in (f"D={OUTD}", f"OUT\t{OUTD}"):
        assert parse_presets(line)[1][0].reason.endswith(" where the colon belongs")
    assert parse_presets("IN00-IN03=1,OUT03=0") == ({}, []), "blocks by name, without a preset's"


@pytest.mark.parametrize("line", [OUTD, f":{OUTD}"])
def test_values_without_a_name_are_flagged(line: str):
    assert [problem.reason[:14] for problem in parse_presets(line)[1]] == ["no name before"]


@pytest.mark.parametrize(
    "line",
    ["hello", "note: see the wiki", "# A\t1,0,0,0,0,0", "see page 1, 2", "http://a.b/c?d=e", "SDXL presets:", "x = y",
     "1,2,3", "", "\u3000", ",", "=", ":", "Of several: the last"],
)  # fmt: skip
def test_sentences_and_comments_are_not_flagged(line: str):
    assert parse_presets(line) == ({}, [])


def test_a_sentence_is_told_where_its_first_word_is_used_all_the_same():
    (message,) = told_when_used("A: see the wiki\n")
    assert "line 1 of the presets: 'see the wiki' is no block weights" in message


def test_a_sound_line_of_the_same_name_counts():
    text = f"A:{OUTD},\nA:{OUTD}\nA={OUTD}\n"
    assert "of the presets" not in "".join(told_when_used(text))
    assert Library.read(text, "", "").vector("A", SD1).text == OUTD


@pytest.mark.parametrize(
    "line",
    [f"A:{OUTD}".translate(WIDE), f"\uff21:{OUTD}", f"A:{OUTD.replace(',', chr(0x3001))}", f"A\u3000:\u3000{OUTD}",
     f"A:{OUTD.replace(',', chr(0xFF64))}", f"A\t:\t{OUTD}", f"A:{OUTD.replace(',', chr(9))}"],
)  # fmt: skip
def test_signs_of_other_keyboards_are_read_as_what_they_mean(line: str):
    assert parse_presets(line)[1] == []
    assert Library.read(line, "", "").vector("A", SD1).text == OUTD
    assert parse_presets("A:NONE,OUT03=1".translate(WIDE)) == ({"A": ("NONE,OUT03=1",)}, [])


def test_a_name_with_full_width_signs_is_found_by_a_tag_and_as_default_preset():
    name = "\u9854\uff08\u5927\uff09"
    library = Library.read(f"{name}:{OUTD}\n", f"{name}:IN05:attn:0\n", name)
    request = parse(["a", "1", f"lbw={name}", f"lbwe={name}"], lambda message: pytest.fail(message))
    assert library.name_of(request.weights or "") in library.presets
    assert library.rule_set_name(request.elements or "") in library.rule_sets
    assert library.default_preset in library.presets
    text = with_preset(f"{name}:{OUTD}\n", name, OUTD.replace("1", "0.5"))
    assert text == f"{name}:{OUTD.replace('1', '0.5')}\n", "replaced, not doubled"


def test_of_two_lines_of_one_name_the_one_that_never_counts_is_flagged():
    text = f"A:{OUTD}\nA:NONE,OUT03=1\nA:NONE,D00=1\nB:{OUTD}\nA:{OUTD}\nC:{OUTD}\nA:NONE,OUT04=1\n"
    assert [(problem.line, problem.reason) for problem in parse_presets(text)[1]] == [
        (1, "A: line 5 is for the same models, and counts instead"),
        (2, "A: line 7 is for the same models, and counts instead"),
    ]
    assert Library.read(text, "", "").vector("A", SD1).values["OUT04"] == "1"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("A:IN05:attn:1\nB:OUT05:attn:0", 1, "has 4 fields; expected blocks:elements:ratio; is there an empty line"),
        ("B:::1\n\nA=IN05:attn:1", 3, "'=' where the first colon belongs"),
        ("B:::1\n\n# of mine\nA\tIN05:attn:1", 4, "a blank where the first colon belongs"),
        ("A:", 1, "nothing behind the colon; expected blocks:elements:ratio"),
        ("A:IN05:attn:1 # note", 1, "expected the note in a line of its own"),
        ("A:IN05:attn", 1, "has 2 fields"),
        ("A:IN05:attn:nan", 1, "is not a number"),
        ("A:IN05:attn:0\n\nA:::1", 1, "A: line 3 has the same name, and counts instead"),
        (":IN05:attn:0", 1, "no name before the colon"),
    ],
)
def test_bad_rule_sets_are_flagged(text: str, line: int, reason: str):
    (problem,) = parse_rule_sets(text)[1]
    assert problem.line == line and reason in problem.reason


def test_rule_sets_with_full_width_signs_are_read():
    rule_sets, problems = parse_rule_sets("A:IN05-OUT05:attn:0\u3001IN01:proj:0.5\n".translate(WIDE))
    assert problems == [] and len(parse_rules(rule_sets["A"])) == 2


def test_a_file_is_parsed_when_it_changed(monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    check = preset_lines.check_weights
    monkeypatch.setattr(preset_lines, "check_weights", lambda weights: read.append(weights) or check(weights))
    lines = [f"P{i}:{OUTD.replace('1', f'0.{i + 1}')}\n" for i in range(300)]
    for _image in range(3):
        again = "".join(lines)  # as if it was read from the file, or came from the panel
        Library.read(again, "", "").vector("P7", SD1)
        parse_presets(again)
        parse_presets("Q:NONE,OUT05=0.25")  # another user's
    assert len(read) == len(lines) + 1
    parse_presets("".join(lines[1:]))
    assert len(read) == 2 * len(lines)
