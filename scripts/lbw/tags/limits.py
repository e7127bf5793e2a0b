"""What a text from outside may hold at most, so that time, memory and messages stay bounded whatever is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable

LARGEST_NUMBER = 1e6
"""Of weights and multipliers: what is larger makes no image, and the product of two has to be finite."""

LONGEST_NUMBER = 40
"""Characters: more than any number needs, and short enough for an infotext."""

LONGEST_TEXT = 1_000_000
"""Characters of one argument, such as a text with presets."""

MOST_TAGS = 100
"""LoRA tags of one prompt."""

MOST_KEYFRAMES = 150
"""Keyframes of one curve: as many as the host's panel offers steps."""

MOST_STEPS = 10_000
"""Steps of a pass that is asked about: more than anybody samples. The host's API makes any number of them."""

LONGEST_WORD = 200
"""Characters of a block or a range."""

MOST_NESTED_PRESETS = 20
"""Presets that begin with one another."""

MOST_RULES = 200
"""Rules of one rule set."""

LONGEST_RULE = 2000
"""Characters of one rule."""

MOST_CELLS = 1000
"""Images of one plot, and values of one of its axes."""

MOST_MESSAGES = 50
"""Warnings of one generation, or of one answer."""

LONGEST_MESSAGE = 1000


def number(text: str) -> float:
    """A finite number.

    Raises:
        ValueError: the text is none, or the number is too large.
    """
    text = text.strip()
    try:
        value = float(text) if len(text) <= LONGEST_NUMBER else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST_NUMBER:
        raise ValueError(f"{shortened(text)!r} is not a number from {-LARGEST_NUMBER:.0f} to {LARGEST_NUMBER:.0f}")
    return value


def shortened(text: str, length: int = 80) -> str:
    """``text`` on one line, with its middle left out if it is longer than ``length``."""
    if "\n" in text or "\r" in text:
        text = " ".join(line.strip() for line in text.splitlines())
    if len(text) <= length:
        return text
    return f"{text[: length * 2 // 3]} … {text[-length // 4 :]}"


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return shortened(", ".join(names), 400) or "none"


def note(message: str, known: dict[str, None]) -> str | None:
    """Add a message to those that are told, each once, and so many at most; returns it as it is told, None if not."""
    message = shortened(message, LONGEST_MESSAGE)
    if message in known or len(known) > MOST_MESSAGES:
        return None
    if len(known) == MOST_MESSAGES:
        message = "there are more warnings, which are left out"
    known[message] = None
    return message
