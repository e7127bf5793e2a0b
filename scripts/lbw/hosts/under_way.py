"""Generations of ours that have begun and not ended: one may be inside another.

One may also have failed without a word, since a script that goes on after that, such as the host's X/Y/Z plot, closes
nothing. That shows in the function of the host that makes the images: it is not running any more.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, ref

from lbw.generation.session import Session
from lbw.hosts import tasks
from lbw.request.live import Job

logger = logging.getLogger("lbw")

_MAKES_IMAGES = "process_images_inner"
"""The host's function, whose argument is ``p``."""


@dataclass(frozen=True)
class _Generation:
    """``is_seen`` says whether the host's function was seen at work for it: another extension may have its own.
    ``task`` is the host's id of what it belongs to; empty if the host has none."""

    p: ref[Any]
    is_seen: bool
    task: str


_generations: WeakKeyDictionary[Session, _Generation] = WeakKeyDictionary()
_lock = Lock()
"""Of these: routes look at them from other threads."""


def _is_running(p: Any) -> bool:
    for innermost in sys._current_frames().values():
        frame = innermost
        while frame is not None:
            if frame.f_code.co_name == _MAKES_IMAGES and frame.f_locals.get("p") is p:
                return True
            frame = frame.f_back  # type: ignore[assignment]
    return False


def is_told_by_copy(p: Any, session: Session | None) -> bool:
    """Whether ``p`` is no more than a copy of the request that ``session`` is for, whose images are being made: some
    detailers tell all scripts by such a copy that all is over, make images of their own, and tell them to begin again.
    """
    with _lock:
        generation = None if session is None else _generations.get(session)
    original = None if generation is None else generation.p()
    return original is not None and original is not p and _is_running(original) and not _is_running(p)


def begin(p: Any, session: Session) -> None:
    generation = _Generation(ref(p), _is_running(p), tasks.current())
    with _lock:
        _generations[session] = generation


def end(session: Session) -> None:
    """It is over; what it was is kept for whoever knows the id of its task."""
    with _lock:
        generation = _generations.pop(session, None)
    if generation is None or not generation.task:
        return
    try:
        tasks.keep(generation.task, _with_batch(session.over(), generation.p()))
    except Exception:  # it ends all the same
        logger.exception("LoRA Block Weight: what was played cannot be kept")


def end_failed() -> bool:
    """End those that have failed without a word; whether there were any."""
    failed = False
    for session, generation in _listed():
        p = generation.p()
        if p is None or (generation.is_seen and not _is_running(p)):
            failed = True
            end(session)
            try:
                session.end()
            except Exception:  # the next generation shall not fail for it
                logger.exception("LoRA Block Weight: a generation that failed could not be ended")
    return failed


def job_of(p: Any, session: Session) -> Job:
    """What is shown of a generation that is under way."""
    return _with_batch(session.job(), p)


def _with_batch(job: Job, p: Any) -> Job:
    return job if p is None else replace(job, batch=p.iteration, batches=p.n_iter)


def _listed() -> list[tuple[Session, _Generation]]:
    with _lock:
        return list(_generations.items())


def sessions() -> list[Session]:
    return [session for session, _generation in _listed()]


def of_tasks() -> list[tuple[str, Any, Session]]:
    """(the id of its task, its processing object, its session) of each, the innermost last; from any thread."""
    return [
        (generation.task, p, session)
        for session, generation in _listed()
        if generation.task and (p := generation.p()) is not None
    ]


def requests() -> list[Any]:
    """Their processing objects."""
    return [p for _session, generation in _listed() if (p := generation.p()) is not None]
