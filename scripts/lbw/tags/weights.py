"""Weight vectors: ``1,0,R,X+0.2,...`` -> one ratio for each block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from lbw.tags.blocks import LAYOUTS, SDXL_LABELS, Family, family_of_layout, label_ranges, labels_of
from lbw.tags.limits import LARGEST_NUMBER, number, shortened

RANDOM = ("R", "U")
"""Values that are drawn: from 0 to 1, and from -0.5 to 1.5."""

_X_VALUE = re.compile(r"X(?:([+-])(.+))?")


@dataclass(frozen=True)
class BlockWeights:
    """One ratio for each block label of a family.

    ``given`` holds the labels that the vector named; the others of the family are 0 because the layout lacks them.
    """

    family: Family
    ratios: Mapping[str, float]
    given: tuple[str, ...]
    values: tuple[float, ...]

    def missing_on(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Those of ``labels`` that the vector's layout has no value for, so that they got 0."""
        return tuple(label for label in labels if label not in self.given)


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


def parse_weights(text: str, x: float = 1.0, random: Random | None = None) -> BlockWeights:
    """A vector of 12, 17, 20, 26 or 61 comma-separated values.

    Vectors of 12, 17 and 20 values are expanded to the 26 blocks of a U-Net, with 0 for the blocks they lack.

    Raises:
        ValueError: the count or a value is wrong; the message says which.
    """
    items = text.split(",")
    if len(items) not in LAYOUTS:
        expected = ", ".join(str(length) for length in LAYOUTS)
        raise ValueError(f"{len(items)} values given; expected one of {expected}")
    random = random or Random()
    values = []
    for position, item in enumerate(items, 1):
        try:
            values.append(parse_value(item, x, random))
        except ValueError as error:
            raise ValueError(f"value {position} of {len(items)}: {error}") from None
    given = LAYOUTS[len(items)]
    family = family_of_layout(len(items))
    ratios = dict.fromkeys(labels_of(family), 0.0)
    ratios.update(zip(given, values, strict=True))
    return BlockWeights(family, MappingProxyType(ratios), given, tuple(values))


def is_named(text: str) -> bool:
    """Whether block weights are meant to be by name, see :mod:`lbw.tags.named_weights`."""
    return "=" in text


def ones(family: Family) -> str:
    """The vector that leaves a network as it is."""
    return ",".join("1" for _ in labels_of(family))


def has_random_value(text: str) -> bool:
    """Whether a vector contains ``R`` or ``U``, so that its values depend on the seed."""
    return any(item.strip() in RANDOM for item in text.split(","))


def with_drawn(text: str, x: float, drawn: str) -> str | None:
    """A vector with the values that were drawn for it at an earlier time; None if they are not this vector's.

    Args:
        text: the vector, with ``R`` and ``U``.
        x: the value of ``X``.
        drawn: the numbers that all its values came out as.
    """
    items, values = [item.strip() for item in text.split(",")], drawn.split(",")
    if len(items) != len(values):
        return None
    pairs = list(zip(items, values, strict=True))
    try:
        fits = all(item in RANDOM or shown(parse_value(item, x, Random())) == value for item, value in pairs)
    except ValueError:
        return None
    return ",".join(value if item in RANDOM else item for item, value in pairs) if fits else None


def shown(value: float) -> str:
    """A value as an infotext has it."""
    return f"{value:.6g}"


def _is_zero(text: str) -> bool:
    try:
        return float(text) == 0.0
    except ValueError:
        return False


def blocks_on(vector: str) -> str:
    """The blocks that a vector turns on, in words: ``BASE OUT03-OUT06``, ``all 17 blocks``, ``no block``.

    A value that is not known before the image is made (``R``, ``U``, ``X``) counts as on. Blocks by name are in words
    already.
    """
    if is_named(vector):
        return vector
    items = vector.split(",")
    if len(items) not in LAYOUTS:
        return f"{len(items)} values"
    on = [label for label, item in zip(LAYOUTS[len(items)], items, strict=True) if not _is_zero(item)]
    if len(on) == len(items):
        return f"all {len(items)} blocks"
    return " ".join(label_ranges(on, labels_of(family_of_layout(len(items))))) or "no block"


def zeroed_sdxl_blocks(weights: BlockWeights) -> tuple[str, ...]:
    """The attention blocks of an SDXL U-Net that a vector zeroes only because its layout lacks them."""
    with_attention = set(LAYOUTS[12]) & set(SDXL_LABELS)
    return tuple(label for label in weights.missing_on(SDXL_LABELS) if label in with_attention)
