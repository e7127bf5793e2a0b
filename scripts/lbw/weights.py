"""Weight vectors: ``1,0,R,X+0.2,...`` -> one ratio for each block."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from lbw.blocks import LAYOUTS, SDXL_LABELS, Family, family_of_layout, labels_of

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


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


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
            offset = _finite(match[2]) if match[1] else 0.0
            return x - offset if match[1] == "-" else x + offset
        return _finite(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a value; expected a number, R, U, X, X+n or X-n") from None


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


def has_random_value(text: str) -> bool:
    """Whether a vector contains ``R`` or ``U``, so that its values depend on the seed."""
    return any(item.strip() in ("R", "U") for item in text.split(","))


def zeroed_sdxl_blocks(weights: BlockWeights) -> tuple[str, ...]:
    """The attention blocks of an SDXL U-Net that a vector zeroes only because its layout lacks them."""
    with_attention = set(LAYOUTS[12]) & set(SDXL_LABELS)
    return tuple(label for label in weights.missing_on(SDXL_LABELS) if label in with_attention)
