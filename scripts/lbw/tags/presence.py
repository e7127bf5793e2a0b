"""Presence: where a prompt that changes while sampling has a tag, as the WebUI's prompt editing does for words.

``[<lora:a:1>:<lora:b:1>:0.5]`` has one tag first and another one later, ``[<lora:a:1>|<lora:b:1>]`` has them in turn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Presence:
    """In which evaluations of the model a prompt has a tag.

    A prompt that is edited is a list of texts, each in force up to a last evaluation. ``ends`` are those, in rising
    order, 0-based as the host counts, and ``is_there`` says of each text whether the tag stands in it.

    ``per_step`` is how many evaluations the host reckons with in a step: two with its samplers of second order.
    """

    ends: tuple[int, ...]
    is_there: tuple[bool, ...]
    per_step: int = 1

    def contains(self, evaluation: int) -> bool:
        """Whether the tag is there. Behind the last end the host has the first text again."""
        index = bisect_left(self.ends, evaluation)
        return self.is_there[index if index < len(self.ends) else 0]

    def share(self, step: int, evaluations: Sequence[int] = ()) -> float:
        """In what part of the evaluations of a step the tag is there: 0 or 1 where the step has one.

        Args:
            step: the solver's step, 0-based.
            evaluations: those of the step; without them, those that the host reckons with.
        """
        found = evaluations or range(step * self.per_step, (step + 1) * self.per_step)
        return sum(map(self.contains, found)) / len(found)


@dataclass(frozen=True)
class Reckoning:
    """How many evaluations of the model the host reckons with when it edits the prompt of a pass.

    ``first`` are those of the first pass, of all steps that were asked for, ``hires`` those of the hires pass, if it is
    that, and ``per_step`` those of one step of the pass.
    """

    first: int
    hires: int | None = None
    per_step: int = 1
