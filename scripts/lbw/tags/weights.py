"""Weight vectors: ``1,0,R,X+0.2,...`` -> one ratio for each block."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from random import Random
from types import MappingProxyType

from lbw.tags.families import KNOWN, Family, label_ranges, usual_layout
from lbw.tags.limits import LARGEST_NUMBER, number, shortened

RANDOM = ("R", "U")
"""Values that are drawn: from 0 to 1, and from -0.5 to 1.5."""

_X_VALUE = re.compile(r"X(?:([+-])(.+))?")


@dataclass(frozen=True)
class Vector:
    """Block weights for a family of models, as texts: {name: value}.

    Names are labels, one text encoder of several, or ``BASE`` where it is a group. ``given`` are the labels that the
    text has a value for; the others of the family have the value ``fill``. ``notes`` say what of the text is left out.
    ``is_by_number``: its length says which blocks are meant.
    """

    family: Family
    values: Mapping[str, str]
    given: frozenset[str]
    fill: str = "0"
    notes: tuple[str, ...] = ()
    is_by_number: bool = False

    @cached_property
    def text(self) -> str:
        """The vector as it can stand in a tag: by number, if it has a layout, or else by name."""
        if self.family.layouts.get(len(self.values)) == tuple(self.values):
            return ",".join(self.values.values())
        return self.complete().by_name()

    def by_name(self) -> str:
        """A complete vector by name, beginning with the value that most labels have."""
        labels, values = self.family.labels, self.values
        start, _count = Counter(values[label] for label in labels).most_common(1)[0]
        others = dict.fromkeys(values[label] for label in labels if values[label] != start)
        items = [
            f"{' '.join(label_ranges([label for label in labels if values[label] == value], labels))}={value}"
            for value in others
        ]
        items += [f"{name}={value}" for name, value in values.items() if name not in labels]
        return ",".join(({"0": "NONE", "1": "ALL"}.get(start, start), *items)) if items else start

    @property
    def fit(self) -> tuple[bool, bool]:
        """How well it fits the family: whether it has a value for each block that most networks change, and for the
        text encoders."""
        return self.given >= self.family.attended, self.given >= {*self.family.of_encoders}

    def complete(self) -> Vector:
        """The same with a value for each label, which does not change what it means."""
        labels = self.family.labels
        known = {label: value for name, value in self.values.items() for label in self.family.expand(name)}
        values = {label: known.get(label, self.fill) for label in labels}
        values |= {name: value for name, value in known.items() if name in self.family.single_encoders}
        return Vector(self.family, values, frozenset(labels), self.fill, self.notes)


@dataclass(frozen=True)
class BlockWeights:
    """One ratio for each block label of a family, and for text encoders that have one of their own.

    ``vector`` is what they came from, ``values`` its values as numbers.
    """

    vector: Vector
    ratios: Mapping[str, float]
    values: tuple[float, ...]

    def ratio_of(self, names: Sequence[str]) -> float:
        """The ratio of a layer whose block has these names, the narrowest first; 1 if it has none."""
        return next((self.ratios[name] for name in names if name in self.ratios), 1.0)


def parse_value(text: str, x: float, random: Random) -> float:
    """One value of a vector: a number, ``R``, ``U``, ``X``, ``X+n`` or ``X-n``.

    Raises:
        ValueError: the text is none of these.
    """
    text = text.strip()
    if text == "R":
        return round(random.random(), 3)
    if text == "U":
        return round(random.uniform(-0.5, 1.5), 3)
    try:
        if match := _X_VALUE.fullmatch(text):
            offset = number(match[2]) if match[1] else 0.0
            return x - offset if match[1] == "-" else x + offset
        return number(text)
    except ValueError:
        raise ValueError(
            f"{shortened(text)!r} is not a value; expected a number, R, U, X, X+n or X-n, "
            f"with numbers from {-LARGEST_NUMBER:.0f} to {LARGEST_NUMBER:.0f}"
        ) from None


_FOR_CHECKS = Random()
"""Whose numbers nobody uses."""


def split_vector(text: str) -> list[str]:
    """The values of a vector, which commas, blanks or line ends separate."""
    items = [item.strip() for item in text.split(",")]
    if len(items) > 1 and all(map(is_value, items)):  # X+ 0.2 is one
        return items
    return re.split(r"\s*,\s*|\s+", text.strip())


def is_vector(text: str) -> bool:
    """Whether a text is meant to have several values: a name may have blanks, too."""
    first, *others = text.split() or [""]
    return "," in text or bool(others and is_value(first))


def is_value(text: str) -> bool:
    """Whether a text is one value."""
    try:
        check_value(text)
    except ValueError:
        return False
    return True


def check_none_is_missing(items: Sequence[str]) -> None:
    """
    Raises:
        ValueError: there is nothing before, behind or between two commas.
    """
    if "" not in items:
        return
    place = items.index("") + 1
    reason = "a comma stands behind the last one" if place == len(items) else "expected one between two commas"
    raise ValueError(f"value {place} of {len(items)}: '' is not a value; {reason}")


def check_values(items: Sequence[str]) -> None:
    """
    Raises:
        ValueError: a value is none; the message says which.
    """
    for position, item in enumerate(items, 1):
        try:
            check_value(item)
        except ValueError as error:
            raise ValueError(f"value {position} of {len(items)}: {error}") from None


def check_value(text: str) -> None:
    """
    Raises:
        ValueError: the text is no value.
    """
    parse_value(text, 1.0, _FOR_CHECKS)


def parse_vector(text: str, family: Family) -> Vector:
    """A vector by number: as many values as one of the family's layouts has.

    Blocks that it has no value for are 0; but 1 where it has one for each block that counts, as the text encoders then.

    Raises:
        ValueError: the count or a value is wrong; the message says which.
    """
    items = split_vector(text)
    check_none_is_missing(items)
    if len(items) not in family.layouts:
        expected = ", ".join(map(str, family.layouts))
        others = " or ".join(each.title for each in families_of_length(len(items)))
        given = f"{len(items)} values, which are for {others}" if others else f"{len(items)} values given"
        raise ValueError(f"{given}; expected one of {expected} on this {family.title} model")
    check_values(items)
    layout = family.layouts[len(items)]
    values = dict(zip(layout, items, strict=True))
    return Vector(family, values, family.labels_in(layout), family.fill(len(items)), is_by_number=True)


@cache
def families_of_length(length: int) -> tuple[Family, ...]:
    """The families of published models that vectors of so many values are for."""
    return tuple(family for family in KNOWN if length in family.layouts)


def draw(vector: Vector, x: float = 1.0, random: Random | None = None) -> BlockWeights:
    """The ratios of a vector, whose random values are drawn in the order of its values."""
    random = random or Random()
    family, ratios, values = vector.family, dict.fromkeys(vector.family.labels, float(vector.fill)), []
    for name, text in vector.values.items():
        values.append(parse_value(text, x, random))
        ratios |= dict.fromkeys(family.expand(name), values[-1])
    return BlockWeights(vector, MappingProxyType(ratios), tuple(values))


def is_named(text: str) -> bool:
    """Whether block weights are meant to be by name, see :mod:`lbw.tags.named_weights`."""
    return "=" in text


def has_random_value(values: Sequence[str]) -> bool:
    """Whether there is ``R`` or ``U`` among the values of a vector, so that they depend on the seed."""
    return any(item in RANDOM for item in values)


def with_drawn(items: Sequence[str], x: float, drawn: str) -> list[str] | None:
    """Values with those that were drawn for them at an earlier time; None if they are not these values'.

    Args:
        items: the values, with ``R`` and ``U``.
        x: the value of ``X``.
        drawn: the numbers that all came out as.
    """
    values = drawn.split(",")
    if len(items) != len(values):
        return None
    pairs = list(zip(items, values, strict=True))
    try:
        fits = all(
            shown(parse_value(value if item in RANDOM else item, x, _FOR_CHECKS)) == value for item, value in pairs
        )
    except ValueError:
        return None
    return [value if item in RANDOM else item for item, value in pairs] if fits else None


def shown(value: float) -> str:
    """A value as an infotext has it."""
    return f"{value:.6g}"


def is_zero(text: str) -> bool:
    """Whether a value is 0, whatever is drawn."""
    try:
        return float(text) == 0.0
    except ValueError:
        return False


def blocks_on(text: str) -> str:
    """The blocks that block weights turn on, in words: ``BASE OUT03-OUT06``, ``all 17 blocks``, ``no block``.

    A value that is not known before the image is made (``R``, ``U``, ``X``) counts as on. Blocks by name are in words
    already.
    """
    if is_named(text):
        return text
    items = split_vector(text)
    layout = usual_layout(len(items))
    if not layout:
        return f"{len(items)} values"
    on = [label for label, item in zip(layout, items, strict=True) if not is_zero(item)]
    if len(on) == len(items):
        return f"all {len(items)} blocks"
    order = next(family.order for family in KNOWN if layout in family.layouts.values())
    return " ".join(label_ranges(on, order)) or "no block"
