"""The functions of the extension's scripts: they read and write what the server reads and writes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from lbw.tags.curves import Curve, Shape, parse_curve, split_keyframes
from lbw.tags.families import KNOWN
from lbw.tags.library import Library
from lbw.tags.limits import MOST_KEYFRAMES
from lbw.tags.positions import Unit, nominal_sigmas, parse_places, step_at
from lbw.tags.presets import DEFAULT_PRESETS
from lbw.tags.prompt import is_strength, parse
from lbw.tags.slips import narrow, split_arguments

ONES = ",".join(["1"] * 17)


# (text, caret, what is set, expected text)
EDITS = [
    ("<lora:a:1>", 3, {"lbw": "OUTD"}, "<lora:a:1:lbw=OUTD>"),
    ("<lyco:a>", 3, {"lbw": "OUTD"}, "<lyco:a:lbw=OUTD>"),
    ("<lora:a:1:lbw=INS:stop=5>", 3, {"lbw": "OUTD"}, "<lora:a:1:lbw=OUTD:stop=5>"),
    ("<lora:a:1:w=INS>", 3, {"lbw": "OUTD"}, "<lora:a:1:lbw=OUTD>"),
    ("<lora:a:1:INS>", 3, {"lbw": "OUTD"}, "<lora:a:1:lbw=OUTD>"),
    ("<lora:a:0.5:0.8:1,0,0>", 3, {"lbw": "OUTD"}, "<lora:a:0.5:0.8:lbw=OUTD>"),
    ("<lora:a:1:lbw=INS>", 3, {"lbw": ""}, "<lora:a:1>"),
    ("<lora:a:1:lbw=INS>", 3, {"lbwe": "XYZ"}, "<lora:a:1:lbw=INS:lbwe=XYZ>"),
    ("<lora:a:1>", 3, {"start": "2", "stop": "8"}, "<lora:a:1:start=2:stop=8>"),
    ("<lora:a:1:step=2-8>", 3, {"stop": "6"}, "<lora:a:1:start=2:stop=6>"),
    ("<lora:a:1:step=-8>", 3, {"start": "3"}, "<lora:a:1:stop=8:start=3>"),
    ("<lora:a:1:step=5>", 3, {"stop": "9"}, "<lora:a:1:start=5:stop=9>"),
    ("<lora:a:1:start=2:stop=8>", 3, {"start": "", "stop": ""}, "<lora:a:1>"),
    ("<lora:a:1>  <lora:b:1>", 11, {"lbw": "X"}, "<lora:a:1:lbw=X>  <lora:b:1:lbw=X>"),
    ("<lora:a:1> <lora:b:1>", 14, {"lbw": "X"}, "<lora:a:1> <lora:b:1:lbw=X>"),
    ("<lora:one:1:lbw=FACE>, <lora:two:1>", 35, {"lbw": "X"}, "<lora:one:1:lbw=FACE>, <lora:two:1:lbw=X>"),
    ("<lora:one:1:lbw=FACE>, <lora:two:1>", 21, {"lbw": "X"}, "<lora:one:1:lbw=X>, <lora:two:1>"),
    ("<lora:one:1:lbw=FACE>, <lora:two:1>", 23, {"lbw": "X"}, "<lora:one:1:lbw=FACE>, <lora:two:1:lbw=X>"),
    ("<lora:a:1><lora:b:1>", 10, {"lbw": "X"}, "<lora:a:1:lbw=X><lora:b:1>"),
    ("<lora:a:1><loractl:b:0@0,1@1:lbw=Y>", 15, {"lbw": "X"}, "<lora:a:1><loractl:b:0@0,1@1:lbw=X>"),
    ("<lora:a:1: lbw=FACE>", 3, {"lbw": "X"}, "<lora:a:1:lbw=X>"),
    ("<lora:a:1:lbw = FACE : stop = 5>", 3, {"lbw": "X", "stop": "6"}, "<lora:a:1:lbw=X:stop=6>"),
    ("<lora:a:1:LBW=FACE:End=5>", 3, {"lbw": "X", "stop": "6"}, "<lora:a:1:lbw=X:stop=6>"),
    ("<lora:a:1:step_end=5:preset=FACE>", 3, {"lbw": "X", "stop": ""}, "<lora:a:1:lbw=X>"),
    ("<lora:a:1:lbw=FACE,stop=5>", 3, {"lbw": "X"}, "<lora:a:1:lbw=X:stop=5>"),
    ("<lora:a:1:FACE:stop:5>", 3, {"lbw": "X", "stop": "6"}, "<lora:a:1:lbw=X:stop=6>"),
    ("<lora:a\uff1a1\uff1albw\uff1dFACE>", 3, {"lbw": "X"}, "<lora:a:1:lbw=X>"),
    ("<lora:a:\uff10.\uff15:FACE>", 3, {"lbw": "X"}, "<lora:a:0.5:lbw=X>"),
    ("<lora:a:1:5-15>", 3, {"lbw": "X", "stop": "9"}, "<lora:a:1:start=5:stop=9:lbw=X>"),
    ("<lora:a:1:lbwe=IN05-OUT05:attn:0:FACE>", 3, {"lbw": "X"}, "<lora:a:1:lbwe=IN05-OUT05:attn:0:lbw=X>"),
    ("<lora:a:1:lbwe=IN05-OUT05:attn:0>", 3, {"lbwe": "XYZ"}, "<lora:a:1:lbwe=XYZ>"),
    ("<lora:a:1:lbwe=XYZ:FACE:1>", 3, {"lbwe": ""}, "<lora:a:1:FACE:1>"),
    ("<lora:a::lbw=FACE:>", 3, {"lbw": "X"}, "<lora:a:lbw=X>"),
    ("<lora:a:weight=0.5>", 3, {"strength": "0@0,1@1"}, "<lora:a:0@0,1@1>"),
    ("<hypernet:a:1> (b:1.2)", 3, {"lbw": "X"}, "<hypernet:a:1> (b:1.2)"),
    ("", 0, {"lbw": "X"}, ""),
    ("<lora:a", 3, {"lbw": "X"}, "<lora:a"),
    ("\u732b <lora:\u732b:1>", 6, {"lbw": "\u7d75"}, "\u732b <lora:\u732b:1:lbw=\u7d75>"),
    ("<lora:a:1:te=0:dyn=4>", 3, {"lbw": "X"}, "<lora:a:1:te=0:dyn=4:lbw=X>"),
    ("<lora:a:0@0,1@1>", 3, {"lbw": "X"}, "<lora:a:0@0,1@1:lbw=X>"),
    ("<lora:a:1:lbw=X:curve=step>", 3, {"strength": "0@0,1@1", "curve": ""}, "<lora:a:0@0,1@1:lbw=X>"),
    ("<lora:a>", 3, {"strength": "0@0,1@1", "curve": "step"}, "<lora:a:0@0,1@1:curve=step>"),
    ("<lora:a:1:0.5:8:te=1:unet=0>", 3, {"strength": "0@0,1@1"}, "<lora:a:0@0,1@1:0@0,1@1:8>"),
    ("<lora:a:INS:1>", 3, {"strength": "0@0;1@1"}, "<lora:a:INS:0@0;1@1>"),
    ("<lora:a:1:lbw=NONE,OUT03=1,M00=0.5:stop=3>", 3, {"lbw": "X"}, "<lora:a:1:lbw=X:stop=3>"),
    ("<lora:a:1:NONE,OUT03=1>", 3, {"lbw": "X"}, "<lora:a:1:lbw=X>"),
    ("<lora:a:1:IN=0:stop=3>", 3, {"lbw": "X", "stop": "5"}, "<lora:a:1:lbw=X:stop=5>"),
    ("<lora:a:1>", 3, {"lbw": "NONE,OUT=1"}, "<lora:a:1:lbw=NONE,OUT=1>"),
    ("<lora:a:1:unet=0>", 3, {"unet": "0@0,1@1"}, "<lora:a:1:unet=0@0,1@1>"),
    ("<lora:a:1:lbw=NONE,CLIP=1>", 3, {"stop": "5"}, "<lora:a:1:lbw=NONE,CLIP=1:stop=5>"),
    ("<lora:a:1:NONE,FIRST=1:LAST=0>", 3, {"lbw": "X"}, "<lora:a:1:lbw=X>"),
    ("<lora:a:0,5>", 3, {"lbw": "OUTD"}, "<lora:a:0.5:lbw=OUTD>"),
    ("<lora:a:unet=0\uff0c5:lbw=0,5>", 3, {"stop": "5"}, "<lora:a:unet=0.5:lbw=0,5:stop=5>"),
    ("<lora:a:1:lbw=OUTD stop=5>", 3, {"lbw": "INS"}, "<lora:a:1:lbw=INS:stop=5>"),
    ("<lora:a:1:lbw=OUTD;stop=5>", 3, {"stop": "7"}, "<lora:a:1:lbw=OUTD:stop=7>"),
    ("<lora:a:1:OUTD | stop=5>", 3, {"lbw": "INS"}, "<lora:a:1:lbw=INS:stop=5>"),
    ("<lora:a:1:OUTD\uff1bstop\uff1d5>", 3, {"lbw": "INS"}, "<lora:a:1:lbw=INS:stop=5>"),
    ("<lora:a:1:lbw=OUTD\uff64stop=5>", 3, {"lbw": "INS"}, "<lora:a:1:lbw=INS:stop=5>"),
]


def test_arguments_are_set_as_people_would_type_them(scripts: Page):
    found = scripts.evaluate(
        "edits => edits.map(([text, caret, values]) => lbwPrompt.setArguments(text, caret, values).text)",
        [list(edit[:3]) for edit in EDITS],
    )
    assert found == [edit[3] for edit in EDITS]


def test_what_is_not_set_is_to_the_server_what_it_was(scripts: Page):
    tags = [text for text, _, _, _ in EDITS if re.fullmatch(r"<lora:[^>]*>", text)]
    assert len(tags) > 40
    for key in ("lbw", "dyn"):
        found = scripts.evaluate(
            "([tags, key]) => tags.map(tag => lbwPrompt.setArguments(tag, 3, {[key]: '7'}).text)", [tags, key]
        )
        for before, after in zip(tags, found, strict=True):
            (positional, named), (positional_after, named_after) = map(arguments_of, (before, after))
            if key == "lbw":
                positional = [item for item in positional if is_strength(item)]
                named.pop("w", None)
            assert ([item.strip() for item in positional_after], named_after) == (
                [item.strip() for item in positional], {**named, key: "7"}
            ), (before, after)


def arguments_of(tag: str) -> tuple[list[str], dict[str, str]]:
    return split_arguments(narrow(tag)[1:-1].split(":")[2:])


# (tag, which strength, its text and shape)
STRENGTHS = [
    ("<lora:a:0@0,1@1:curve=cosine>", "strength", ["0@0,1@1", "cosine"]),
    ("<lora:a:1:0@0,1@1>", "strength", ["0@0,1@1", ""]),
    ("<lora:a:INS:1:0.5:unet=0.2>", "unet", ["0.2", ""]),
    ("<lora:a>", "unet", ["1", ""]),
    ("<lora:a:0.5:hr=1@0,0@1>", "hr", ["1@0,0@1", ""]),
    ("<lora:a:0.5>", "hr", ["0.5", ""]),
    ("<lora:a: UNET = 0.2 : Curve=step>", "unet", ["0.2", "step"]),
    ("<lora:a:weight=0.3>", "strength", ["0.3", ""]),
    ("<lora:a:\uff10.\uff15>", "strength", ["0.5", ""]),
    ("<lora:a:0,5>", "strength", ["0.5", ""]),
]


def test_strengths_are_found_where_the_host_would_look_for_them(scripts: Page):
    found = scripts.evaluate(
        "tags => tags.map(([tag, key]) => lbwPrompt.getArgument(`x ${tag} <lora:b:9>`, 0, key))",
        [list(item[:2]) for item in STRENGTHS],
    )
    assert [[item["text"], item["shape"]] for item in found] == [item[2] for item in STRENGTHS]
    assert scripts.evaluate("lbwPrompt.getArgument('<lora:a:1> <lora:b:9>', 14, 'strength').name") == "b"
    assert scripts.evaluate("lbwPrompt.getArgument('a cat', 0, 'strength')") is None


# (tag, which block weights, their text)
BLOCK_WEIGHTS = [
    ("<lora:a:1:lbw=NONE@0,OUTD@0.5>", "lbw", "NONE@0,OUTD@0.5"),
    ("<lora:a:1:w=INS>", "lbw", "INS"),
    ("<lora:a:1:NONE,OUT03=1@0;1,0@1:curve=step>", "lbw", "NONE,OUT03=1@0;1,0@1"),
    ("<lora:a:1:lbw=INS:hrlbw=OUTD@0,ALL@1>", "hrlbw", "OUTD@0,ALL@1"),
    ("<lora:a:1:lbw=INS:lbw=OUTD>", "hrlbw", "OUTD"),
    ("<lora:a:1:stop=5>", "lbw", None),
]


def test_block_weights_are_found_where_the_server_finds_them(scripts: Page):
    for tag, key, weights in BLOCK_WEIGHTS:
        found = scripts.evaluate("([tag, key]) => lbwPrompt.getArgument(tag, 3, key).text", [tag, key])
        assert found == weights, tag
        request = parse(narrow(tag)[len("<lora:") : -1].split(":"), lambda _message: None)
        assert request.in_pass(key == "hrlbw").weights == weights, tag


# Positions of one curve each.
POSITIONS = [
    ["0", "1"], ["0", "1", "2"], ["0.5", "1.0", "12"], ["0", "50%", "100 %"], ["1.", ".5", "00"], ["2.5", "7"],
    ["14.6sigma", "2 sigma", ".5sigma", "0sigma"], ["1", "1.0"], ["1e1", "0"], ["-1"], ["+1"], ["120%"], ["half", "1"],
    [""], ["0x10"], ["14sigma", "1"], ["2sigma", "50%"], ["1000000", "0"], ["1000001"], ["1sigmas"], ["1Sigma"],
    ["0" * 40 + "sigma"], ["0" * 47], ["\u0661"],
]  # fmt: skip


def said_by(read: Callable[[], Any]) -> Any:
    """What is read, or why it cannot be."""
    try:
        return read()
    except ValueError as error:
        return str(error)


def test_positions_mean_to_the_panel_what_they_mean_to_the_server(scripts: Page):
    found = scripts.evaluate(
        """tables => tables.map(texts => {
            try {
                return lbwCurves.places(texts).map(({value, unit}) => [value, unit]);
            } catch (error) {
                return error.message;
            }
        })""",
        POSITIONS,
    )
    for texts, made in zip(POSITIONS, found, strict=True):
        meant = said_by(lambda texts=texts: [[place.value, place.unit.value] for place in parse_places(texts)])
        assert made == meant, texts
    assert sum(isinstance(made, str) for made in found) > 10


KEYFRAMES = [
    "NONE@0,OUTD@0.5", "1,0,0.5@0;0,1,1@1", "A@0,B", "A~0~1", "A@0,,B@1", "A@0, NONE,OUT03=1 @ 50% ;C@1", "@", "A@",
    "A@0,",
]


def test_keyframes_are_to_the_panel_what_they_are_to_the_server(scripts: Page):
    found = scripts.evaluate("texts => texts.map(lbwCurves.split)", KEYFRAMES)
    assert found == [[list(pair) for pair in split_keyframes(text)] for text in KEYFRAMES]
    assert scripts.evaluate("lbwCurves.MOST_POINTS") == MOST_KEYFRAMES
    assert scripts.evaluate("lbwCurves.SHAPES") == [shape.value for shape in Shape]


LINES = [
    "0.2@14sigma,1@2.5sigma,-0.5@0.5sigma,0@0.01sigma", "1@20sigma,0@0sigma", "0@0.1,1@0.4,1@0.4,0.3@90%", "0@2,1@17",
]


def test_a_line_is_drawn_where_the_curve_goes(scripts: Page):
    """Between two points it is as the engine has it: linear in the noise level, so bent on a logarithmic axis."""
    for text, shape in itertools.product(LINES, Shape):
        curve = parse_curve(text, shape)
        has_levels = curve.positions[0].unit is Unit.SIGMA
        corners, drawn, values = scripts.evaluate(
            """([text, shape]) => {
                const {points, unit, steps} = lbwCurves.parse(text, 20, lbwCurves.weightOf);
                const axis = lbwCurves.axisOf(unit, steps, 20);
                const line = lbwCurves.line(points, shape, axis)
                    .map(([place, value]) => [place, axis.atOf(place), value]);
                const ats = Array.from({length: 41}, (_, index) => axis.atOf(index / 40));
                const values = ats.map(at => [at, lbwCurves.valueAt(points, shape, unit, at)]);
                return [points.map(point => axis.placeOf(point.at)), line, values];
            }""",
            [text, shape.value],
        )
        assert [value for _, value in values] == pytest.approx([value_at(curve, at) for at, _ in values])
        inside = [each for each in drawn if all(abs(each[0] - corner) > 1e-6 for corner in corners)]
        assert [value for _, _, value in inside] == pytest.approx([value_at(curve, at) for _, at, _ in inside])
        is_bent = shape is Shape.COSINE or (shape is Shape.LINEAR and has_levels)
        assert (len(inside) >= 48) == is_bent, text
        assert {place for place, _, _ in drawn} >= {0, *corners, 1}


def value_at(curve: Curve, at: float) -> float:
    """What a curve is at a noise level, or at a share of a pass of 20 steps."""
    if curve.positions[0].unit is Unit.SIGMA:
        return curve.value(0, 1, (at,))
    return curve.value(at * 19, 20)  # type: ignore[arg-type]


def test_units_are_converted_by_the_schedule_that_the_server_takes_for_usual(scripts: Page):
    for steps in (2, 20, 33):
        levels = nominal_sigmas(steps)
        shares = [step / (steps - 1) for step in range(steps)]
        found = scripts.evaluate("shares => shares.map(share => lbwCurves.converted(share, 'share', 'sigma'))", shares)
        assert found == pytest.approx(levels)
        back = scripts.evaluate("all => all.map(level => lbwCurves.converted(level, 'sigma', 'step'))", list(levels))
        assert back == pytest.approx([step_at(level, levels) / (steps - 1) for level in levels], abs=1e-9)
    assert scripts.evaluate("[100, 0].map(level => lbwCurves.converted(level, 'sigma', 'share'))") == [0, 1]


# (curve, steps of the tab, what the editor makes of it: positions and weights, the text that it writes)
CURVES = [
    ("0@0,1@0.5,0@1", 20, [[0, 0], [0.5, 1], [1, 0]], "0@0,1@0.5,0@1"),
    ("0@0;1@25%;-0.5@100%", 20, [[0, 0], [0.25, 1], [1, -0.5]], "0@0,1@0.25,-0.5@1"),
    ("1@0.5,0@0", 20, [[0, 0], [0.5, 1]], "0@0,1@0.5"),
    ("0@0,1", 20, [[0, 0], [1, 1]], "0@0,1@1"),
    ("0.7", 20, [[0, 0.7], [1, 0.7]], "0.7@0,0.7@1"),
    ("0~0,1~1", 20, [[0, 0], [1, 1]], "0@0,1@1"),
    ("0@0,1@1,0.5@10", 11, [[0, 0], [0.1, 1], [1, 0.5]], "0@0,1@1,0.5@10"),
    ("0@0,1@30", 20, [[0, 0], [1, 1]], "0@0,1@30"),
    ("1@2.50sigma,0@14sigma", 20, [[14, 0], [2.5, 1]], "0@14sigma,1@2.5sigma"),
    ("0@0,0.5@0.5,1@10", 11, [[0, 0], [0.5, 0.5], [1, 1]], "0@0,0.5@5,1@10"),
    ("0@1.0,1@10", 21, [[0.5, 1], [1, 0]], "1@10,0@20"),
    ("0@14sigma,1@0.5", 20, None, None),
    ("0@14sigma,1", 20, None, None),
    ("1e9@0", 20, None, None),
    ("0x1@0", 20, None, None),
    ("0@-1,1@1", 20, None, None),
    ("0@120%,1@1", 20, None, None),
    ("OUTD@0,1@1", 20, None, None),
    ("", 20, None, None),
]


def test_a_curve_is_read_and_written_as_the_grammar_says(scripts: Page):
    for curve, steps, points, text in CURVES:
        found = scripts.evaluate(
            """([text, steps]) => {
                try {
                    return lbwCurves.parse(text, steps, lbwCurves.weightOf);
                } catch (error) {
                    return error instanceof lbwBlockWeights.Unreadable ? null : error.message;
                }
            }""",
            [curve, steps],
        )
        if points is None:
            assert found is None, curve
            continue
        flat = [value for point in found["points"] for value in (point["at"], point["value"])]
        assert flat == pytest.approx([value for point in points for value in point])
        written = scripts.evaluate("found => lbwCurves.format(found.points, found.unit, found.steps)", found)
        assert written == text
        for step in range(found["steps"]):
            meant, made = (parse_curve(each).value(step, found["steps"]) for each in (curve, written))
            assert made == pytest.approx(meant), curve


def test_positions_that_are_no_whole_steps_are_never_written_too_late(scripts: Page):
    points = [{"at": step / 29, "value": 1} for step in range(30)]
    text = scripts.evaluate("points => lbwCurves.format(points, 'share', 30)", points)
    for step, item in enumerate(text.split(",")):
        assert step - 0.01 <= float(item.partition("@")[2]) * 29 <= step + 1e-9


def test_in_a_pass_of_two_steps_a_step_is_written_as_a_share(scripts: Page):
    assert scripts.evaluate("lbwCurves.format([{at: 0, value: 0}, {at: 1, value: 1}], 'step', 2)") == "0@0,1@1"


def test_the_cursor_stays_where_it_was(scripts: Page):
    carets = scripts.evaluate("""() => [
        lbwPrompt.setArguments('<lora:a:1> x', 3, {lbw: 'AB'}).caret,
        lbwPrompt.setArguments('<lora:a:1> x', 12, {lbw: 'AB'}).caret,
        lbwPrompt.setArguments('x <lora:a:1>', 1, {lbw: 'AB'}).caret,
    ]""")
    assert carets == [len("<lora:a:1:lbw=AB"), len("<lora:a:1:lbw=AB> x"), 1]


# (family, text)
WEIGHTS = [
    ("SD1/SD2", ONES), ("SD1/SD2", "0"), ("SD1/SD2", "0.5"), ("SD1/SD2", "ALL"), ("SD1/SD2", "MIDD"),
    ("SD1/SD2", "NONE,OUT06-OUT03=1,M0=0.5"), ("SD1/SD2", "INS, M OUT=X+0.2 ,base = R"), ("SD1/SD2", "NOT BASE=0"),
    ("SD1/SD2", "NONE,in4-out5=0.5,FIRST=-1"), ("SD1/SD2", "ALL,input_blocks.3-input_blocks.5 M=0.25"),
    ("SDXL", "INS"), ("SDXL", "NONE,CLIP_G=0.5"), ("SDXL", "ALL,CLIP_G=0,BASE=0.5,CLIP_L=1"), ("SDXL", "NOT CLIP_L=0"),
    ("SD3", "IND"), ("SD3", "NOT IN=0.3"), ("SD3", "joint_blocks.2-joint_blocks.14=0.3"), ("SD3.5 large", "IND"),
    ("Flux", "OUTS"), ("Flux", "NONE,BASE=1"), ("Flux", "NONE,d3-S5=0.7,T5=1"), ("Flux", "NOT LAST=0"),
    ("Flux", " ".join(["0.5"] * 58)), ("Flux", ",".join(["1", "0"] * 30 + ["1"])), ("Flux.2", "\n".join(["0.5"] * 57)),
    ("Flux.2 Klein 9B", "NONE,D00-D18 S3=1"), ("Qwen-Image", "NONE,B10-B20 IN=1"), ("Z-Image", "NONE,N L4=0.5"),
]  # fmt: skip


def test_a_text_means_in_the_browser_what_it_means_in_a_tag(scripts: Page):
    library = Library.read(DEFAULT_PRESETS, "", "")
    found = scripts.evaluate(
        """async([texts, lines]) => {
            const {answer} = await lbwServer.ask("families");
            const families = lbwBlockWeights.families(answer);
            return texts.map(([title, text]) => {
                const family = families.find(each => each.title === title);
                const {blocks} = lbwBlockWeights.read(text, family, new Map(lines));
                return [blocks, lbwBlockWeights.byName(family, blocks)];
            });
        }""",
        [WEIGHTS, [[name, list(texts)] for name, texts in library.presets.items()]],
    )
    families = {family.title: family for family in KNOWN}
    for (title, text), (blocks, named) in zip(WEIGHTS, found, strict=True):
        vector = library.vector(text, families[title]).complete()
        assert blocks == vector.values, (title, text)
        assert named == vector.by_name(), (title, text)
        assert library.vector(named, families[title]).complete().values == vector.values, (title, text)


def test_the_new_tag_counts_in_all_steps(scripts: Page):
    prompts = {
        "a <lora:x:1> b, <lora:y:0.5>": "a <lora:new:1> b",
        "a [<lora:x:1>:<lora:y:0.5>:0.5]": "a [::0.5] <lora:new:1>",
        r"a \[ <lora:x:1> <lora:y:0.5>": r"a \[ <lora:new:1>",
        "a <lora:x:1>": None,
    }
    replaced = scripts.evaluate(
        "all => all.map(text => lbwPrompt.replaceTags(text, ['<lora:x:1>', '<lora:y:0.5>'], '<lora:new:1>'))",
        [*prompts],
    )
    assert replaced == [*prompts.values()]
