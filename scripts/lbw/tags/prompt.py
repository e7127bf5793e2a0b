"""Tags: the arguments of ``<lora:name:1:lbw=OUTD:stop=5>`` -> LoraRequest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lbw.tags.curves import Curve, Shape, constant, is_curve, parse_curve, parse_shape
from lbw.tags.limits import LARGEST_NUMBER, number, shortened
from lbw.tags.positions import Position, Sigmas, Unit
from lbw.tags.presence import Presence
from lbw.tags.schedule import ALWAYS, Schedule, Window, parse_windows
from lbw.tags.slips import key_of, split_arguments
from lbw.tags.weights import is_value

Warn = Callable[[str], None]

Strength = float | Curve
_Default = TypeVar("_Default", Strength, Strength | None)

HIRES_KEYS = ("hr", "hrte", "hrunet", "hrlbw", "hrstart", "hrstop", "hrstep")
"""What a tag asks for in the hires pass; what it does not say is as in the first pass."""


@dataclass(frozen=True)
class LoraRequest:
    """What one tag asks for in one sampling pass. ``weights`` is a preset's name or a vector, or several as keyframes
    of a curve of the given ``shape``, and ``weights_label`` is what stands before it in the tag; ``elements`` is the
    name of a rule set.

    A multiplier that is a curve is 1 here, and the curve in the schedule: ``schedule`` is of the U-Net, ``te_schedule``
    of the text encoder. ``hires`` is what the tag asks for in the hires pass, where that differs;
    ``differs_by_pass`` is true of both. ``levels`` are of a noise schedule, see :meth:`by_noise`. ``written`` is the
    whole tag as its prompt has it, where there is one, and ``is_played`` says that a hand has set its strength.
    """

    name: str
    te_multiplier: float = 1.0
    unet_multiplier: float = 1.0
    dyn_dim: int | None = None
    weights: str | None = None
    weights_label: str = "lbw="
    elements: str | None = None
    x: float = 1.0
    schedule: Schedule = ALWAYS
    te_schedule: Schedule = ALWAYS
    shape: Shape = Shape.LINEAR
    hires: LoraRequest | None = None
    differs_by_pass: bool = False
    levels: tuple[float, ...] = ()
    is_played: bool = False
    written: str = field(default="", compare=False)

    @property
    def is_plain(self) -> bool:
        """Whether the tag asks for nothing that the host would not do by itself."""
        return (
            self.weights is None
            and self.elements is None
            and self.schedule == self.te_schedule == ALWAYS
            and not self.differs_by_pass
            and not self.is_played
        )

    @property
    def has_curve(self) -> bool:
        """Whether a strength, block weights apart, follows a curve."""
        return bool(self.schedule.curves) or self.te_schedule != ALWAYS

    def in_pass(self, is_hires: bool) -> LoraRequest:
        """What the tag asks for in the hires pass, or in the first one."""
        return self.hires if is_hires and self.hires is not None else self

    def by_noise(self, levels: Sigmas) -> LoraRequest:
        """The request in a pass whose steps nobody knows beforehand: shares are those of a noise schedule of
        ``levels``."""
        schedule, te_schedule = self.schedule.by_noise(levels), self.te_schedule.by_noise(levels)
        return replace(self, schedule=schedule, te_schedule=te_schedule, levels=tuple(levels))

    def present(self, presence: Presence | None) -> LoraRequest:
        """The request of a tag that its prompt has at times only; None: at all times."""
        return replace(self, schedule=replace(self.schedule, presence=presence))

    def unet_strengths(
        self, steps: int, sigmas: Sigmas = (), evaluations: Sequence[Sequence[int]] = ()
    ) -> tuple[float, ...]:
        """The strength in the U-Net in each step of a pass, block weights apart."""
        return tuple(self.unet_multiplier * factor for factor in self.schedule.strengths(steps, sigmas, evaluations))

    def te_strength(self, steps: int, sigmas: Sigmas = ()) -> float:
        """The strength in the text encoder, which runs once before a pass, block weights apart."""
        return self.te_multiplier * self.te_schedule.strength(0, steps, sigmas)


def is_strength(text: str) -> bool:
    """Whether a positional argument is meant as a multiplier, or as a curve of multipliers, not as a preset's name."""
    try:
        float(re.split("[@~]", text, maxsplit=1)[0])
    except ValueError:
        return False
    return True


def _number(text: str, default: float, label: str, warn: Warn) -> float:
    try:
        return number(text)
    except ValueError:
        warn(f"{label}{shortened(text)}: expected a number up to {LARGEST_NUMBER:.0f}; {default:g} is used")
        return default


def _strength(text: str, default: _Default, shape: Shape, label: str, warn: Warn) -> Strength | _Default:
    try:
        if not is_curve(text):
            return number(text)
        curve = parse_curve(text, shape)
    except ValueError as error:
        number_expected = f"expected a number up to {LARGEST_NUMBER:.0f}, or weight@position pairs"
        expected = error if is_curve(text) else number_expected
        instead = f"{default:g} is used" if isinstance(default, float) else "it is left out"
        warn(f"{label}{shortened(text)}: {expected}; {instead}")
        return default
    value = constant(curve.values)
    return curve if value is None else value


def _named_number(named: Mapping[str, str], key: str, default: float, warn: Warn) -> float:
    return _number(named[key], default, f"{key}=", warn) if key in named else default


def _dyn_dim(text: str | None, warn: Warn) -> int | None:
    if text is None:
        return None
    try:
        value = number(text)
        if value < 1 or not value.is_integer():
            raise ValueError
    except ValueError:
        warn(f"dyn={shortened(text)}: expected a whole number of at least 1; the full rank is used")
        return None
    return int(value)


_PARTS = {"in": "FIRST", "mid": "MID", "out": "LAST"}
"""Keys of a tag for parts of the model, as another WebUI has them, and the groups of blocks that they are."""

_STRENGTH_KEYS = ("te", "unet", "hr", "hrte", "hrunet")


def without_strengths(items: Sequence[str]) -> list[str]:
    """The arguments of a tag whose strengths somebody else reads, whatever their form."""
    name, arguments = list(items[:1]), items[1:]
    return name + [
        item for item in arguments if not is_strength(item) and key_of(item.partition("=")[0]) not in _STRENGTH_KEYS
    ]


def _tell_what_counts_of_two(strengths: Sequence[str], named: Mapping[str, str], warn: Warn) -> None:
    """A key counts before a number without one. That of the text encoder alone is for the U-Net, too, as on the host.

    Not told of ``1``, which people write before other keys out of habit, unless the U-Net gets another strength.
    """
    for key, item in zip(("te", "unet", "dyn"), strengths, strict=False):
        is_for_both = key == "te" and len(strengths) == 1 and "unet" not in named
        if not is_strength(named.get(key, "")) or named[key] == item or (item == "1" and not is_for_both):
            continue
        where = f" for both; unet={shortened(item)} would keep the U-Net's" if is_for_both else ""
        warn(f"{shortened(item)}: the tag also has {key}={shortened(named[key])}, which is used{where}")


def _shape(named: Mapping[str, str], warn: Warn) -> Shape:
    try:
        return parse_shape(named.get("curve", Shape.LINEAR.value))
    except ValueError as error:
        warn(f"curve={shortened(named['curve'])}: {error}; {Shape.LINEAR.value} is used")
        return Shape.LINEAR


def _window(named: Mapping[str, str], prefix: str, default: Window, warn: Warn) -> Window:
    """When a LoRA works. Each end that the tag does not say is that of ``default``, unless it is beyond the other end.

    Args:
        prefix: of the keys, ``hr`` for those of the hires pass.
    """
    windows, problems = parse_windows(named, prefix)
    for problem in problems:
        warn(problem)
    start, stop, both = (windows.get(key, Window()) for key in ("start", "stop", "step"))
    if start.start is not None and start.start.unit is Unit.SHARE and stop.stop == Position(1):
        warn(f"{prefix}stop={named[prefix + 'stop']}: the start is a share of the pass, so that this is its end, 1.0")
        stop = Window(stop=Position(1, Unit.SHARE))
    twice = [
        f"{prefix}{key}={named[prefix + key]}"
        for key, one, other in (("start", start.start, both.start), ("stop", stop.stop, both.stop))
        if one is not None and other is not None
    ]
    if twice:
        warn(f"{' '.join(twice)}: the tag also has {prefix}step={named[prefix + 'step']}, which is used")
    begins = start.start if both.start is None else both.start
    ends = stop.stop if both.stop is None else both.stop
    if begins is None and ends is None:
        return default
    if begins is None and not _is_beyond(default.start, ends):
        begins = default.start
    elif ends is None and not _is_beyond(begins, default.stop):
        ends = default.stop
    return Window(begins, ends)


def _is_beyond(start: Position | None, stop: Position | None) -> bool:
    """Whether a start is so late that nothing is left before a stop of the same kind."""
    if start is None or stop is None or start.unit is not stop.unit:
        return False
    if start.unit is Unit.SIGMA:
        return start.value <= stop.value
    return (start.value, start.offset) >= (stop.value, stop.offset)


def _with_strengths(
    request: LoraRequest, te: Strength, unet: Strength, window: Window
) -> LoraRequest:
    """``request`` with these strengths and this window: numbers as multipliers, curves in the schedules."""
    schedule = Schedule(() if window == Window() else (window,))
    return replace(
        request,
        te_multiplier=1.0 if isinstance(te, Curve) else te,
        unet_multiplier=1.0 if isinstance(unet, Curve) else unet,
        te_schedule=Schedule(curves=(te,), is_held=True) if isinstance(te, Curve) else ALWAYS,
        schedule=schedule.with_curve(unet) if isinstance(unet, Curve) else schedule,
    )


def _weights(words: Sequence[str], named: Mapping[str, str], warn: Warn) -> tuple[str | None, str]:
    """The block weights of a tag, and what stands before them. Of several forms one is used.

    Args:
        words: the positional arguments that are no strengths.
        named: the others.
    """
    for word in words[1:]:
        warn(f"{shortened(word)!r}: one preset or vector is expected, {shortened(words[0])!r} is used")
    key = next((key for key in ("lbw", "w") if key in named), None)
    weights, label = (None, "lbw=") if key is None else (named[key], f"{key}=")
    for key in _PARTS:
        if key in named and not is_value(named[key]):
            warn(f"{key}={shortened(named[key])}: expected one value, such as 0.5; it is left out")
    parts = [f"{part}={named[key]}" for key, part in _PARTS.items() if key in named and is_value(named[key])]
    if parts and weights is None:
        weights, label = ",".join(parts), ""
    elif parts:
        warn(f"in=, mid=, out=: the tag also has {label}{shortened(weights or '')}, which is used")
    if words and weights is not None:
        warn(f"{shortened(words[0])!r}: the tag also has {label}{shortened(weights)}, which is used")
    elif words:
        weights, label = words[0], ""
    return weights, label


def parse(items: Sequence[str], warn: Warn) -> LoraRequest:
    """The request of one tag.

    Args:
        items: what stands between ``<lora:`` and ``>``, split at ``:``; the first item is the network's name.
        warn: gets one message for each argument that cannot be used, which is then left out.

    A preset's name or a vector may also stand among the positional arguments, behind the multipliers, as in the
    original's old versions.
    """
    name = items[0] if items else ""

    def warn_tag(message: str) -> None:
        warn(f"<lora:{shortened(name)}>: {message}")

    positional, named = split_arguments(items[1:], warn_tag)

    strengths = [item for item in positional if is_strength(item)]
    words = [item for item in positional if item.strip() and not is_strength(item)]
    for item in strengths[3:]:
        warn_tag(f"{shortened(item)}: three numbers are expected at most, te, unet and rank; it is left out")
    _tell_what_counts_of_two(strengths, named, warn_tag)
    weights, weights_label = _weights(words, named, warn_tag)
    shape = _shape(named, warn_tag)

    def strength(key: str, default: _Default) -> Strength | _Default:
        return _strength(named[key], default, shape, f"{key}=", warn_tag) if key in named else default

    te = _strength(strengths[0], 1.0, shape, "", warn_tag) if strengths else 1.0
    te = strength("te", te)
    unet = strength("unet", _strength(strengths[1], te, shape, "", warn_tag) if len(strengths) > 1 else te)
    window = _window(named, "", Window(), warn_tag)
    request = _with_strengths(
        LoraRequest(
            name=name,
            dyn_dim=_dyn_dim(named.get("dyn", strengths[2] if len(strengths) > 2 else None), warn_tag),
            weights=weights,
            weights_label=weights_label,
            elements=named.get("lbwe"),
            x=_named_number(named, "x", 1.0, warn_tag),
            shape=shape,
        ),
        te, unet, window,
    )
    if not any(key in named for key in HIRES_KEYS):
        return request
    request = replace(request, differs_by_pass=True)
    both = strength("hr", None)
    if "hrlbw" in named:
        weights, weights_label = named["hrlbw"], "hrlbw="
    hires = _with_strengths(
        replace(request, weights=weights, weights_label=weights_label),
        strength("hrte", te if both is None else both),
        strength("hrunet", unet if both is None else both),
        _window(named, "hr", window, warn_tag),
    )
    return replace(request, hires=hires)
