from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.tags.elements import parse_rule, parse_rules, ratio_of
from lbw.tags.families import FLUX, KNOWN, SD1, Family

ATTENTION = "diffusion_model_input_blocks_5_1_transformer_blocks_0_attn1_to_q"
PROJECTION = "diffusion_model_input_blocks_5_1_proj_in"


@pytest.mark.parametrize(
    ("rules", "label", "layer", "ratio"),
    [
        ("IN05-OUT05:attn:0", "IN05", ATTENTION, 0),
        ("IN05-OUT05:attn:0", "IN05", PROJECTION, 1),
        ("IN05-OUT05:attn:0", "IN04", ATTENTION, 1),
        ("IN05-OUT05:attn:0", "M00", ATTENTION, 0),
        ("IN04 IN05:attn proj:0.3", "IN05", PROJECTION, 0.3),
        ("NOT IN05:attn:0", "IN05", ATTENTION, 1),
        ("NOT IN05:attn:0", "OUT05", ATTENTION, 0),
        ("NOT IN04-IN08:attn:0", "IN05", ATTENTION, 1),
        (":NOT attn:0", "IN05", ATTENTION, 1),
        (":NOT attn:0", "IN05", PROJECTION, 0),
        ("::0.5", None, "diffusion_model_time_embed_0", 0.5),
        ("IN05::0.5", None, "diffusion_model_time_embed_0", 1),
        ("::0,IN05:attn:0.7", "IN05", ATTENTION, 0.7),
        ("IN05:attn:0.7\n::0", "IN05", ATTENTION, 0),
        ("BASE::0.2", "BASE", "transformer_text_model_encoder_layers_0_mlp_fc1", 0.2),
        ("D00-S03:img:0", "S01", "diffusion_model.single_blocks.1.img", 0),
    ],
)
def test_rules(rules: str, label: str | None, layer: str, ratio: float):
    names = () if label is None else (label,)
    assert ratio_of(parse_rules(rules, FLUX if label == "S01" else SD1), names, layer, 1.0) == ratio


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("IN05:attn", "2 fields"),
        ("IN99:attn:1", "IN99"),
        ("IN05-IN01:attn:1", "backwards"),
        ("IN05:attn:abc", "abc"),
        ("IN05:attn:nan", "nan"),
    ],
)
def test_bad_rules_say_what_is_wrong(rule: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        parse_rule(rule)


def test_rules_for_blocks_of_other_families_hit_nothing_there():
    both, others = parse_rules("IN05 D00-D05:attn:0,S00::0.5", SD1)
    assert both.matches(("IN05",), ATTENTION) and not both.matches(("IN04",), ATTENTION)
    assert not others.matches(("IN05",), ATTENTION) and not others.matches((), ATTENTION)
    assert parse_rules("NOT D00:attn:0", SD1)[0].matches(("IN05",), ATTENTION)


@pytest.mark.parametrize("family", KNOWN, ids=[family.title for family in KNOWN])
def test_groups_are_those_of_the_model(family: Family):
    first = parse_rule("FIRST::0", family)
    hit = [label for label in family.labels if first.matches((label,), "x")]
    assert hit == [*family.groups["FIRST"]]
    assert all(parse_rule("BASE::0", family).matches((label,), "x") for label in family.of_encoders)


@given(st.text(max_size=30))
def test_no_text_raises_anything_but_value_error(text: str):
    try:
        parse_rules(text)
    except ValueError as error:
        assert str(error)
