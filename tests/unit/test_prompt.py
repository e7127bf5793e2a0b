from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbw.tags.prompt import LoraRequest, parse


def request(tag: str) -> tuple[LoraRequest, list[str]]:
    messages: list[str] = []
    return parse(tag.split(":"), messages.append), messages


@pytest.mark.parametrize(
    ("tag", "te", "unet"),
    [
        ("name", 1, 1),
        ("name:0.5", 0.5, 0.5),
        ("name:0.5:0.7", 0.5, 0.7),
        ("name:te=0.2:unet=0.7", 0.2, 0.7),
        ("name:1:unet=0.7", 1, 0.7),
        ("name:-1.5", -1.5, -1.5),
        ("name:lbw=OUTD:0.5", 0.5, 0.5),
    ],
)
def test_multipliers(tag: str, te: float, unet: float):
    found, messages = request(tag)
    assert (found.te_multiplier, found.unet_multiplier) == (te, unet)
    assert messages == []


@pytest.mark.parametrize(
    ("tag", "weights"),
    [
        ("name:1:lbw=OUTD", "OUTD"),
        ("name:1:w=OUTD", "OUTD"),
        ("name:1:INS", "INS"),
        ("name:1:1:INS", "INS"),
        ("name:INS", "INS"),
        ("name:1:0,0,1", "0,0,1"),
        ("name:1", None),
    ],
)
def test_weights_are_named_or_positional(tag: str, weights: str | None):
    found, messages = request(tag)
    assert (found.name, found.weights) == ("name", weights)
    assert messages == []


def test_a_named_preset_beats_a_positional_one_with_a_message():
    found, messages = request("name:1:INS:lbw=OUTD")
    assert found.weights == "OUTD"
    assert len(messages) == 1
    assert "INS" in messages[0]


def test_dyn_is_the_hosts_and_is_read_like_it():
    assert request("name:1:1:8")[0].dyn_dim == 8
    assert request("name:1:dyn=4")[0].dyn_dim == 4


def test_keys_and_order():
    found, messages = request("name:stop=5:x=0.7:lbwe=ATTN:0.5:start=2:lbw=X")
    assert (found.te_multiplier, found.x, found.elements, found.weights) == (0.5, 0.7, "ATTN", "X")
    assert [found.schedule.strength(i, 10) for i in range(7)] == [0, 0, 1, 1, 1, 0, 0]
    assert messages == []


@given(st.lists(st.text(max_size=12), max_size=8))
def test_no_tag_can_raise_and_numbers_are_finite(items: list[str]):
    messages: list[str] = []
    found = parse(items, messages.append)
    assert abs(found.te_multiplier) < float("inf")
    assert abs(found.unet_multiplier) < float("inf")
