from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.request.arguments import ARGUMENTS, ArgumentError, Arguments, from_object, from_positional, parse

ONES = ",".join(["1"] * 17)
README_EXAMPLES = [
    [f"MYSETS:{ONES}\nYOURSETS:{ONES}", True, 1, *[""] * 14],
    [f"XYZ:{ONES}", True, 1, "seed", "-1,-1", *[""] * 12],
    [f"XYZ:{ONES}", True, 2, "", "", "", "", "", "", "0,1", "17ALL", 1, "white", 20, True, "", ""],
]


def lenient(values: list[Any]) -> tuple[Arguments, list[str]]:
    messages: list[str] = []
    return from_positional(values, messages.append), messages


def test_the_first_18_arguments_are_those_of_the_original_in_its_order():
    assert [argument.name for argument in ARGUMENTS[:18]] == [
        "presets", "active", "mode", "x_type", "x_values", "y_type", "y_values", "z_type", "z_values",
        "analyzer_range", "analyzer_blocks", "seed_count", "difference_colour", "threshold", "swap_xy", "elements",
        "print_changes", "debug",
    ]


@pytest.mark.parametrize("argument", ARGUMENTS, ids=[argument.name for argument in ARGUMENTS])
def test_each_default_is_of_its_type_and_in_its_range(argument):
    assert argument.strict(argument.default) == argument.default
    assert type(argument.default) is argument.kind
    assert argument.meaning


@pytest.mark.parametrize("length", range(len(ARGUMENTS) + 3))
@pytest.mark.parametrize("nothing", [None, ""])
def test_missing_values_and_none_and_empty_texts_are_defaults(length: int, nothing: Any):
    found, messages = lenient([nothing] * length)
    assert messages == []
    assert (found.active, found.mode, found.presets, found.elements) == (True, 0, "", "")
    if nothing is None:
        assert found == Arguments()


@pytest.mark.parametrize("values", README_EXAMPLES)
def test_the_examples_of_the_originals_readme_are_read_without_a_word(values: list[Any]):
    found, messages = lenient(values)
    assert messages == []
    assert (found.presets, found.active, found.mode) == (values[0], True, values[2])


def test_an_empty_axis_type_is_no_axis():
    found, _ = lenient(README_EXAMPLES[1])
    assert (found.x_type, found.x_values, found.y_type, found.z_type) == ("seed", "-1,-1", "none", "none")


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("active", "False", False), ("active", 0, False), ("active", "true", True), ("mode", "XYZ plot", 1),
        ("mode", "2", 2), ("mode", 1.0, 1), ("threshold", "20", 20.0), ("threshold", 3, 3.0), ("seed_count", 2.0, 2),
    ],
)
def test_forms_that_clients_of_the_original_use_are_understood(name: str, value: Any, meant: Any):
    position = [argument.name for argument in ARGUMENTS].index(name)
    found, messages = lenient([*[None] * position, value])
    assert (getattr(found, name), messages) == (meant, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presets", 5), ("active", "maybe"), ("active", 2), ("mode", 3), ("mode", "XYZ"), ("mode", True),
        ("x_type", "Seed"), ("threshold", math.nan), ("threshold", math.inf), ("threshold", "1e999"),
        ("threshold", 10**400), ("seed_count", 1.5), ("seed_count", -1), ("difference_colour", "red"),
        ("elements", ["a"]), ("presets", "\ud800"), ("presets", "x" * 1_000_001), ("pasted", {"a": 1}),
    ],
    ids=repr,
)
def test_a_wrong_value_is_a_message_and_the_default_by_position_and_refused_by_name(name: str, value: Any):
    position = [argument.name for argument in ARGUMENTS].index(name)
    found, messages = lenient([*[None] * position, value])
    assert found == Arguments()
    assert len(messages) == 1
    assert f"argument {position + 1}, {name}: expected " in messages[0]
    assert len(messages[0]) < 500
    with pytest.raises(ArgumentError) as refused:
        from_object({name: value})
    assert refused.value.key == name
    assert refused.value.expected in messages[0]
    assert refused.value.got in messages[0]


@pytest.mark.parametrize(("name", "value"), [("active", None), ("active", 1), ("threshold", "20"), ("seed_count", 2.0)])
def test_by_name_there_is_no_leniency(name: str, value: Any):
    with pytest.raises(ArgumentError, match=f"{name}: expected"):
        from_object({name: value})


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ArgumentError, match=r'preset: expected one of the keys presets, active, .*, got "A"'):
        from_object({"preset": "A"})


def test_an_object_in_the_first_place_is_laid_over_the_rest():
    found = parse([{"presets": "A:1", "mode": 2}, False, 1], print)
    assert (found.presets, found.mode, found.active) == ("A:1", 2, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON, max_size=25))
def test_no_list_of_values_can_raise_and_all_results_are_valid(values: list[Any]):
    messages: list[str] = []
    found = from_positional(values, messages.append)
    for argument in ARGUMENTS:
        assert argument.strict(getattr(found, argument.name)) == getattr(found, argument.name)
    assert all(len(message) < 500 for message in messages)
    "\n".join(messages).encode()


@given(st.dictionaries(st.sampled_from([argument.name for argument in ARGUMENTS]) | st.text(max_size=8), JSON))
def test_no_object_raises_anything_but_the_one_error(values: dict[str, Any]):
    try:
        from_object(values)
    except ArgumentError as error:
        assert error.key in values
        assert error.expected
        assert str(error).encode()
