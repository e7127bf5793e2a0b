"""Tags of a plot's cells: a prompt whose marked LoRA tags say what a cell has.

``lbw=XYZ`` (or ``lbwe=XYZ``) marks a tag that the plot varies; ``lbw=ZYX`` gets 1 minus the weights of ``lbw=XYZ``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lbw.tags.library import INVERSE, VARIED
from lbw.tags.prompt import is_strength
from lbw.tags.slips import split_arguments

_TAG = re.compile(r"<(lora|lyco):([^>]+)>")


@dataclass(frozen=True)
class TagChange:
    """What a tag shall say. None leaves an argument as it is.

    ``weights`` makes a vector, or None, from the preset or vector that the tag has, or None.
    """

    weights: Callable[[str | None], str | None] = lambda _own: None
    elements: str | None = None
    strength: str | None = None
    start: str | None = None
    stop: str | None = None


def _kind(item: str) -> str:
    """What an argument of a tag is about, whichever way it is written."""
    _positional, named = split_arguments([item])
    key = next(iter(named), None)
    if key is None:
        return "multiplier" if is_strength(item) else "lbw"
    return {"w": "lbw", "te": "multiplier", "unet": "multiplier"}.get(key, key)


def _text(item: str) -> str:
    _positional, named = split_arguments([item])
    return next(iter(named.values()), item).strip()


def weights_of(items: list[str]) -> str | None:
    """The preset or vector of a tag, given its arguments."""
    return next((_text(item) for item in items if _kind(item) == "lbw"), None)


def is_marked(items: list[str]) -> bool:
    return VARIED in [_text(item) for item in items if _kind(item) in ("lbw", "lbwe")]


def _changed(items: list[str], change: TagChange) -> list[str]:
    name, *rest = items
    head: list[str] = []
    new: list[str] = []
    if change.strength is not None:
        positional, _named = split_arguments(rest)
        dyn_dim = [item for item in positional if is_strength(item)][2:3]
        head = [change.strength, *([change.strength] if dyn_dim else []), *dyn_dim]
        rest = [item for item in rest if _kind(item) != "multiplier"]
    weights = change.weights(weights_of(rest))
    for key, text in (
        ("lbw", weights), ("lbwe", change.elements), ("start", change.start), ("stop", change.stop)
    ):
        if text is not None:
            new.append(f"{key}={text}")
            rest = [item for item in rest if _kind(item) != key]
    return [name, *head, *rest, *new]


def rewritten(prompt: str, change: TagChange, inverse: TagChange | None = None, *, everywhere: bool = False) -> str:
    """The prompt with its marked tags changed.

    Args:
        inverse: for tags with ``lbw=ZYX``.
        everywhere: change all LoRA tags.
    """

    def replace(match: re.Match[str]) -> str:
        items = match[2].split(":")
        if everywhere or is_marked(items[1:]):
            items = _changed(items, change)
        elif inverse is not None and weights_of(items[1:]) == INVERSE:
            items = _changed(items, inverse)
        return f"<{match[1]}:{':'.join(items)}>"

    # Without a closing bracket behind it, each opening one would be searched to the end of the text.
    end = prompt.rfind(">") + 1
    return _TAG.sub(replace, prompt[:end]) + prompt[end:]


def has_mark(prompt: str) -> bool:
    """Whether a prompt has a tag that a plot varies."""
    tags = _TAG.finditer(prompt[: prompt.rfind(">") + 1])
    return any(is_marked(match[2].split(":")[1:]) for match in tags)
