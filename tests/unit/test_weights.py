from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.tags.families import FLUX, KNOWN, SD1, SDXL, Family
from lbw.tags.library import Library
from lbw.tags.weights import BlockWeights, Vector, draw, parse_value, parse_vector

ANYTHING = Library({}, {})


def weights_of(text: str, family: Family = SD1) -> BlockWeights:
    return draw(parse_vector(text, family))


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
    weights = weights_of(",".join(str(i + 1) for i in range(length)))
    layout = SD1.layouts[length]
    assert tuple(weights.ratios) == SD1.labels
    assert [weights.ratios[label] for label in layout] == [i + 1 for i in range(length)]
    assert all(weights.ratios[label] == 0 for label in SD1.labels if label not in layout)


def test_61_values_are_for_flux():
    weights = weights_of(",".join(str(i) for i in range(61)), FLUX)
    assert [weights.ratios[label] for label in ("CLIP", "D00", "S37", "OUT")] == [0, 3, 59, 60]


def test_the_wrong_count_names_the_right_ones():
    with pytest.raises(ValueError, match="5 values given; expected one of 12, 17, 20, 25, 26 on this SD1"):
        weights_of("1,0,0,0,0")
    with pytest.raises(ValueError, match=r"17 values, which are for SDXL .*; expected one of 57, 58, 61 on this Flux"):
        weights_of(",".join(["1"] * 17), FLUX)


@pytest.mark.parametrize("separator", [",", " ", "\n", ", ", " ,", "\t", ",\r\n"])
def test_commas_blanks_and_line_ends_separate_values(separator: str):
    items = ["R", "-0.5", "X+0.2", *["1"] * 9]
    assert list(parse_vector(f" {separator.join(items)}\n", SD1).values.values()) == items


@pytest.mark.parametrize("text", ["1,,1,1,1,1,1,1,1,1,1,1", "1,1,1,1,1,1,1,1,1,1,1,", "1,x,1,1,1,1,1,1,1,1,1,1"])
def test_a_value_that_is_none_is_named_by_its_place(text: str):
    with pytest.raises(ValueError, match=r"value (2|12) of 12: '(|x)' is not a value"):
        weights_of(text)


@given(st.lists(st.floats(min_value=-10, max_value=10), min_size=26, max_size=26))
def test_numbers_come_back_as_they_went_in(values: list[float]):
    assert list(weights_of(",".join(map(repr, values))).values) == values


VALUES = st.sampled_from(["0", "1", "0.5", "R", "U", "X", "X-0.25", "-1"])


@given(st.sampled_from(KNOWN), st.data())
def test_a_named_form_and_its_vector_give_equal_weights(family: Family, data: st.DataObject):
    """By number, in any layout, and by name: the same ratio for each block, and the same for what is drawn."""
    length = data.draw(st.sampled_from(sorted(family.layouts)))
    by_number = parse_vector(",".join(data.draw(VALUES) for _ in range(length)), family)
    written = by_number.complete()
    by_name = ANYTHING.vector(written.by_name(), family)
    assert by_name.values == written.values
    assert draw(by_name, 0.75, Random(3)).ratios == draw(written, 0.75, Random(3)).ratios
    if not {"R", "U"} & {*by_number.values.values()}:
        ratios = draw(by_number, 0.75).ratios
        assert draw(by_name, 0.75).ratios == {label: ratios[label] for label in family.labels}
    assert ANYTHING.vector(by_number.text, family).complete().values == written.values


def test_the_shortest_words_for_a_vector():
    text = "1,0,0,0,0,0,0,0.5,1,1,1,1,0,0,0,0,0"
    assert parse_vector(text, SD1).complete().by_name() == "NONE,BASE OUT03-OUT06=1,M00=0.5"
    ones = dict.fromkeys(SDXL.labels, "1")
    assert Vector(SDXL, {**ones, "IN04": "0"}, frozenset(ones)).by_name() == "ALL,IN04=0"
    assert Vector(SDXL, ones, frozenset(ones)).by_name() == "1", "ALL alone would be a preset"
