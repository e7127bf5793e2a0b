"""Axes: what a plot varies. A text with values -> the change that each value makes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lbw.tags.blocks import Selector, parse_blocks
from lbw.tags.elements import parse_rules
from lbw.tags.families import Family
from lbw.tags.library import Library
from lbw.tags.limits import LARGEST_NUMBER, MOST_CELLS, listed, number, shortened
from lbw.tags.prompt import Warn
from lbw.tags.schedule import parse_windows
from lbw.tags.weights import Vector, check_value


@dataclass(frozen=True)
class Blocks:
    """Blocks that get a value. ``written`` are the labels that the text spells out: single ones, those of groups, and
    ends of ranges."""

    selector: Selector
    written: frozenset[str]


@dataclass(frozen=True)
class Change:
    """What values of axes change in a generation. None and () leave a thing as it is.

    ``originals`` are vectors that stand in for the tag's own, ``value`` is what ``blocks`` get (all blocks, if there
    are none), ``rules`` come behind the tag's element rules.
    """

    seed: int | None = None
    originals: tuple[Vector, ...] = ()
    blocks: tuple[Blocks, ...] = ()
    value: str | None = None
    rules: str | None = None
    strength: str | None = None
    start: str | None = None
    stop: str | None = None

    def __and__(self, other: Change) -> Change:
        """Both changes. Vectors and blocks add up; of two values for one thing the other's counts."""

        def both(name: str) -> Any:
            ours, theirs = getattr(self, name), getattr(other, name)
            return ours + theirs if isinstance(ours, tuple) else ours if theirs is None else theirs

        return Change(**{item.name: both(item.name) for item in fields(Change)})


@dataclass(frozen=True)
class Point:
    """One value of an axis: what is written beside it, and what it changes."""

    label: str
    change: Change


@dataclass(frozen=True)
class Axis:
    """A dimension of a plot. One that varies nothing has the kind ``none`` and a single point."""

    kind: str
    points: tuple[Point, ...]


NO_AXIS = Axis("none", (Point("", Change()),))


@dataclass(frozen=True)
class Meaning:
    """What the words of an axis's values mean in one request.

    Args:
        library: names of vectors and rule sets.
        family: of the model's blocks.
        draw: makes a seed.
    """

    library: Library
    family: Family
    draw: Callable[[], int]


def _blocks(text: str, meaning: Meaning) -> Change:
    family = meaning.family
    selector = parse_blocks(text, family)
    if selector.words and not selector.inverted and not any(map(family.has, selector.words)):
        raise ValueError(f"no block of this {family.title} model; expected {', '.join(family.all_names)}")
    ends = {label for end in text.replace("-", " ").split() for label in family.find(end)}
    return Change(blocks=(Blocks(selector, selector.words & ends),))


def _value(text: str, _meaning: Meaning) -> Change:
    check_value(text)
    return Change(value=text)


def _seed(text: str, meaning: Meaning) -> Change:
    try:
        seed = int(text)
    except ValueError:
        raise ValueError("expected a whole number, or -1 for a random one") from None
    return Change(seed=meaning.draw() if seed == -1 else seed)


def _original(text: str, meaning: Meaning) -> Change:
    return Change(originals=(meaning.library.vector(text, meaning.family),))


def _elements(text: str, meaning: Meaning) -> Change:
    rules = meaning.library.rule_sets.get(text, text)
    if ":" not in rules:
        names = listed(meaning.library.rule_sets)
        raise ValueError(f"no rule set of this name; expected blocks:elements:ratio, or one of {names}")
    parse_rules(rules, meaning.family)
    return Change(rules=rules)


def _step(key: str, text: str) -> str:
    _windows, problems = parse_windows({key: text})
    if problems or set(text) & set(":=<>"):
        raise ValueError("expected a step as in a tag: 5, 0.5 or 50%")
    return text


def _start(text: str, _meaning: Meaning) -> Change:
    return Change(start=_step("start", text))


def _stop(text: str, _meaning: Meaning) -> Change:
    return Change(stop=_step("stop", text))


def _strength(text: str, _meaning: Meaning) -> Change:
    try:
        number(text)
    except ValueError:
        raise ValueError(f"expected a number up to {LARGEST_NUMBER:.0f}") from None
    return Change(strength=text)


_READERS: Mapping[str, Callable[[str, Meaning], Change]] = {
    "Block ID": _blocks,
    "values": _value,
    "seed": _seed,
    "Original Weights": _original,
    "elements": _elements,
    "start": _start,
    "stop": _stop,
    "strength": _strength,
}

AXIS_TYPES = ("none", *_READERS)
"""What an axis can vary. The first six are the original extension's."""

_ADDS_UP = ("Block ID", "Original Weights")
"""What several axes of one plot may vary at once."""


def split_values(text: str) -> list[str]:
    """Values separated by commas or line ends; one that has a comma in it stands in double quotes."""
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    try:
        return [value.strip() for row in rows for value in row if value.strip()]
    except csv.Error:  # a value longer than the reader takes, which is none
        return [text]


def read_change(kind: str, text: str, meaning: Meaning) -> Change:
    """The change of one value of an axis.

    Raises:
        ValueError: the value cannot be used; the message says what was expected.
    """
    try:
        return _READERS[kind](text, meaning)
    except ValueError as error:
        raise ValueError(f"{kind} {shortened(text)!r}: {error}") from None


def _read_axis(name: str, kind: str, text: str, meaning: Meaning, warn: Warn) -> Axis:
    if kind == "none":
        return NO_AXIS
    points = []
    values = split_values(text)
    if len(values) > MOST_CELLS:
        warn(f"{name}: {len(values)} values; expected at most {MOST_CELLS}, the others are left out")
    for value in values[:MOST_CELLS]:
        try:
            change = read_change(kind, value, meaning)
        except ValueError as error:
            warn(f"{name}: {error}; it is left out")
            continue
        points.append(Point(_label(kind, value, change), change))
    if not points:
        warn(f"{name}: {kind} has no value that can be used; the axis is left out")
    return Axis(kind, tuple(points)) if points else NO_AXIS


def _label(kind: str, value: str, change: Change) -> str:
    """What stands beside the images: numbers of a kind that a plot mostly is not about say which it is."""
    if change.seed is not None:
        return f"seed: {change.seed}"
    return f"{kind}: {value}" if kind in ("start", "stop", "strength") else value


def read_axes(given: Mapping[str, tuple[str, str]], meaning: Meaning, warn: Warn) -> tuple[Axis, ...]:
    """The axes of a plot.

    Args:
        given: {name of the axis: (type, text with values)}.
        warn: gets one message for each value or axis that cannot be used, and is left out.
    """
    axes: list[Axis] = []
    for name, (kind, text) in given.items():
        axis = _read_axis(name, kind, text, meaning, warn)
        if axis.kind not in ("none", *_ADDS_UP) and axis.kind in [other.kind for other in axes]:
            warn(f"{name}: another axis has {axis.kind} already; this one is left out")
            axis = NO_AXIS
        axes.append(axis)
    kinds = [axis.kind for axis in axes]
    if "Block ID" in kinds and "values" not in kinds:
        warn("an axis of type Block ID needs another one of type values; it is left out")
        axes = [NO_AXIS if axis.kind == "Block ID" else axis for axis in axes]
    return tuple(axes)
