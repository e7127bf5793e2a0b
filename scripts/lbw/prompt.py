"""Tags: the arguments of ``<lora:name:1:lbw=OUTD:stop=5>`` -> LoraRequest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lbw.limits import LARGEST_NUMBER, number, shortened
from lbw.schedule import ALWAYS, Schedule, parse_schedule

Warn = Callable[[str], None]


@dataclass(frozen=True)
class LoraRequest:
    """What one tag asks for. ``weights`` is a preset's name or a vector, ``elements`` the name of a rule set."""

    name: str
    te_multiplier: float = 1.0
    unet_multiplier: float = 1.0
    dyn_dim: int | None = None
    weights: str | None = None
    elements: str | None = None
    x: float = 1.0
    schedule: Schedule = ALWAYS

    @property
    def is_plain(self) -> bool:
        """Whether the tag asks for nothing that the host would not do by itself."""
        return self.weights is None and self.elements is None and self.schedule == ALWAYS


def _is_number(text: str) -> bool:
    """Whether a positional argument is meant as a multiplier, not as the name of a preset."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str, default: float, label: str, warn: Warn) -> float:
    try:
        return number(text)
    except ValueError:
        warn(f"{label}{shortened(text)}: expected a number up to {LARGEST_NUMBER:.0f}; {default:g} is used")
        return default


def _named_number(named: dict[str, str], key: str, default: float, warn: Warn) -> float:
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


def split_arguments(items: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Positional and named arguments; an item with exactly one ``=`` is named, as on the host."""
    positional, named = [], {}
    for item in items:
        parts = item.split("=")
        if len(parts) == 2:
            named[parts[0]] = parts[1]
        else:
            positional.append(item)
    return positional, named


def parse(items: Sequence[str], warn: Warn) -> LoraRequest:
    """The request of one tag.

    Args:
        items: what stands between ``<lora:`` and ``>``, split at ``:``; the first item is the network's name.
        warn: gets one message for each argument that cannot be used, which is then left out.

    A preset's name or a vector may also stand among the positional arguments, behind the multipliers, as in the
    original's old versions.
    """
    name = items[0] if items else ""
    positional, named = split_arguments(items[1:])

    def warn_tag(message: str) -> None:
        warn(f"<lora:{shortened(name)}>: {message}")

    numbers = [item for item in positional if _is_number(item)]
    words = [item for item in positional if not _is_number(item)]
    for word in words[1:]:
        warn_tag(f"{shortened(word)!r}: one preset or vector is expected, {shortened(words[0])!r} is used")
    weights = named.get("lbw", named.get("w"))
    if words and weights is not None:
        warn_tag(f"{shortened(words[0])!r}: the tag also has lbw={shortened(weights)}, which is used")
    elif words:
        weights = words[0]
    te = _number(numbers[0], 1.0, "", warn_tag) if numbers else 1.0
    te = _named_number(named, "te", te, warn_tag)
    unet = _number(numbers[1], te, "", warn_tag) if len(numbers) > 1 else te
    unet = _named_number(named, "unet", unet, warn_tag)
    schedule, problems = parse_schedule(named)
    for problem in problems:
        warn_tag(problem)
    return LoraRequest(
        name=name,
        te_multiplier=te,
        unet_multiplier=unet,
        dyn_dim=_dyn_dim(named.get("dyn", numbers[2] if len(numbers) > 2 else None), warn_tag),
        weights=weights,
        elements=named.get("lbwe"),
        x=_named_number(named, "x", 1.0, warn_tag),
        schedule=schedule,
    )
