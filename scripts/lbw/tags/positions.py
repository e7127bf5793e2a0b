"""Positions: when in a sampling pass something happens, in steps, in shares of the pass or in noise levels.

A noise level is the sigma of the host's samplers. It falls from step to step, and means the same phase of the picture
whatever the number of steps, the scheduler or the denoising strength.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from lbw.tags.limits import LARGEST_NUMBER, LONGEST_NUMBER, shortened


class Unit(Enum):
    """What the value of a position counts."""

    STEP = "step"
    SHARE = "share"
    SIGMA = "sigma"


Sigmas = Sequence[float]
"""The noise level at which each step of a pass begins; empty where it is not known."""

_NOMINAL_RANGE = (14.6146, 0.0292)
_NOMINAL_RHO = 7.0


@lru_cache(maxsize=64)
def nominal_sigmas(steps: int) -> tuple[float, ...]:
    """The noise levels of Stable Diffusion with the schedule of Karras et al., for whoever knows no sampler yet."""
    first, last = (sigma ** (1 / _NOMINAL_RHO) for sigma in _NOMINAL_RANGE)
    return tuple((first + (last - first) * step / max(steps - 1, 1)) ** _NOMINAL_RHO for step in range(steps))


def sigma_at(step: int, steps: int, sigmas: Sigmas) -> float:
    """The noise level of a step; that of the last one for a step beyond it."""
    known = sigmas or nominal_sigmas(steps)
    return known[min(step, len(known) - 1)] if known else 0.0


def step_at(sigma: float, levels: Sigmas) -> float:
    """The step of a pass with ``levels`` that has come to a noise level; between two of them, by its logarithm."""
    step = sum(sigma <= level for level in levels[1:])
    if step == len(levels) - 1 or sigma >= levels[step]:
        return step
    before, after = math.log(levels[step]), math.log(levels[step + 1])
    return step + (before - math.log(sigma)) / (before - after)


@dataclass(frozen=True)
class Position:
    """A step, a share of the pass's steps, or a noise level, ``offset`` steps later."""

    value: float
    unit: Unit = Unit.STEP
    offset: int = 0

    def __str__(self) -> str:
        """As a tag has it."""
        if self.unit is Unit.SHARE:
            return f"{100 * self.value:g}%"
        return f"{self.value + self.offset:g}{'sigma' if self.unit is Unit.SIGMA else ''}"

    def resolve(self, steps: int) -> int:
        """The step number, in a pass of ``steps`` steps, at which a LoRA is switched; for steps and shares only.

        A share v, 0 < v < 1, is ``max(1, round(v * steps))``.
        """
        if self.unit is Unit.STEP:
            return int(self.value) + self.offset
        if self.value in (0.0, 1.0):
            return int(self.value * steps) + self.offset
        return max(1, round(self.value * steps)) + self.offset

    def is_reached(self, step: int, steps: int, sigmas: Sigmas) -> bool:
        """Whether a pass has come here when ``step`` begins."""
        if self.unit is Unit.SIGMA:
            return sigma_at(step, steps, sigmas) <= self.value
        return step >= self.resolve(steps)

    def by_noise(self, levels: Sigmas) -> Position:
        """In a pass whose steps nobody knows beforehand: the noise level at which one with ``levels`` comes here, for a
        share; 0, to which none comes, for its end."""
        if self.unit is not Unit.SHARE:
            return self
        step = self.resolve(len(levels))
        level = math.inf if step <= 0 else levels[step] if step < len(levels) else 0.0
        return Position(level, Unit.SIGMA)

    def place(self, steps: int) -> float:
        """Where a keyframe is: in steps, the last of which is the share 1; or the negative noise level, so that it
        rises with time, too."""
        if self.unit is Unit.SIGMA:
            return -self.value
        return self.value * max(steps - 1, 1) if self.unit is Unit.SHARE else self.value


_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_POSITION = re.compile(rf"({_NUMBER})\s*(%|sigma)?")
_RANGE = re.compile(rf"((?:{_NUMBER})(?:%|sigma)?)?\s*-\s*((?:{_NUMBER})(?:%|sigma)?)?")
_LONGEST_POSITION = LONGEST_NUMBER + len(" sigma")


def _split(text: str) -> tuple[float, str] | None:
    """The number of a position and what stands behind it; None if the text is no position of any kind."""
    text = text.strip()
    match = _POSITION.fullmatch(text) if len(text) <= _LONGEST_POSITION else None
    if match is None or not float(match[1]) <= LARGEST_NUMBER:
        return None
    return float(match[1]), match[2] or ""


def parse_position(text: str) -> Position:
    """Where a LoRA is switched: an integer, a fraction from 0 to 1 with a point, a percentage or a noise level.

    Raises:
        ValueError: the text is none of these.
    """
    match _split(text):
        case value, "sigma":
            return Position(value, Unit.SIGMA)
        case value, "%" if value <= 100:
            return Position(value / 100, Unit.SHARE)
        case value, "" if 0 < value < 1 or (value in (0.0, 1.0) and "." in text):
            return Position(value, Unit.SHARE)
        case value, "" if math.floor(value) == value:
            return Position(value)
    raise ValueError(
        f"{shortened(text)!r} is not a step; expected a whole number (5), a fraction (0.5), a percentage (50%) or a "
        "noise level (2.5sigma)"
    )


def parse_places(texts: Sequence[str]) -> tuple[Position, ...]:
    """Where the keyframes of one curve are.

    From 0 to 1 a number is a share of the pass, above 1 a step. In a curve that has steps, 1 is a step, too.

    Raises:
        ValueError: one is no position, or noise levels are mixed with others.
    """
    positions = []
    pairs = [_split(text) for text in texts]
    has_steps = any(pair is not None and pair[1] == "" and pair[0] > 1 for pair in pairs)
    for text, pair in zip(texts, pairs, strict=True):
        match pair:
            case value, "sigma":
                positions.append(Position(value, Unit.SIGMA))
            case value, "%" if value <= 100:
                positions.append(Position(value / 100, Unit.SHARE))
            case value, "" if value > 1 or (has_steps and value in (0.0, 1.0) and "." not in text):
                positions.append(Position(value))
            case value, "":
                positions.append(Position(value, Unit.SHARE))
            case _:
                raise ValueError(
                    f"{shortened(text)!r} is not a position; expected a share of the pass (0.5 or 50%), a step above "
                    "1 (12) or a noise level (2.5sigma)"
                )
    if len({position.unit is Unit.SIGMA for position in positions}) > 1:
        raise ValueError("noise levels and steps in one curve; expected only noise levels, or none")
    return tuple(positions)


def split_range(text: str) -> tuple[str | None, str | None] | None:
    """The two ends of ``a-b``, ``a-`` or ``-b``; None if the text is of another form."""
    match = _RANGE.fullmatch(text.strip())
    return None if match is None else (match[1], match[2])
