"""A generation as it is shown while it is under way, with what a hand can move in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Key = tuple[str, int]
"""A tag of a prompt: the network's name, and which of its tags with that name it is, from 0 on."""


def keys_of(names: Iterable[str]) -> list[Key]:
    """The keys of tags whose networks are called so, in the order of the tags."""
    counts: dict[str, int] = {}
    keys = []
    for name in names:
        counts[name] = counts.get(name, -1) + 1
        keys.append((name, counts[name]))
    return keys


@dataclass(frozen=True)
class Fader:
    """One tag of the pass that is under way, or was the last.

    ``tag`` is as the prompt has it. ``strength`` is that in the U-Net in this step, block weights and the prompt's
    brackets apart, and ``following`` the one that has been moved to and waits for the next step. ``course`` are those
    that were in force in the steps so far, brackets counted. ``is_in_prompt`` is false while the brackets have the tag
    off. ``played_tag`` is the tag that repeats what was played; None if nothing was, or if that needs more changes than
    a tag may have.
    """

    key: Key
    tag: str
    strength: float
    following: float | None = None
    is_played: bool = False
    course: tuple[float, ...] = ()
    is_in_prompt: bool = True
    played_tag: str | None = None


@dataclass(frozen=True)
class Job:
    """A generation: the pass that is under way or was the last, the step of it, and which of the batches, from 0 on.

    ``obstacle`` says why nothing can be moved in it; empty where something can.
    """

    is_running: bool = True
    is_hires: bool = False
    step: int = 0
    steps: int = 0
    batch: int = 0
    batches: int = 0
    faders: tuple[Fader, ...] = ()
    obstacle: str = ""
