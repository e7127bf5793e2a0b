"""Where a prompt that changes has a tag: the strength of its schedule in evaluations and in steps."""

from __future__ import annotations

import pytest

from lbw.plan.plan import Pass, build
from lbw.request.route_models import ParseRequest
from lbw.request.routes import parse_prompt
from lbw.tags.library import Library
from lbw.tags.presence import Presence, Reckoning
from lbw.tags.prompt import LoraRequest, parse
from tests.backend import Backend

LAYERS = ("diffusion_model_input_blocks_4_1_attn1", "transformer_text_model_encoder_layers_0_mlp_fc1")
FROM_4 = Presence((3, 8), (False, True))
NOTHING = Library({}, {})
IN_TURN = Presence((1, 2, 3, 4, 5, 6, 7, 8), (True, False) * 4)


def there(presence: Presence, count: int) -> str:
    return "".join(".#"[presence.contains(evaluation)] for evaluation in range(count))


def test_a_text_is_in_force_up_to_its_end_and_behind_the_last_one_the_first_is_again():
    assert there(FROM_4, 11) == "....#####.."
    assert there(IN_TURN, 11) == "##.#.#.#.##"


def test_of_a_step_of_two_evaluations_it_is_the_mean():
    of_two = Presence(IN_TURN.ends, IN_TURN.is_there, per_step=2)
    assert [of_two.share(step) for step in range(4)] == [1, 0.5, 0.5, 0.5]
    assert of_two.share(1, range(3, 4)) == 1


def plan_of(tag: str, presence: Presence) -> LoraRequest:
    return parse(tag.split(":"), print).present(presence)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("n:0.5", [0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5]),
        ("n:1:stop=6", [0, 0, 0, 0, 1, 1, 0, 0]),
        ("n:1:start=2", [0, 0, 0, 0, 1, 1, 1, 1]),
        ("n:0@0,7@7", [0, 0, 0, 0, 4, 5, 6, 7]),
        ("n:1:lbw=NONE@0,ALL@7", [0, 0, 0, 0, 4 / 7, 5 / 7, 6 / 7, 1]),
    ],
)
def test_it_multiplies_with_all_else_in_the_unet_and_not_in_the_text_encoder(tag: str, expected: list[float]):
    library = Library.read("NONE:" + ",".join("0" * 17) + "\nALL:" + ",".join("1" * 17), "", "")
    request = plan_of(tag, FROM_4)
    plan = build([request], {"n": LAYERS}, library, print, model_layers=LAYERS)
    for step in range(8):
        found = plan.coefficients(step, 8, (), (step,))
        assert found[LAYERS[0]] == (pytest.approx(expected[step]),)
    text_encoder = [plan.coefficients(step, 8, (), (step,))[LAYERS[1]] for step in range(8)]
    assert len(set(text_encoder)) == 1
    assert not request.is_plain


def test_a_plan_is_edited_where_a_presence_is_in_it():
    build_of = lambda request: build([request], {"n": LAYERS}, NOTHING, print)  # noqa: E731
    assert build_of(plan_of("n", FROM_4)).is_edited
    assert not build_of(parse(["n", "stop=5"], print)).is_edited


def test_a_pass_notes_the_evaluations_of_its_steps():
    made = Pass(build([plan_of("n", IN_TURN)], {"n": LAYERS}, NOTHING, print), 3)
    for step, evaluation in [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4)]:
        made = made.with_evaluation(step, evaluation)
    assert made.evaluations == (range(2), range(2, 4), range(4, 5))
    assert made.strengths(made.plan.requests[0].schedule) == (1, 0.5, 0)
    again = made.with_evaluation(0, 0)  # the pass begins once more
    assert again.evaluations == (range(1),)
    assert again.with_evaluation(2, 1).evaluations == (range(1), range(0), range(1, 2))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Reckoning(8, None, 1)),
        ({"sampler": "Heun"}, Reckoning(16, None, 2)),
        ({"asked_steps": 20}, Reckoning(20, None, 1)),
        ({"hires": True}, Reckoning(8, 8, 1)),
        ({"hires": True, "first_steps": 30}, Reckoning(30, 8, 1)),
        ({"hires": True, "first_steps": 30, "sampler": "Heun"}, Reckoning(60, 16, 2)),
    ],
)
def test_the_api_is_told_what_the_brackets_count(fields: dict, expected: Reckoning):
    asked: list[Reckoning] = []

    class Noting(Backend):
        def tags(self, text, reckoning, warn):
            asked.append(reckoning)
            return super().tags(text, reckoning, warn)

    parse_prompt(ParseRequest(prompt="<lora:demo:1>", steps=8, **fields), Noting(LAYERS))
    assert asked == [expected]


def test_the_api_tells_the_steps_that_brackets_leave():
    answer = parse_prompt(ParseRequest(prompt="[|<lora:demo:0.5:stop=6>]", steps=8), Backend(LAYERS))
    assert answer.tags[0].strengths == [0, 0, 1, 0, 1, 0, 0, 0]
    unet = next(group for group in answer.tags[0].groups if group.block == "IN04")
    assert unet.coefficients == [0, 0, 0.5, 0, 0.5, 0, 0, 0]
    assert unet.ratio == 1
