"""Curves: ``0@0,1@0.5,0@1`` -> a value at step i of n."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from lbw.tags.limits import LARGEST_NUMBER, MOST_KEYFRAMES, number, shortened
from lbw.tags.positions import Position, Sigmas, Unit, parse_places, sigma_at, step_at


class Shape(Enum):
    """How a curve runs between two keyframes."""

    LINEAR = "linear"
    STEP = "step"
    COSINE = "cosine"

    def ease(self, part: float) -> float:
        """What part of the change is done after a ``part`` of the way, 0 <= part < 1."""
        if self is Shape.STEP:
            return 0.0
        return part if self is Shape.LINEAR else (1 - math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class Curve:
    """Values at positions, with ``shape`` between them, and constant before the first and behind the last.

    Where two keyframes are in one place, the later one holds from there on.

    ``levels`` are those of the noise schedule of whose steps the positions are, in a pass that has steps of its own.
    """

    values: tuple[float, ...]
    positions: tuple[Position, ...]
    shape: Shape = Shape.LINEAR
    levels: tuple[float, ...] = ()

    def by_noise(self, levels: Sequence[float]) -> Curve:
        """The curve in a pass whose steps nobody knows beforehand, with shares of a noise schedule of ``levels``."""
        has_share = any(position.unit is Unit.SHARE for position in self.positions)
        return replace(self, levels=tuple(levels)) if has_share else self

    @property
    def depends_on_noise(self) -> bool:
        return bool(self.levels) or any(position.unit is Unit.SIGMA for position in self.positions)

    @cached_property
    def _in_order(self) -> dict[int, tuple[list[float], list[float]]]:
        """{number of steps: places and values of the keyframes, in the order of time}, filled as it is asked for."""
        return {}

    def _keyframes(self, steps: int) -> tuple[list[float], list[float]]:
        if steps not in self._in_order:
            places = [position.place(steps) for position in self.positions]
            order = sorted(range(len(places)), key=places.__getitem__)
            self._in_order[steps] = [places[i] for i in order], [self.values[i] for i in order]
        return self._in_order[steps]

    def value(self, step: int, steps: int, sigmas: Sigmas = ()) -> float:
        """The value at ``step`` of a pass of ``steps`` steps. It is exact wherever the curve is constant."""
        places, values = self._keyframes(len(self.levels) or steps)
        now: float = step
        if self.levels:
            now = step_at(sigma_at(step, steps, sigmas), self.levels)
        elif self.positions[0].unit is Unit.SIGMA:
            now = -sigma_at(step, steps, sigmas)
        index = bisect_right(places, now)
        if index in (0, len(places)):
            return values[max(index - 1, 0)]
        (left, right), (before, after) = places[index - 1 : index + 1], values[index - 1 : index + 1]
        return before + (after - before) * self.shape.ease((now - left) / (right - left))


def is_curve(text: str) -> bool:
    """Whether a text has keyframes, and is not just one value."""
    return "@" in text or "~" in text


def split_keyframes(text: str) -> list[tuple[str, str]]:
    """(value, position) of each keyframe of ``value@position,value@position``; also with ``;`` or ``~``.

    A value may have commas of its own, as a vector does. One at the end that has no position belongs to the end of the
    pass.

    Raises:
        ValueError: there are too many.
    """
    value, *rest = re.split("[@~]", text)
    if len(rest) > MOST_KEYFRAMES:
        raise ValueError(f"{len(rest)} keyframes; expected at most {MOST_KEYFRAMES}")
    keyframes = []
    for part in rest:
        position, *further = re.split("[,;]", part, maxsplit=1)
        keyframes.append((value.strip(), position.strip()))
        value = further[0] if further else ""
    if value.strip():
        keyframes.append((value.strip(), "100%"))
    return keyframes


def parse_curve(text: str, shape: Shape = Shape.LINEAR) -> Curve:
    """``value@position`` pairs.

    Raises:
        ValueError: there are too many, or a value or a position is none; the message says which.
    """
    keyframes = split_keyframes(text)
    values = []
    for value, position in keyframes:
        try:
            values.append(number(value))
        except ValueError:
            shown = shortened(f"{value}@{position}", 40)
            raise ValueError(
                f"{shown!r} is not weight@position; expected a number up to {LARGEST_NUMBER:.0f} before the @"
            ) from None
    return Curve(tuple(values), parse_places([position for _, position in keyframes]), shape)


def parse_shape(text: str) -> Shape:
    """The name of a shape.

    Raises:
        ValueError: there is no shape of this name.
    """
    try:
        return Shape(text.strip())
    except ValueError:
        raise ValueError(f"expected {', '.join(shape.value for shape in Shape)}") from None


def constant(values: Sequence[float]) -> float | None:
    """The value that all have; None if they differ."""
    return values[0] if all(value == values[0] for value in values) else None
