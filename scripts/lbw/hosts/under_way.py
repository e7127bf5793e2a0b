"""Generations of ours that have begun and not ended: one may be inside another.

One may also have failed without a word, since a script that goes on after that, such as the host's X/Y/Z plot, closes
nothing. That shows in the function of the host that makes the images: it is not running any more.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

from lbw.generation.session import Session

logger = logging.getLogger("lbw")

_MAKES_IMAGES = "process_images_inner"
"""The host's function, whose argument is ``p``."""


@dataclass(frozen=True)
class _Generation:
    """``is_seen`` says whether the host's function was seen at work for it: another extension may have its own."""

    p: ref[Any]
    is_seen: bool


_generations: WeakKeyDictionary[Session, _Generation] = WeakKeyDictionary()


def _is_running(p: Any) -> bool:
    for innermost in sys._current_frames().values():
        frame = innermost
        while frame is not None:
            if frame.f_code.co_name == _MAKES_IMAGES and frame.f_locals.get("p") is p:
                return True
            frame = frame.f_back  # type: ignore[assignment]
    return False


def begin(p: Any, session: Session) -> None:
    _generations[session] = _Generation(ref(p), _is_running(p))


def end(session: Session) -> None:
    _generations.pop(session, None)


def end_failed() -> bool:
    """End those that have failed without a word; whether there were any."""
    failed = False
    for session, generation in list(_generations.items()):
        p = generation.p()
        if p is None or (generation.is_seen and not _is_running(p)):
            failed = True
            end(session)
            try:
                session.end()
            except Exception:  # the next generation shall not fail for it
                logger.exception("LoRA Block Weight: a generation that failed could not be ended")
    return failed


def sessions() -> list[Session]:
    return list(_generations)


def requests() -> list[Any]:
    """Their processing objects."""
    return [p for generation in _generations.values() if (p := generation.p()) is not None]
