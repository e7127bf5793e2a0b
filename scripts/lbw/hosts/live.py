"""What whoever knows the id of a task sees of its generation while it is under way, and moves in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lbw.generation.session import Session
from lbw.hosts import tasks, under_way
from lbw.request.live import Job, Key


def _generation_of(task: str) -> tuple[Any, Session] | None:
    """The innermost generation of a task that is in a pass; the innermost of all, if none is."""
    found = [(p, session) for known, p, session in under_way.of_tasks() if tasks.is_same(known, task)]
    in_pass = [each for each in found if each[1].is_in_pass]
    return next(reversed(in_pass or found), None)


def job(task: str) -> Job | None:
    """The generation of a task: the one under way, or the last of a task that is over; None of a task that is not
    known."""
    found = _generation_of(task)
    if found is not None:
        return under_way.job_of(*found)
    kept = tasks.kept(task)
    if not tasks.is_same(tasks.current(), task):
        return kept
    # Between two images of a script, of which each is a generation.
    return replace(kept or Job(), is_running=True, obstacle="no image of the task is being made")


def play(task: str, strengths: Mapping[Key, float]) -> bool:
    """Move strengths in the generation of a task that is under way; whether there is one."""
    found = _generation_of(task)
    if found is None:
        return False
    _p, session = found
    session.hand.move(strengths)
    return True
