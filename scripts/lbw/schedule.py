"""Schedules: start=, stop= and step= -> the strength of a LoRA at step i of n.

A schedule is a function of the solver's step, 0-based, and of the number of steps of the sampling pass. Everything that
uses one asks :meth:`Schedule.strength` and nothing else, so one with other shapes than on and off fits in its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lbw.limits import shortened


@dataclass(frozen=True)
class Position:
    """A step, as an absolute number or as a share of the pass's steps, ``offset`` steps later."""

    value: float
    is_fraction: bool = False
    offset: int = 0

    def resolve(self, steps: int) -> int:
        """The step number in a pass of ``steps`` steps. A share v, 0 < v < 1, is ``max(1, round(v * steps))``."""
        if not self.is_fraction:
            return int(self.value) + self.offset
        if self.value in (0.0, 1.0):
            return int(self.value * steps) + self.offset
        return max(1, round(self.value * steps)) + self.offset


@dataclass(frozen=True)
class Window:
    """Steps from ``start`` on (None: from the first), before ``stop`` (None: to the last)."""

    start: Position | None = None
    stop: Position | None = None

    def contains(self, step: int, steps: int) -> bool:
        if self.start is not None and step < self.start.resolve(steps):
            return False
        return self.stop is None or step < self.stop.resolve(steps)


@dataclass(frozen=True)
class Schedule:
    """On in the steps that all windows contain; without windows, in every step."""

    windows: tuple[Window, ...] = ()

    def strength(self, step: int, steps: int) -> float:
        """The factor, 0 to 1, on the LoRA's strength at ``step`` of a pass of ``steps`` steps."""
        return float(all(window.contains(step, steps) for window in self.windows))

    @property
    def depends_on_steps(self) -> bool:
        """Whether a share of the pass's steps is among its positions."""
        positions = (position for window in self.windows for position in (window.start, window.stop))
        return any(position is not None and position.is_fraction for position in positions)

    def is_empty(self, steps: int) -> bool:
        """Whether ``start`` and ``stop`` contradict each other, so that the LoRA is never on.

        ``stop=0`` does not count: it is how a user asks for the text encoder's part alone.
        """
        stops = [window.stop.resolve(steps) for window in self.windows if window.stop is not None]
        starts = [window.start.resolve(steps) for window in self.windows if window.start is not None]
        return bool(starts and stops) and max(starts) >= min(stops) > 0


ALWAYS = Schedule()

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_POSITION = re.compile(rf"({_NUMBER})(%?)")
_RANGE = re.compile(rf"((?:{_NUMBER})%?)?\s*-\s*((?:{_NUMBER})%?)?")


def parse_position(text: str) -> Position:
    """An integer, a fraction between 0 and 1, or a percentage.

    Raises:
        ValueError: the text is none of these.
    """
    if match := _POSITION.fullmatch(text.strip()):
        value = float(match[1])
        if math.isinf(value):
            raise ValueError(f"{shortened(text)!r} is not a step; its number is too large")
        if match[2] and value <= 100:
            return Position(value / 100, is_fraction=True)
        if not match[2] and 0 < value < 1:
            return Position(value, is_fraction=True)
        if not match[2] and math.floor(value) == value:
            return Position(value)
    raise ValueError(
        f"{shortened(text)!r} is not a step; expected a whole number (5), a fraction (0.5) or a percentage (50%)"
    )


def parse_range(text: str) -> Window:
    """``a-b``, ``a-``, ``-b``, or ``a`` for that step alone.

    Raises:
        ValueError: the text is none of these.
    """
    text = text.strip()
    if match := _RANGE.fullmatch(text):
        if match[1] is None and match[2] is None:
            raise ValueError(f"{shortened(text)!r} is not a range of steps; expected a-b, a-, -b or a")
        return Window(*(None if part is None else parse_position(part) for part in match.groups()))
    try:
        position = parse_position(text)
    except ValueError:
        raise ValueError(f"{shortened(text)!r} is not a range of steps; expected a-b, a-, -b or a") from None
    return Window(position, Position(position.value, position.is_fraction, offset=1))


_WINDOWS = {
    "start": lambda text: Window(start=parse_position(text)),
    "stop": lambda text: Window(stop=parse_position(text)),
    "step": parse_range,
}
KEYS = tuple(_WINDOWS)


def parse_schedule(arguments: Mapping[str, str]) -> tuple[Schedule, list[str]]:
    """The schedule of a tag's ``start=``, ``stop=`` and ``step=`` arguments, and a message for each unreadable one."""
    windows, problems = [], []
    for key, parse in _WINDOWS.items():
        if key not in arguments:
            continue
        try:
            windows.append(parse(arguments[key]))
        except ValueError as error:
            problems.append(f"{key}={shortened(arguments[key])}: {error}; the LoRA works without it")
    return Schedule(tuple(windows)), problems
