from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.tags.blocks import LAYOUTS, UNET_LABELS, Family
from lbw.tags.weights import parse_value, parse_weights, zeroed_sdxl_blocks


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-0.5", -0.5), (" 0.3 ", 0.3), ("X", 0.7), ("X+0.1", 0.8), ("X-0.2", 0.5), ("1e-2", 0.01), (".5", 0.5)],
)
def test_values(text: str, value: float):
    assert parse_value(text, 0.7, Random(0)) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "abc", "X*2", "X+", "X+abc", "nan", "inf", "r", "XX", "1 2"])
def test_bad_values(text: str):
    with pytest.raises(ValueError, match="expected a number, R, U, X"):
        parse_value(text, 1.0, Random(0))


def test_random_values_have_their_range_and_three_decimals():
    random = Random(1)
    plain = [parse_value("R", 1, random) for _ in range(1000)]
    wide = [parse_value("U", 1, random) for _ in range(1000)]
    assert 0 <= min(plain) < 0.05 < 0.95 < max(plain) <= 1
    assert -0.5 <= min(wide) < -0.4 < 1.4 < max(wide) <= 1.5
    assert all(round(value, 3) == value for value in plain + wide)


@pytest.mark.parametrize("length", [12, 17, 20, 26])
def test_short_layouts_expand_to_26_blocks_with_0_for_what_they_lack(length: int):
    weights = parse_weights(",".join(str(i + 1) for i in range(length)))
    assert tuple(weights.ratios) == UNET_LABELS
    assert [weights.ratios[label] for label in LAYOUTS[length]] == [i + 1 for i in range(length)]
    assert all(weights.ratios[label] == 0 for label in UNET_LABELS if label not in LAYOUTS[length])


def test_61_values_are_for_flux():
    weights = parse_weights(",".join(str(i) for i in range(61)))
    assert weights.family is Family.FLUX
    assert [weights.ratios[label] for label in ("CLIP", "D00", "S37", "OUT")] == [0, 3, 59, 60]


def test_the_wrong_count_names_the_right_ones():
    with pytest.raises(ValueError, match="5 values given; expected one of 12, 17, 20, 26, 61"):
        parse_weights("1,0,0,0,0")


def test_17_values_zero_attention_blocks_of_sdxl():
    assert zeroed_sdxl_blocks(parse_weights(",".join(["1"] * 17))) == ("OUT00", "OUT01", "OUT02")
    assert zeroed_sdxl_blocks(parse_weights(",".join(["1"] * 12))) == ()


@given(st.lists(st.floats(min_value=-10, max_value=10), min_size=26, max_size=26))
def test_numbers_come_back_as_they_went_in(values: list[float]):
    assert list(parse_weights(",".join(map(repr, values))).values) == values
