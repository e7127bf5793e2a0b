"""One line of a preset file: a preset, a comment, or what looks like a preset and is none, and what is wrong there."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass

from lbw.tags import named_weights
from lbw.tags.blocks import UnknownBlockError, families_with, split_words
from lbw.tags.limits import shortened
from lbw.tags.weights import (
    check_none_is_missing,
    check_values,
    families_of_length,
    is_named,
    is_value,
    is_vector,
    split_vector,
)

_NOT_IN_A_TAG = ":=>#\n\r"


@dataclass(frozen=True)
class Line:
    """What a line is read as.

    ``is_preset``: it has values that count, or whose fault is told when they are used. ``fault`` is what is wrong with
    it, and ``looks_like_one`` whether somebody has to be told of that before the name is used. ``models`` tells which
    models a sound line is for.
    """

    name: str
    weights: str
    is_preset: bool = True
    fault: str | None = None
    looks_like_one: bool = True
    models: Hashable = None


def read_line(line: str) -> Line | None:
    """A line of a preset file; None if it is a comment, or a sentence.

    Args:
        line: with the signs of an ordinary keyboard.
    """
    body, mark, _comment = line.partition("#")
    name, colon, weights = (part.strip() for part in body.partition(":"))
    if not colon:
        return _without_colon(body.strip())
    if mark:
        fault = "a # behind it makes the line a comment; expected the note in a line of its own"
        return Line(name, weights, False, fault) if _are_meant(name, weights) else None
    if not name:
        return Line("", weights, False, "no name before the colon") if "," in weights else None
    try:
        models = check_weights(weights)
    except ValueError as error:
        is_preset = _can_be_told_when_used(weights, error)
        return Line(name, weights, is_preset, _in_words(weights, error), is_preset or _are_meant(name, weights))
    character = unusable_in_tag(name)
    return Line(name, weights, models=models, fault=character and f"{character!r} cannot stand in a tag")


def unusable_in_tag(name: str) -> str | None:
    """The first character of a name that cannot stand in a tag; None if the name can be used."""
    return next((character for character in name if character in _NOT_IN_A_TAG), None)


def check_weights(weights: str) -> Hashable:
    """What tells which models block weights are for: of two lines with the same, one is of no use.

    Raises:
        ValueError: a preset with this text can be used on no published model.
    """
    if is_named(weights):
        return frozenset(family.title for family in named_weights.check(weights))
    items = split_vector(weights)
    if is_vector(weights):
        check_none_is_missing(items)
    if not is_vector(weights) or not families_of_length(len(items)):
        raise ValueError(f"{len(items)} values; expected 12, 17, 20, 26, 61, or one for each block of a model")
    check_values(items)
    return len(items)


def _in_words(weights: str, error: ValueError) -> str:
    if not weights:
        return "nothing behind the colon; expected values, or blocks by name"
    if is_value(weights):
        return f"one value alone is no preset; expected {named_weights.as_preset(weights)}"
    if not is_named(weights) and not any(map(is_value, split_vector(weights))):
        return f"{shortened(weights)!r} is no block weights; expected values, or blocks by name"
    return str(error)


_BLOCKS = re.compile(r"[A-Z][A-Z0-9_]+|[A-Za-z_](?:[A-Za-z0-9_.]*)\d")
"""What blocks and rows of a model look like that no family is known for."""


def _can_be_told_when_used(weights: str, error: ValueError) -> bool:
    """Whether what is wrong with a line is its length, its blocks or a value, so that it is a preset all the same: it
    may be for another model, and whoever uses it is told the reason."""
    if is_named(weights):
        return isinstance(error, UnknownBlockError) and all(map(_BLOCKS.fullmatch, error.word.split("-")))
    items = split_vector(weights)
    return "," in weights and (bool(families_of_length(len(items))) or all(map(is_value, items)))


def _are_meant(name: str, weights: str) -> bool:
    """Whether what stands behind a colon is meant as block weights, and not as the rest of a sentence."""
    if is_named(weights):
        words, _is_inverted = split_words(weights.rpartition("=")[0].split(",")[-1])
        return bool(words) and all(families_with(word) or _BLOCKS.fullmatch(word) for word in words)
    if "," in weights:
        return True
    items = weights.split()
    return all(map(is_value, items)) and (len(items) > 1 or " " not in name)


_FEWEST_VALUES = 5
"""Numbers in a row that are no part of a sentence."""


def _without_colon(body: str) -> Line | None:
    """``A=1,0,0,...``: values with another sign before them, or no name at all."""
    name, equals, weights = (part.strip() for part in body.partition("="))
    are_blocks = is_named(weights) and name and families_with(name.split()[-1].split("-")[0])
    if equals and name and "," not in name and not are_blocks:
        return Line(name, weights, False, "'=' where the colon belongs") if _are_meant(name, weights) else None
    head, *others = [item.strip() for item in body.split(",")] if "," in body else body.split() or [""]
    if len(others) < _FEWEST_VALUES - 1 or not all(map(is_value, filter(None, others))):
        return None
    if is_value(head):
        return Line("", body, False, "no name before the values; expected NAME:values")
    first = re.split(r"[\s;|]+", head)[-1]
    name = head[: -len(first)].rstrip(" \t;|") if is_value(first) else head
    sign = body[len(name) :][:1]
    what = {"\t": "a tab", " ": "a blank"}.get(sign, repr(sign))
    return Line(name, body[len(name) + 1 :].strip(), False, f"{what} where the colon belongs")
