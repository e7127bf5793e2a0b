"""Bakings one after the other: each has a secret, and who does not know it neither sees it nor stops it."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from lbw.bake.baking import Progress
from lbw.bake.host import BakeError, CancelledError
from lbw.engine.strengths import UnknownNetworkError
from lbw.request.bake import OrderError
from lbw.request.bake_actions import NoRoomError, Outcome, TemporaryFile

logger = logging.getLogger("lbw")

MOST_WAITING = 8
"""Jobs behind the one that is running."""

_MOST_REMEMBERED = 16
"""Jobs that are over."""

_MOST_FILES = 2
"""Files that wait to be fetched."""

_FETCHABLE_S = 600.0
"""For how long."""

class State(str, Enum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Cause(Enum):
    """Why a job failed."""

    UNKNOWN_NETWORK = "unknown network"
    ORDER = "order"
    ROOM = "room"
    STATE = "state"
    SERVER = "server"


@dataclass(frozen=True)
class Failure:
    cause: Cause
    message: str


def _failure(error: BaseException) -> Failure:
    if isinstance(error, UnknownNetworkError):
        return Failure(Cause.UNKNOWN_NETWORK, str(error))
    if isinstance(error, OrderError):
        return Failure(Cause.ORDER, str(error))
    if isinstance(error, NoRoomError):
        return Failure(Cause.ROOM, str(error))
    if isinstance(error, BakeError):
        return Failure(Cause.STATE, str(error))
    logger.error("LoRA Block Weight: a file could not be baked", exc_info=error)
    told = f"an error of the server ({type(error).__name__}), which its console shows. Nothing was written"
    return Failure(Cause.SERVER, told)


class TooManyJobsError(Exception):
    """As many jobs wait as may; the message says so."""


Work = Callable[[Progress], Outcome]


class Job:
    """One baking.

    Args:
        is_listed: whether others find it by its secret.
    """

    def __init__(self, work: Work, is_listed: bool) -> None:
        self.token = secrets.token_urlsafe(16)
        self.progress = Progress()
        self.state = State.WAITING
        self.failure: Failure | None = None
        self.outcome: Outcome | None = None
        self.work: Work | None = work
        self.is_listed = is_listed
        self.expires = 0.0
        """When its file is dropped, by the clock of :class:`Jobs`."""

    @property
    def is_over(self) -> bool:
        return self.state not in (State.WAITING, State.RUNNING)


class Jobs:
    """The jobs of one server, in a thread that is there while there is something to do.

    Args:
        clock: the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._over: deque[Job] = deque(maxlen=_MOST_REMEMBERED)
        self._thread: threading.Thread | None = None

    def begin(self, work: Work, *, is_listed: bool = True) -> Job:
        """Have something done when all that was asked for before is done.

        Args:
            is_listed: whether it is found, and remembered when it is over.

        Raises:
            TooManyJobsError: nothing is done.
        """
        job = Job(work, is_listed)
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise TooManyJobsError(f"{MOST_WAITING} bakings are waiting already; try again later")
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lbw-bake", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def find(self, token: str) -> Job | None:
        """The job with this secret; None for one that is not known any longer."""
        given = token.encode(errors="surrogatepass")
        with self._changed:
            jobs = [*self._over, *self._waiting, *([self._running] if self._running else [])]
        found = [job for job in jobs if hmac.compare_digest(job.token.encode(), given) and job.is_listed]
        return next(iter(found), None)

    def cancel(self, job: Job) -> None:
        """Have it end without a file, unless it has made one already. One that waits ends at once, one that is running
        before its next layers."""
        with self._changed:
            job.progress.cancel()
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, State.CANCELLED)

    def file_of(self, job: Job) -> TemporaryFile | None:
        """What it has made to be fetched; None if that is no longer there."""
        with self._changed:
            self._drop_files()
            self._changed.notify_all()
            return job.outcome.file if job.outcome else None

    def _run(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                if job is None:
                    self._thread = None
                    return
                job.state, self._running = State.RUNNING, job
            self._do(job)
            del job  # which may have a file, and is not kept while nothing is done

    def _next(self) -> Job | None:
        """The next job to be done; None if there is none, and no file is left that would have to be dropped."""
        while True:
            self._drop_files()
            if self._waiting:
                return self._waiting.popleft()
            ends = [job.expires for job in self._with_file()]
            if not ends:
                return None
            self._changed.wait(max(min(ends) - self._clock(), 0.1))

    def _do(self, job: Job) -> None:
        state, outcome, failure = State.DONE, None, None
        try:
            assert job.work is not None
            outcome = job.work(job.progress)
        except CancelledError:
            state = State.CANCELLED
        except BaseException as error:  # of whatever kind, as a panic of a library: the next job shall not fail for it
            state, failure = State.FAILED, _failure(error)
        with self._changed:
            self._running = None
            job.outcome, job.failure = outcome, failure
            self._end(job, state)

    def _end(self, job: Job, state: State) -> None:
        job.work = None
        if state is State.DONE:
            job.progress.done = job.progress.total
        job.expires = self._clock() + _FETCHABLE_S
        if job.is_listed:
            self._over.append(job)
            self._drop_files()
        job.state = state

    def _with_file(self) -> list[Job]:
        return [job for job in self._over if job.outcome is not None and job.outcome.file is not None]

    def _drop_files(self) -> None:
        found, now = self._with_file(), self._clock()
        for number, job in enumerate(reversed(found)):
            if (number >= _MOST_FILES or job.expires <= now) and job.outcome is not None:
                job.outcome = replace(job.outcome, file=None)


JOBS = Jobs()
"""Those of this process, which building the page anew does not end."""
