from __future__ import annotations

import pytest

from lbw.plan.plan import Pass, Plan, build
from lbw.tags.library import Library
from lbw.tags.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS, parse_presets, parse_rule_sets
from lbw.tags.prompt import parse
from tests.unit.model_layers import layers_of

LIBRARY = Library(parse_presets(DEFAULT_PRESETS)[0], parse_rule_sets(DEFAULT_RULE_SETS)[0])
TEXT = "transformer_text_model_encoder_layers_0_mlp_fc1"
IN05 = "diffusion_model_input_blocks_5_1_transformer_blocks_0_attn1_to_q"
OUT03 = "diffusion_model_output_blocks_3_1_proj_in"
TIME = "diffusion_model_time_embed_0"
LAYERS = (TEXT, IN05, OUT03, TIME)


def plan(*tags: str, **options: object) -> tuple[Plan, list[str]]:
    messages: list[str] = []
    requests = [parse(tag.split(":"), messages.append) for tag in tags]
    layers = {request.name: LAYERS for request in requests}
    return build(requests, layers, LIBRARY, messages.append, model_layers=LAYERS, **options), messages  # type: ignore[arg-type]


def test_a_coefficient_is_multiplier_times_ratio_times_strength():
    made, messages = plan("a:0.5:0.8:lbw=OUTD:start=2")
    assert made.coefficients(0, 10) == {TEXT: (0.5,), IN05: (0.0,), OUT03: (0.0,), TIME: (0.0,)}
    assert made.coefficients(2, 10) == {TEXT: (0.5,), IN05: (0.0,), OUT03: (0.8,), TIME: (0.8,)}
    assert messages == []


def test_networks_keep_their_order_and_a_name_that_comes_twice_adds_up():
    made, _ = plan("a:1:lbw=INALL", "b:0.5", "a:0.5:lbw=OUTALL")
    assert made.networks == ("a", "b")
    assert made.coefficients(0, 10)[IN05] == (1.0, 0.5)
    assert made.coefficients(0, 10)[OUT03] == (0.5, 0.5)
    assert made.coefficients(0, 10)[TEXT] == (1.5, 0.5)


def test_rules_replace_the_ratio():
    made, _ = plan("a:1:lbw=NONE:lbwe=ATTNDEEPON")
    assert made.coefficients(0, 10) == {TEXT: (0.0,), IN05: (1.0,), OUT03: (0.0,), TIME: (1.0,)}


def test_layers_in_no_block_can_be_switched_by_rules():
    library = Library({}, {"OFF": "::0"})
    made = build([parse(["a", "1", "lbwe=OFF"], print)], {"a": LAYERS}, library, print)
    assert made.coefficients(0, 1)[TIME] == (0.0,)


def test_somebody_elses_multiplier_keeps_ratio_and_schedule():
    made, _ = plan("a:1:lbw=OUTD:stop=5")
    changed = made.with_multipliers("a", 0.1, 0.3)
    assert changed.coefficients(0, 10)[OUT03] == (0.3,)
    assert changed.coefficients(0, 10)[TEXT] == (0.1,)
    assert changed.coefficients(5, 10)[OUT03] == (0.0,)


def test_a_plan_is_plain_only_where_the_host_would_do_the_same():
    assert plan("a:0.7", "b")[0].is_plain
    assert not plan("a:0.7", "a:0.2")[0].is_plain
    assert not plan("a:0.7:lbw=ALL")[0].is_plain
    assert not plan("a:0.7:stop=3")[0].is_plain


def test_text_encoder_ratios_tell_presets_apart():
    def ratios(tag: str) -> object:
        return Pass(plan(tag)[0], 10).text_encoder_ratios()

    assert ratios("a:0.7:stop=3") == ()
    assert ratios("a:1:lbw=NONE") != ratios("a:1:lbw=ALL0.5")


@pytest.mark.parametrize(
    ("tag", "parts"),
    [
        ("a:1:lbw=NOPE", ("lbw=NOPE", "OUTALL", "all blocks are 1")),
        ("a:1:lbw=FLUXALL", ("FLUXALL", "Flux", "all blocks are 1")),
        ("a:1:lbwe=NOPE", ("lbwe=NOPE", "PROJDEEPOFF", "works without it")),
    ],
)
def test_unknown_names_are_told_with_the_known_ones(tag: str, parts: tuple[str, ...]):
    made, messages = plan(tag)
    assert len(messages) == 1
    assert all(part in messages[0] for part in parts)
    assert made.coefficients(0, 1)[IN05] == (1.0,)


def test_17_values_on_sdxl_keep_their_meaning_with_a_warning():
    layers = layers_of("sdxl")
    ones = ",".join(["1"] * 17)
    messages: list[str] = []
    request = parse(["a", "1", f"lbw={ones}"], print)
    made = build([request], {"a": layers}, LIBRARY, messages.append, model_layers=layers)
    assert made.coefficients(0, 1)[OUT03] == (1.0,)
    assert len(messages) == 1
    assert "17 values have none for IN00 IN03 IN06 OUT00-OUT02 of this SDXL model" in messages[0]


def test_random_weights_follow_the_seed():
    tag = "a:1:lbw=" + ",".join(["R"] * 17)
    first, again, other = (plan(tag, seed=seed)[0] for seed in (1, 1, 2))
    assert first.coefficients(0, 1) == again.coefficients(0, 1) != other.coefficients(0, 1)
    assert len(set(first.weights[0][0].values)) > 10


@pytest.mark.parametrize(
    ("tag", "is_hires", "written"),
    [
        ("a:1:lbw=NOPE", False, "lbw=NOPE"),
        ("a:1:w=NOPE", False, "w=NOPE"),
        ("a:1:NOPE", False, "NOPE"),
        ("a:1:lbw=NOPE:hr=0.5", True, "lbw=NOPE"),
        ("a:1:lbw=OUTD:hrlbw=NOPE", True, "hrlbw=NOPE"),
        ("a:1:hrlbw=1,2", True, "hrlbw=1,2"),
        (f"a:1:hrlbw={','.join(['1'] * 61)}", True, "hrlbw=1,1,1"),
    ],
)
def test_weights_that_cannot_be_used_are_named_as_they_were_written(tag: str, is_hires: bool, written: str):
    messages: list[str] = []
    request = parse(tag.split(":"), messages.append).in_pass(is_hires)
    build([request], {"a": LAYERS}, LIBRARY, messages.append, model_layers=LAYERS)
    assert [message.startswith(f"<lora:a>: {written}") for message in messages] == [True]
