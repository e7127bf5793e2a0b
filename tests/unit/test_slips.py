"""Slips in tags: what people wrote (the inputs are from public reports), and what it means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.plan import windows
from lbw.plan.plan import Pass, build
from lbw.tags.families import family_of_layers
from lbw.tags.library import Library
from lbw.tags.positions import Position, Unit
from lbw.tags.presets import DEFAULT_PRESETS
from lbw.tags.prompt import LoraRequest, parse
from lbw.tags.schedule import Window
from lbw.tags.slips import KEYS, key_of
from tests.unit.model_layers import layers_of

LIBRARY = Library.read(DEFAULT_PRESETS, "ATTNDEEPOFF:IN05-OUT05:attn:0\n", "")


WIDE = "demo:" + "".join(chr(ord(sign) - ord("!") + 0xFF01) for sign in "1:lbw=OUTD:stop=5")
"""As keyboards for Japanese and Chinese write it."""


def read(tag: str) -> tuple[LoraRequest, list[str]]:
    messages: list[str] = []
    return parse(tag.split(":"), messages.append), messages


def window(start: float | None = None, stop: float | None = None, unit: Unit = Unit.STEP) -> Window:
    return Window(*(None if end is None else Position(end, unit) for end in (start, stop)))


@pytest.mark.parametrize(
    ("tag", "meant"),
    [
        ("demo:1: lbw=OUTD", "demo:1:lbw=OUTD"),
        ("demo:1:LBW=OUTD", "demo:1:lbw=OUTD"),
        ("demo:1:Lbw =OUTD", "demo:1:lbw=OUTD"),
        ("demo:1:STOP=5", "demo:1:stop=5"),
        ("demo:1:start=0:end=0.25", "demo:1:start=0:stop=0.25"),
        ("demo:1:begin=3:until=5", "demo:1:start=3:stop=5"),
        ("demo:1:from=3:to=5", "demo:1:start=3:stop=5"),
        ("demo:1:step_end=2", "demo:1:stop=2"),
        ("demo:1:start-step=2", "demo:1:start=2"),
        ("demo:weight=0.7", "demo:0.7"),
        ("demo:weight=0.7:unet=0.5", "demo:0.7:unet=0.5"),
        ("demo:1:1::OUTD", "demo:1:1:OUTD"),
        ("demo::lbw=OUTD", "demo:lbw=OUTD"),
        ("demo:1:lbw=OUTD:", "demo:1:lbw=OUTD"),
        ("demo:1.0:5-15", "demo:1.0:step=5-15"),
        ("demo:1:0.2-80%", "demo:1:step=0.2-80%"),
        (WIDE, "demo:1:lbw=OUTD:stop=5"),
        ("demo:1:1\uff0c0\u30010\uff0c1", "demo:1:1,0,0,1"),
    ],
)
def test_what_has_one_meaning_only_is_read_as_that(tag: str, meant: str):
    assert read(tag) == read(meant) and read(tag)[1] == []


@pytest.mark.parametrize(
    ("tag", "meant", "told"),
    [
        ("demo:1:lbw=OUTD:stop:5", "demo:1:lbw=OUTD:stop=5", "stop:5: expected stop=5, as which it is read"),
        ("demo:1:lbw:OUTD", "demo:1:lbw=OUTD", "lbw:OUTD: expected lbw=OUTD, as which it is read"),
        ("demo:te:0.3", "demo:te=0.3", "te:0.3: expected te=0.3, as which it is read"),
        ("demo:1:te=0", "demo:0:0", "1: the tag also has te=0, which is used for both; unet=1 would keep the U-Net's"),
        ("demo:0.8:0.3:te=0", "demo:0:0.3", "0.8: the tag also has te=0, which is used"),
        ("demo:0,5", "demo:0.5", "0,5: a decimal comma; expected a point; 0.5 is used"),
        ("demo:te=0,5", "demo:te=0.5", "0,5: a decimal comma; expected a point; 0.5 is used"),
        ("demo:1:lbw=OUTD,stop=5", "demo:1:lbw=OUTD:stop=5",
         "lbw=OUTD,stop=5: a comma before stop=; expected a colon, as which it is read"),
        ("demo:1:stop=5,START=2", "demo:1:start=2:stop=5",
         "stop=5,START=2: a comma before START=; expected a colon, as which it is read"),
        ("demo:1:lwb=OUTD", "demo:1", "lwb=OUTD: there is no key 'lwb'; the nearest is lbw=; it is left out"),
        ("demo:1:stpo=5", "demo:1", "stpo=5: there is no key 'stpo'; the nearest is stop=; it is left out"),
        ("demo:1:start=0.5:stop=1", "demo:1:start=0.5:stop=100%",
         "stop=1: the start is a share of the pass, so that this is its end, 1.0"),
        ("demo:1:step=2-6:start=4", "demo:1:step=2-6", "start=4: the tag also has step=2-6, which is used"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_read_and_told(tag: str, meant: str, told: str):
    found, messages = read(tag)
    assert found == read(meant)[0]
    assert messages == [f"<lora:demo>: {told}"]


@pytest.mark.parametrize(
    ("rules", "ratio"),
    [("IN05-OUT05:attn:0", 0.0), ("IN05-OUT05:attn:0,IN07:attn:0.5", 0.5), ("::0.25", 0.25), ("NOT BASE::0.5", 0.5)],
)
def test_rules_may_stand_in_the_tag_itself(rules: str, ratio: float):
    layers = layers_of("sd1")
    messages: list[str] = []
    request = parse(f"a:1:lbwe={rules}:stop=3".split(":"), messages.append)
    plan = build([request], {"a": layers}, LIBRARY, messages.append, model_layers=layers)
    (layer,) = [each for each in layers if "input_blocks_7_" in each and each.endswith("attn1_to_q")]
    assert plan.terms[layer][0].ratio == ratio and messages == []
    assert request.schedule.windows == (window(stop=3),)


def test_the_name_of_a_rule_set_takes_nothing_of_what_follows():
    found, messages = read("a:lbwe=ATTNDEEPOFF:1:0.5")
    assert (found.elements, found.te_multiplier, found.unet_multiplier, messages) == ("ATTNDEEPOFF", 1, 0.5, [])


@pytest.mark.parametrize(
    ("weights", "meant", "told"),
    [
        ("outd", "OUTD", None),
        ("OutAll", "OUTALL", None),
        ("OUTDD", None, "no preset of this name; the nearest is OUTD; expected one of NONE, ALL"),
        ("none", "NONE", None),
    ],
)
def test_a_preset_is_found_in_any_case_and_the_nearest_is_named(weights: str, meant: str | None, told: str | None):
    layers = layers_of("sd1")
    messages: list[str] = []
    plan = build([LoraRequest("a", weights=weights)], {"a": layers}, LIBRARY, messages.append, model_layers=layers)
    wanted = build([LoraRequest("a", weights=meant)], {"a": layers}, LIBRARY, print, model_layers=layers)
    assert plan.terms == wanted.terms
    assert told is None or [told in message for message in messages] == [True]


def test_of_two_names_that_differ_in_case_only_neither_is_guessed():
    library = Library.read("Face:IN=1,M=0\nFACE:IN=0,M=1\n", "", "")
    assert not library.knows("face") and library.knows("FACE")


@pytest.mark.parametrize(
    ("tag", "first", "hires"),
    [
        ("a:1:step=2-3:hrstop=7", window(2, 3), window(2, 7)),
        ("a:1:step=2-3:hrstart=4", window(2, 3), window(4)),
        ("a:1:start=2:hrstep=4-", window(2), window(4)),
        ("a:1:stop=6:hrstep=2-4", window(stop=6), window(2, 4)),
    ],
)
def test_a_hires_key_replaces_its_end_of_the_window(tag: str, first: Window, hires: Window):
    found, messages = read(tag)
    assert found.schedule.windows == (first,) and found.in_pass(True).schedule.windows == (hires,)
    assert messages == []


@pytest.mark.parametrize(
    ("text", "unit"), [("1.0", Unit.SHARE), ("1", Unit.STEP), ("0.0", Unit.SHARE), ("0", Unit.STEP)]
)
def test_a_number_with_a_point_is_a_share(text: str, unit: Unit):
    (found,) = read(f"a:1:stop={text}")[0].schedule.windows
    assert found.stop is not None and found.stop.unit is unit


ITEMS = st.sampled_from([
    "1", "0.5", "lbw=OUTD", "LBW=INS", "OUTD", "stop=5", "stop", "5", "end=0.75", "foo=3", "x=2", "", " ", "5-15",
    "0,7", "lbw=NONE,OUT03=1", "lbwe=IN05:attn:0", "te=0.25", "hr=0.3", "curve=step", "0@0,1@1", "X=0.5",
    "lbw=NONE,OUT03=X", "lbw=NONE@0,OUTD@1", "lbwe=IN05:nothing:0", "hrlbw=NONE,OUT04=X", "hrunet=1@0,0@1",
    "stop=6,start=2", "dyn=8", "=", "a=b=c", "in=0", "weight=2", "step=2-4",
])  # fmt: skip


SAYS_THE_DEFAULT = ("1",)


@given(st.lists(ITEMS, max_size=6))
def test_every_argument_takes_effect_or_is_told(items: list[str]):
    """Without an argument, the weights or strengths in a pass would be others, or there is a message less."""
    tag = ["a", *":".join(items).split(":")] if items else ["a"]
    layers = tuple(sorted(layers_of("sd1")))[::9]

    def outcome(arguments: list[str]) -> tuple[Any, list[str]]:
        messages: list[str] = []
        request = parse(arguments, messages.append)
        plans = [
            build([request.in_pass(is_hires)], {"a": layers}, LIBRARY, messages.append, model_layers=layers)
            for is_hires in (False, True)
        ]
        weights = [[(*plan.coefficients(step, 30).items(),) for step in range(30)] for plan in plans]
        return (weights, [strengths(request.in_pass(is_hires)) for is_hires in (False, True)]), messages

    def strengths(request: LoraRequest) -> tuple[Any, ...]:
        """What may have no effect because block weights are 0 there."""
        multipliers = request.te_multiplier, request.unet_multiplier, request.dyn_dim
        return multipliers, request.te_schedule, request.schedule

    whole = outcome(tag)
    for index in range(1, len(tag)):
        rest = tag[:index] + tag[index + 1 :]
        if tag[index].strip() and tag.count(tag[index]) == 1 and tag[index] not in SAYS_THE_DEFAULT:
            assert outcome(rest) != whole, (tag[index], whole)


@pytest.mark.parametrize(
    ("tag", "meant"), [("a:1:weight=0.5", "a:0.5"), ("a:0.8:weight=0.5", "a:0.5"), ("a:0.8:0.3:strength=0.5", "a:0.5")]
)
def test_a_strength_with_a_key_counts_for_both(tag: str, meant: str):
    found, messages = read(tag)
    assert found == read(meant)[0]
    assert ["which is used" in message for message in messages] == [True] * (tag.count("0.8") + tag.count("0.3"))


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("a:1:0.5:8:2", "2: three numbers are expected at most, te, unet and rank; it is left out"),
        ("a:lbwe=IN05:nothing:0", "its rules are for no layer of this SD1/SD2 model, so they have no effect"),
        ("a:lbw=XYZ", "lbw=XYZ: it is filled in by the XYZ plot, which is off; all blocks are 1"),
        ("a:lbwe=XYZ", "lbwe=XYZ: it is filled in by the XYZ plot, which is off; the tag works without it"),
        ("a:start=5:stop=5", "its start is not before its stop, so it is never on in the U-Net"),
        ("a:start=50", "start=50: the pass has 8 steps; it is never on in the U-Net"),
    ],
)
def test_what_has_no_effect_is_told(tag: str, told: str):
    request, messages = read(tag)
    layers = layers_of("sd1")
    plan = build([request], {"a": layers}, LIBRARY, messages.append, model_layers=layers)
    messages += windows.told_before(Pass(plan, 8))
    assert [told in message for message in messages] == [True], messages


def test_a_preset_that_is_called_like_a_value_takes_its_place_in_its_own_case_only():
    library = Library.read("r:NONE,IN05=1\nX:NONE,IN05=1", "", "")
    assert [library.name_of(name) for name in ("r", "R", "X", "x")] == ["r", "R", "X", "X"]
    assert library.texts("R") == ("R",) and library.texts("X") == ("NONE,IN05=1",)


def test_a_share_stays_one_in_a_curve_of_steps():
    curves = [read(f"a:{text}")[0].schedule.curves[0] for text in ("1@0,0@1.0,1@4", "1@0,0@1,1@4")]
    assert [curve.positions[1] for curve in curves] == [Position(1, Unit.SHARE), Position(1)]


@pytest.mark.parametrize("dash", "-\u30fc\u301c\uff5e\u2013\u2014~")
def test_a_range_may_have_any_dash(dash: str):
    assert read(f"a:1:5{dash}15") == read("a:1:step=5-15") == read(f"a:1:step=5{dash}15")


@pytest.mark.parametrize("text", ["a:1" + " " * 200_000 + "x", "a" + ":" * 900_000, "a:" + "x=1 " * 100_000])
def test_a_tag_of_any_length_is_read_in_time(text: str):
    """In seconds where each character costs what the others do, in hours where not."""
    assert parse(text.split(":"), lambda _message: None).name == "a"


def test_names_of_any_length_are_looked_for_in_time():
    name = "".join(map(chr, range(0x100, 0x180))) * 400
    library = Library.read("\n".join([f"{name}:1,1", *(f"P{i}:NONE,IN=1" for i in range(20_000))]), "", "")
    for number in range(200):
        with pytest.raises(ValueError, match="no preset of this name"):
            library.vector(f"q{number}{name[::-1]}", family_of_layers(layers_of("sd1")))


@given(st.text(alphabet="0123456789,.:;|=@~%- abelostwpxLBW\uff10\uff1a\uff1d\u3001", max_size=120))
def test_no_tag_fails(text: str):
    messages: list[str] = []
    request = parse(["a", *text.split(":")], messages.append)
    build([request], {"a": ()}, LIBRARY, messages.append)


@pytest.mark.parametrize("item", ["lbw=", "stop=", "foo=", "lbw=OUTD:X= "])
def test_a_key_without_a_value_is_told_once(item: str):
    _request, messages = read(f"a:{item}")
    assert ["expected a value" in message for message in messages] == [True]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_known_in_any_form(key: str):
    assert key_of(key) == key_of(f" {key.upper()} ") == key
