"""The host's tasks, which pages and clients know by random ids, and what is kept of those that are over."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from threading import Lock

from lbw.request.live import Job
from modules import progress

_MOST_KEPT = 8

_kept: dict[str, Job] = {}
"""{id: the last generation of the task}, in the order of their ends."""
_lock = Lock()


def current() -> str:
    """The id of the task that the host is at; empty if it has none."""
    task = getattr(progress, "current_task", None)
    return task if isinstance(task, str) else ""


def is_same(one: str, other: str) -> bool:
    """Whether two ids are the same and none is empty, in a time that does not tell how much of them is."""
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass")) and bool(one)


def keep(task: str, job: Job) -> None:
    """A generation of a task is over. It takes the place of another of the same task, unless it has no LoRAs."""
    with _lock:
        earlier = _kept.pop(task, None)
        _kept[task] = earlier if earlier is not None and not job.faders else job
        for oldest in [*_kept][:-_MOST_KEPT]:
            del _kept[oldest]


def kept(task: str) -> Job | None:
    """What is kept of a task; None if it is none of the last ones."""
    with _lock:
        jobs: Iterable[tuple[str, Job]] = [*_kept.items()]
    return next((job for known, job in jobs if is_same(known, task)), None)
