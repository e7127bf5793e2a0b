"""Schedules: start=, stop=, step= and curves -> the strength of a LoRA at step i of n.

A schedule is a function of the solver's step, 0-based, of the number of steps of the sampling pass and of the noise
levels of its steps. Everything that uses one asks :meth:`Schedule.strength` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from lbw.tags.curves import Curve
from lbw.tags.limits import shortened
from lbw.tags.positions import Position, Sigmas, Unit, parse_position, split_range
from lbw.tags.presence import Presence


@dataclass(frozen=True)
class Window:
    """Steps from ``start`` on (None: from the first), before ``stop`` (None: to the last)."""

    start: Position | None = None
    stop: Position | None = None

    def contains(self, step: int, steps: int, sigmas: Sigmas) -> bool:
        if self.start is not None and not self.start.is_reached(step, steps, sigmas):
            return False
        return self.stop is None or not self.stop.is_reached(step, steps, sigmas)

    def by_noise(self, levels: Sigmas) -> Window:
        """As :meth:`Schedule.by_noise`."""
        return Window(*(None if end is None else end.by_noise(levels) for end in (self.start, self.stop)))


@dataclass(frozen=True)
class Schedule:
    """On in the steps that all windows contain, with the product of all curves; without any, 1 in every step.

    ``presence`` is that of the tag in its prompt, which may change from one evaluation of the model to the next, inside
    a step even. ``is_held`` keeps the strength at the start of the pass for all of it: the text encoder runs once,
    before sampling.
    """

    windows: tuple[Window, ...] = ()
    curves: tuple[Curve, ...] = ()
    is_held: bool = False
    presence: Presence | None = None

    def strength(self, step: int, steps: int, sigmas: Sigmas = (), evaluations: Sequence[int] = ()) -> float:
        """The factor on the LoRA's strength at ``step`` of a pass of ``steps`` steps.

        Args:
            step: the solver's step, 0-based.
            steps: how many the pass has.
            sigmas: the noise level at which each of them begins; without them, those of a usual schedule are taken.
            evaluations: those of the model, 0-based, whose mean strength it is; without them, those of the step.
        """
        step = 0 if self.is_held else step
        if not all(window.contains(step, steps, sigmas) for window in self.windows):
            return 0.0
        present = 1.0 if self.presence is None else self.presence.share(step, evaluations)
        return prod((curve.value(step, steps, sigmas) for curve in self.curves), start=present)

    def strengths(
        self, steps: int, sigmas: Sigmas = (), evaluations: Sequence[Sequence[int]] = ()
    ) -> tuple[float, ...]:
        """The factor in each step of a pass.

        Args:
            evaluations: of each step as far as they are known, as for :meth:`strength`.
        """
        return tuple(
            self.strength(step, steps, sigmas, evaluations[step] if step < len(evaluations) else ())
            for step in range(steps)
        )

    @property
    def largest(self) -> float:
        """The largest magnitude that its strength can have, in any pass."""
        return prod((max(map(abs, curve.values)) for curve in self.curves), start=1.0)

    def with_curve(self, curve: Curve) -> Schedule:
        """The schedule whose strength is multiplied by ``curve``, too."""
        return replace(self, curves=(*self.curves, curve))

    def without_curves(self) -> Schedule:
        """Its windows and the presence alone."""
        return replace(self, curves=())

    def by_noise(self, levels: Sigmas) -> Schedule:
        """The schedule in a pass whose steps nobody knows beforehand: shares are those of a noise schedule of
        ``levels``."""
        windows = tuple(window.by_noise(levels) for window in self.windows)
        return replace(self, windows=windows, curves=tuple(curve.by_noise(levels) for curve in self.curves))

    def _positions(self) -> list[Position]:
        ends = [position for window in self.windows for position in (window.start, window.stop)]
        return [end for end in ends if end is not None] + [each for curve in self.curves for each in curve.positions]

    @property
    def depends_on_pass(self) -> bool:
        """Whether a share of the pass's steps or a noise level is among its positions."""
        return any(position.unit is not Unit.STEP for position in self._positions())

    @property
    def depends_on_noise(self) -> bool:
        """Whether a noise level is among its positions."""
        in_windows = any(position.unit is Unit.SIGMA for position in self.without_curves()._positions())
        return in_windows or any(curve.depends_on_noise for curve in self.curves)

    def is_empty(self, steps: int, sigmas: Sigmas = ()) -> bool:
        """Whether ``start`` and ``stop`` contradict each other, so that the LoRA is never on.

        ``stop=0`` does not count: it is how a user asks for the text encoder's part alone.
        """
        stops = [_first_step(window.stop, steps, sigmas) for window in self.windows if window.stop is not None]
        starts = [_first_step(window.start, steps, sigmas) for window in self.windows if window.start is not None]
        return bool(starts and stops) and max(starts) >= min(stops) > 0

    def late_start(self, steps: int, sigmas: Sigmas = ()) -> Position | None:
        """A start that a pass never comes to, as far as that is known."""
        starts = [window.start for window in self.windows if window.start is not None]
        known = [start for start in starts if start.unit is not Unit.SIGMA or len(sigmas) >= steps]
        return next((start for start in known if _first_step(start, steps, sigmas) >= steps), None)

    @property
    def has_one_unit(self) -> bool:
        """Whether its windows can be compared without knowing a pass."""
        return len({position.unit for position in self.without_curves()._positions()}) == 1


def _first_step(position: Position, steps: int, sigmas: Sigmas) -> int:
    """The first step at which a pass has come to ``position``; ``steps`` for a noise level that it never gets to."""
    if position.unit is not Unit.SIGMA:
        return position.resolve(steps)
    return next((step for step in range(steps) if position.is_reached(step, steps, sigmas)), steps)


ALWAYS = Schedule()


def parse_range(text: str) -> Window:
    """``a-b``, ``a-``, ``-b``, or ``a`` for that step alone.

    Raises:
        ValueError: the text is none of these.
    """
    ends = split_range(text)
    if ends is not None and ends != (None, None):
        return Window(*(None if end is None else parse_position(end) for end in ends))
    try:
        position = parse_position(text)
        if position.unit is Unit.SIGMA:
            raise ValueError
    except ValueError:
        raise ValueError(f"{shortened(text.strip())!r} is not a range of steps; expected a-b, a-, -b or a") from None
    return Window(position, replace(position, offset=1))


_WINDOWS = {
    "start": lambda text: Window(start=parse_position(text)),
    "stop": lambda text: Window(stop=parse_position(text)),
    "step": parse_range,
}


def parse_windows(arguments: Mapping[str, str], prefix: str = "") -> tuple[dict[str, Window], list[str]]:
    """The windows of a tag's ``start=``, ``stop=`` and ``step=`` arguments, and a message for each unreadable one.

    Args:
        arguments: the named arguments of a tag.
        prefix: of the keys, ``hr`` for those of the hires pass.
    """
    windows, problems = {}, []
    for key, parse in _WINDOWS.items():
        name = prefix + key
        if name not in arguments:
            continue
        try:
            windows[key] = parse(arguments[name])
        except ValueError as error:
            problems.append(f"{name}={shortened(arguments[name])}: {error}; the LoRA works without it")
    return windows, problems
