"""What a hand plays on a tag's strength: in force from a step on, and written as a tag that repeats it exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from lbw.generation.hand import Hand, played_tags, written_keys
from lbw.generation.session import Session
from lbw.request.live import Key, keys_of
from lbw.tags.library import Library
from lbw.tags.limits import LARGEST_NUMBER
from lbw.tags.played import played, played_tag
from lbw.tags.positions import nominal_sigmas
from lbw.tags.presence import Presence
from lbw.tags.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS
from lbw.tags.prompt import LoraRequest, parse
from tests.unit.networks import lora_engine, random_network
from tests.unit.session_host import SessionHost

LIBRARY = Library.read(DEFAULT_PRESETS, DEFAULT_RULE_SETS, "")
TEXT = "transformer_text_model_encoder_layers_0_mlp_fc1"
IN05 = "diffusion_model_input_blocks_5_1_transformer_blocks_0_attn1_to_q"
OUT03 = "diffusion_model_output_blocks_3_1_proj_in"
TIME = "diffusion_model_time_embed_0"

Coefficients = list[dict[str, tuple[float, ...]]]
Moves = Mapping[tuple[bool, int], Mapping[Key, float]]
"""{(whether it is in the hires pass, step): {tag: strength}}."""


@dataclass(frozen=True)
class Request:
    """A generation of two passes, the second with ``hires`` steps, or of one. ``makes`` is how many steps the first has
    where its solver makes as many as it likes, and not ``steps``. ``presences`` are those of its tags."""

    tags: tuple[str, ...]
    steps: int = 8
    hires: int = 0
    makes: int | None = None
    presences: tuple[Presence | None, ...] = ()

    def requests(self, is_hires: bool) -> list[LoraRequest]:
        found = [parse(tag[1:-1].split(":")[1:], lambda _message: None).in_pass(is_hires) for tag in self.tags]
        presences = self.presences or (None,) * len(found)
        return [
            replace(request.present(presence), written=tag)
            for tag, request, presence in zip(self.tags, found, presences, strict=True)
        ]


def generate(asked: Request, moves: Moves | None = None) -> tuple[Coefficients, Session]:
    """The coefficients that the engine has been brought to in each step of all passes, and the session."""
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {name: nn.Linear(4, 4).requires_grad_(False) for name in (TEXT, IN05, OUT03, TIME)}
    networks = [random_network(name, layers, rank=2) for name in ("a", "b")]
    session = Session(SessionHost(layers, networks), lora_engine(), LIBRARY, lambda _message: None)
    last: dict[str, tuple[float, ...]] = {}
    update = session.engine.manual_lora_update

    def noted(coefficients: Mapping[str, tuple[float, ...]], *args: Any, **named: Any) -> Any:
        last.clear()
        last.update(coefficients)
        return update(coefficients, *args, **named)

    session.engine.manual_lora_update = noted  # type: ignore[method-assign]
    found: Coefficients = []
    for is_hires, steps in ((False, asked.steps), (True, asked.hires)):
        is_open = asked.makes is not None and not is_hires
        made = asked.makes if is_open else steps
        if made:
            levels = nominal_sigmas(made)
            known = nominal_sigmas(steps) if is_open else levels
            session.begin_pass(
                asked.requests(is_hires), 0, steps, lambda known=known: known, is_open=is_open, is_hires=is_hires
            )
        for step in range(made):
            session.hand.move((moves or {}).get((is_hires, step), {}))
            session.step(step, made, lambda step=step, levels=levels: levels[step], evaluation=step)
            found.append(dict(last))
    return found, session


def written_again(session: Session, asked: Request) -> Request:
    """The request with the tags that say what was played."""
    tags = played_tags(session.passes, pytest.fail)
    keys = [key for key, _request in written_keys(asked.requests(False))]
    return replace(asked, tags=tuple(tags.get(key, key[0]) for key in keys))


def one_of(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(["", *texts])


STRENGTHS = one_of(
    "1", "0.7", "0,8", "0.7:0.3", "1:0.5:4", "te=0.5", "unet=0.3", "te=0.2:unet=0.8", "0@0,1@1", "0.3:1@2,0.1@5",
    "unet=0@0,1@3,0.5@10", "te=0.1@0,0.9@1:unet=1@9sigma,0@1sigma", "strength=0.6", "0", "-0.3333333333333333",
    "te=x", "0.5:unet=x", "unet=1@0,0@1:0.25",
)  # fmt: skip
TAG = st.tuples(
    st.sampled_from(["a", "a", "b"]),
    STRENGTHS,
    one_of("OUTD", "lbw=OUTALL", "lbw=NONE@0,ALL@5", "lbw=ALL@5sigma,NONE@1sigma,MIDD", "in=0.3:mid=0.7:out=0.1",
           "lbw=NONE,IN05=0.3", "lbw:OUTD", "lbw=0.1,R,U,0.7,1,1,1,1,1,1,1,1,1,1,1,1,1"),
    one_of("lbwe=IN05-OUT05:attn:0.3", "lbwe=ATTNDEEPON"),
    one_of("start=2", "stop=50%", "step=1-3", "start=7sigma", "2-5", "stop:3", "start=0.5:stop=x", "stop=0"),
    one_of("curve=step", "curve=cosine", "curve=x"),
    one_of("dyn=2", "x=0.5", "dyn=0", "nokey=3"),
    one_of("hr=0.3", "hrunet=0@0,1@1", "hrte=0.2", "hr=0.3:hrte=0@0,0.7@1", "hrunet=0.9:hrlbw=OUTALL"),
    one_of("hrstart=2", "hrstop=3", "hrstep=1-2", "hrstop=60%:hrstart=1"),
).map(lambda parts: f"<lora:{':'.join(filter(None, parts))}>")
NUMBERS = st.one_of(
    st.sampled_from([0.0, 0.4, 1.0, -1.0, 1e-5, 1e6, 0.1 + 0.2]),
    st.floats(-LARGEST_NUMBER, LARGEST_NUMBER, allow_nan=False),
)
PRESENCES = st.one_of(st.none(), st.just(Presence((2, 5, 7), (True, False, True))))


@st.composite
def generations(draw: Any) -> tuple[Request, Moves]:
    tags = draw(st.lists(TAG, min_size=1, max_size=3))
    asked = Request(
        tuple(tags), draw(st.integers(1, 12)), draw(st.integers(0, 6)), draw(st.one_of(st.none(), st.integers(1, 9))),
        tuple(draw(PRESENCES) for _ in tags),
    )
    keys = keys_of(request.name for request in asked.requests(False))
    places = st.tuples(st.booleans(), st.integers(0, 12))
    return asked, draw(st.dictionaries(places, st.dictionaries(st.sampled_from(keys), NUMBERS), max_size=6))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@example((Request(("<lora:a:1>", "<lora:a:1:stop=50%>"), 1), {(False, 0): {("a", 1): 0.0}}))
@example((Request(("<lora:a:1>",), 2, 2), {(False, 1): {("a", 0): 0.4}, (True, 1): {("a", 0): 0.0}}))
@example((Request(("<lora:a:1:start=2:stop=5>",), 8, 6), {(True, 3): {("a", 0): 0.4}}))
@given(generations())
def test_the_tag_that_says_what_was_played_repeats_it_bit_for_bit(generation: tuple[Request, Moves]):
    asked, moves = generation
    first, session = generate(asked, moves)
    again, _ = generate(written_again(session, asked))
    assert again == first


@settings(deadline=None, max_examples=100)
@given(generations())
def test_a_move_is_in_force_from_its_step_on_in_its_tags_part_of_the_unet_alone(generation: tuple[Request, Moves]):
    """Up to the first move nothing is other than without a hand, and the text encoder never is."""
    asked, moves = generation
    plain, _ = generate(asked)
    found, _ = generate(asked, moves)
    made = asked.steps if asked.makes is None else asked.makes
    steps = [(False, step) for step in range(made)] + [(True, step) for step in range(asked.hires)]
    first = next((index for index, place in enumerate(steps) if moves.get(place)), len(steps))
    assert found[:first] == plain[:first]
    assert [each[TEXT] for each in found] == [each[TEXT] for each in plain]


def strengths(found: Coefficients, layer: str = OUT03, network: int = 0) -> list[float]:
    return [each[layer][network] for each in found]


def test_a_hand_takes_the_place_of_strength_start_and_stop_and_blocks_stay():
    asked = Request(("<lora:a:0.8:lbw=NONE,OUT03=0.5:start=1:stop=3>",), steps=6)
    found, _ = generate(asked, {(False, 2): {("a", 0): 2.0}, (False, 4): {("a", 0): -1.0}})
    assert strengths(found) == [0, 0.4, 1, 1, -0.5, -0.5]
    assert strengths(found, IN05) == [0] * 6


def test_a_block_curve_goes_on_under_a_hand():
    found, _ = generate(Request(("<lora:a:1:lbw=NONE@0,ALL@4>",), steps=5), {(False, 2): {("a", 0): 2.0}})
    assert strengths(found) == [0, 0.25, 1, 1.5, 2]


def test_what_is_played_holds_in_the_hires_pass_whatever_the_tag_says_of_it():
    asked = Request(("<lora:a:1:hrunet=0.1:hrstop=1>",), steps=3, hires=3)
    found, session = generate(asked, {(False, 2): {("a", 0): 0.5}})
    assert strengths(found) == [1, 1, 0.5, 0.5, 0.5, 0.5]
    assert [*played_tags(session.passes).values()] == ["<lora:a:te=1:unet=1@0,1@1,0.5@2:hrunet=0.5>"]


def test_of_two_tags_with_one_name_the_one_that_is_meant_is_moved():
    found, _ = generate(Request(("<lora:b:1>", "<lora:a:1>", "<lora:b:2>"), steps=2), {(False, 1): {("b", 1): 5.0}})
    assert strengths(found, network=1) == [3, 6]
    assert strengths(found, network=0) == [1, 1]


def test_a_tag_with_the_same_schedule_as_another_is_moved_alone():
    found, _ = generate(Request(("<lora:a:1:stop=3>", "<lora:b:1:stop=3>"), steps=4), {(False, 1): {("a", 0): 0.5}})
    assert strengths(found, network=0) == [1, 0.5, 0.5, 0.5]
    assert strengths(found, network=1) == [1, 1, 1, 0]


def test_groups_of_layers_stay_what_they_are_so_that_a_move_is_quick():
    _, session = generate(Request(("<lora:a:1:lbw=OUTD>", "<lora:b:1:stop=3>"), steps=1))
    plan = session.plan
    assert plan is not None
    groups = plan.coefficients(0, 4).groups
    for value in (0.5, 0.7):
        plan = plan.with_request(0, played(plan.requests[0], (1.0, value)))
        assert plan.coefficients(1, 4).groups is groups
        assert plan.coefficients(1, 4)[OUT03] == (value, 1.0)
    assert len(plan.schedules) == 2


@pytest.mark.parametrize(
    ("written", "first", "hires", "expected"),
    [
        ("<lora:a:1>", [1, 1, 0.4], None, "<lora:a:te=1:unet=1@0,1@1,0.4@2>"),
        ("<lora:a:1>", [1, 0.4], None, "<lora:a:te=1:unet=1@0,0.4@1,0.4@2>"),
        ("<lora:a:1>", [0.4], None, "<lora:a:te=1:unet=0.4>"),
        ("<lora:a>", [0.4], [0.4], "<lora:a:te=1:unet=0.4:hrunet=0.4>"),
        ("<lora:a:0.5:0.7:16:OUTD:stop=5>", [0.4], None, "<lora:a:te=0.5:unet=0.4:OUTD:dyn=16>"),
        ("<lyco:a:1:lbw=OUTD:lbwe=IN05:attn:0.5:step=2-5>", [0, 0, 1], None,
         "<lyco:a:te=1:unet=0@0,0@1,1@2:lbw=OUTD:lbwe=IN05:attn:0.5>"),
        ("<lora:a:0@0,1@1:curve=cosine:x=2>", [0.25], None, "<lora:a:te=0@0,1@1:unet=0.25:curve=cosine:x=2>"),
        ("<lora:a:1@0,0.5@1:te=1:curve=step:x=2>", [0.25], None, "<lora:a:te=1:unet=0.25:x=2>"),
        ("<lora:a:1:lbw=NONE@0,ALL@1:curve=step>", [0.25], None,
         "<lora:a:te=1:unet=0.25:lbw=NONE@0,ALL@1:curve=step>"),
        ("<lora:a:1:start=2:hr=0.3>", None, [0.5], "<lora:a:te=1:unet=1:hrte=0.3:hrunet=0.5:hrstep=0-100%:start=2>"),
        ("<lora:a:1:hrlbw=OUTD:hrstart=3>", [1], [1, 0], "<lora:a:te=1:unet=1:hrunet=1@0,0@1,0@2:hrlbw=OUTD>"),
    ],
)  # fmt: skip
def test_a_played_tag_says_what_counts_and_nothing_else(
    written: str, first: Sequence[float] | None, hires: Sequence[float] | None, expected: str
):
    assert played_tag(written, first, hires) == expected


def test_a_ramp_of_as_many_steps_as_the_panel_offers_has_room_in_a_tag():
    course = [step / 149 for step in range(150)]
    read = parse(played_tag("<lora:a:1>", course)[1:-1].split(":")[1:], pytest.fail)
    assert read.unet_strengths(150) == tuple(course)


def test_what_has_no_room_in_a_tag_is_told_and_not_cut():
    with pytest.raises(ValueError, match="it was moved too often: 151 keyframes; expected at most 150"):
        played_tag("<lora:a:1>", [*range(151)])


def test_moves_of_many_threads_all_arrive():
    hand = Hand()
    threads = [Thread(target=hand.move, args=({("a", number): float(number)},)) for number in range(50)]
    for thread in threads:
        thread.start()
    taken: dict[Key, float] = {}
    while any(thread.is_alive() for thread in threads):
        taken |= hand.take()
    taken |= hand.take()
    assert taken == {("a", number): float(number) for number in range(50)}
    assert hand.strengths == taken
    assert not hand.has_moved


def test_a_step_that_nobody_plays_in_leaves_the_plan_as_it_is():
    _, session = generate(Request(("<lora:a:1:stop=3>",), steps=2))
    plan = session.plan
    session.step(2, 4, float)
    assert session.plan is plan


def test_a_move_inside_a_step_waits_for_the_next():
    _, session = generate(Request(("<lora:a:1>", "<lora:b:0>"), steps=1))
    assert session.plan is not None
    session.hand.move({("a", 0): 0.5})
    session.step(0, 4, float)
    assert session.plan.coefficients(0, 4)[OUT03] == (1.0, 0.0)
    assert session.job().faders[0].following == 0.5
    session.step(1, 4, float)
    assert session.plan.coefficients(1, 4)[OUT03] == (0.5, 0.0)
    fader = session.job().faders[0]
    assert (fader.course, fader.following, fader.is_played) == ((1.0, 0.5), None, True)


def test_a_plan_that_is_made_anew_in_the_middle_of_a_pass_has_what_was_played():
    asked = Request(("<lora:a:1>", "<lora:b:0>"), steps=2)
    _, session = generate(asked, {(False, 1): {("a", 0): 0.5}})
    session.engine.unbind()
    session.step(2, 4, float)
    assert session.plan is not None
    assert session.plan.coefficients(2, 4)[OUT03] == (0.5, 0.0)
    session.hand.move({("a", 0): 0.25})
    session.step(3, 4, float)
    assert session.plan.coefficients(3, 4)[OUT03] == (0.25, 0.0)
    assert [*played_tags(session.passes).values()] == ["<lora:a:te=1:unet=1@0,0.5@1,0.5@2,0.25@3>"]


def left_to_host(asked: Request, begin: Any = None) -> Session:
    """A session whose first pass is left to the host, until a hand asks for it; ``begin`` begins it then."""
    _, session = generate(replace(asked, steps=0))

    def begin_pass() -> Any:
        return session.begin_pass(asked.requests(False), 0, asked.steps)

    session.leave_to_host(asked.requests(False), begin_later=begin or begin_pass)
    return session


def test_a_pass_that_was_left_to_the_host_begins_with_a_step_and_not_inside_one():
    session = left_to_host(Request(("<lora:a:1>", "<lora:b:0>"), steps=4))
    session.step(0, 4, float, 0)
    session.hand.move({("a", 0): 0.5})
    session.step(0, 4, float, 1)
    assert session.plan is None
    assert session.job().faders[0].following == 0.5
    session.step(1, 4, float, 2)
    assert session.plan is not None
    assert session.plan.coefficients(1, 4)[OUT03] == (0.5, 0.0)
    assert [*played_tags(session.passes).values()] == ["<lora:a:te=1:unet=1@0,0.5@1,0.5@2>"]


def test_a_pass_of_as_many_steps_as_it_likes_that_begins_late_knows_its_steps():
    asked = Request(("<lora:a:1>",), steps=4)
    session = left_to_host(asked, lambda: session.begin_pass(asked.requests(False), 0, 4, is_open=True))
    for step in range(7):
        session.step(step, 4, lambda: 1.0, step)
    session.hand.move({("a", 0): 0.5})
    session.step(7, 4, lambda: 1.0, 7)
    assert [*played_tags(session.passes).values()] == ["<lora:a:te=1:unet=1@0,1@6,0.5@7>"]


def test_a_pass_that_cannot_begin_late_stays_the_hosts_and_the_move_is_told():
    def fail() -> None:
        raise RuntimeError("no memory")

    session = left_to_host(Request(("<lora:a:1>",), steps=4), fail)
    session.step(0, 4, float)
    session.hand.move({("a", 0): 0.5})
    session.step(1, 4, float)
    session.step(2, 4, float)
    assert [*session.warnings] == [
        "what was moved by hand cannot be put in force (RuntimeError: no memory); the LoRAs stay as their tags say"
    ]
    job = session.job()
    assert job.faders[0].following is None
    assert job.obstacle == "the host applies the LoRAs of this pass by itself"
    assert not session.hand.strengths


def test_a_pass_that_is_made_again_has_what_was_played_and_the_move_that_waits(monkeypatch: pytest.MonkeyPatch):
    """As where the GPU's memory runs out in a step."""
    _, session = generate(Request(("<lora:a:1>", "<lora:b:0>"), steps=3), {(False, 1): {("a", 0): 0.5}})
    monkeypatch.setattr(type(session.engine), "held", 1000)
    session.hand.move({("a", 0): 0.8})
    assert session.gives_way(RuntimeError())
    found = []
    for step in range(5):
        session.step(step, 5, float)
        assert session.plan is not None
        found.append(session.plan.coefficients(step, 5)[OUT03][0])
    assert found == [1, 0.5, 0.5, 0.8, 0.8]
    assert [*played_tags(session.passes).values()] == ["<lora:a:te=1:unet=1@0,0.5@1,0.5@2,0.8@3>"]


def test_a_lora_that_was_not_loaded_has_no_fader():
    _, session = generate(Request(("<lora:a:1>", "<lora:b:0>"), steps=1))
    session.lost["a"] = "not found"
    assert [fader.key for fader in session.job().faders] == [("b", 0)]


def test_while_a_pass_is_planned_nothing_is_in_the_way():
    session = left_to_host(Request(("<lora:a:1>",), steps=4))
    seen = []
    make_plan = session._make_plan

    def noted() -> Any:
        seen.append(session.job().obstacle)
        return make_plan()

    session._make_plan = noted  # type: ignore[method-assign]
    session.hand.move({("a", 0): 0.5})
    session.step(0, 4, float)
    assert seen == [""]
