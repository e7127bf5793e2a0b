"""Bakings one after the other: who sees, stops and fetches what, and what stays of it."""

from __future__ import annotations

import gc
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import pytest

from lbw.bake.baking import Progress
from lbw.bake.forms import Form
from lbw.bake.host import BakeError
from lbw.engine.strengths import UnknownNetworkError
from lbw.request import bake_jobs
from lbw.request.bake import OrderError, Report
from lbw.request.bake_jobs import (
    MOST_WAITING,
    Cause,
    Job,
    Jobs,
    NoRoomError,
    Outcome,
    State,
    TemporaryFile,
    TooManyJobsError,
)

REPORT = Report((), (), 0, dict.fromkeys(Form, 0), 0, {})


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Held:
    """Work that is done when the test says so, and looks whether it is wanted meanwhile."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self, progress: Progress) -> Outcome:
        self.begun.set()
        while not self.released.wait(0.01):
            progress.tick(1)
        return Outcome(REPORT)


def quick(_progress: Progress) -> Outcome:
    return Outcome(REPORT)


def with_file(_progress: Progress) -> Outcome:
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
    file.write(b"0123456789" * 500_000)
    file.flush()
    return Outcome(REPORT, file=TemporaryFile(file, "new"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> Jobs:
    return Jobs(clock)


@pytest.fixture
def held(jobs: Jobs) -> Iterator[tuple[Held, Job]]:
    """Work that the jobs are at."""
    work = Held()
    job = jobs.begin(work)
    assert work.begun.wait(10)
    yield work, job
    work.released.set()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def over(job: Job) -> Job:
    until(lambda: job.is_over)
    return job


def test_two_users_each_have_their_own(jobs: Jobs, held: tuple[Held, Job]):
    work, first = held
    second = jobs.begin(quick)
    assert (first.state, second.state) == (State.RUNNING, State.WAITING)
    assert len({first.token, second.token}) == 2 and min(len(job.token) for job in (first, second)) >= 22
    assert jobs.find(first.token) is first and jobs.find(second.token) is second
    jobs.cancel(second)
    assert (first.state, second.state) == (State.RUNNING, State.CANCELLED)
    work.released.set()
    assert over(first).state is State.DONE
    assert jobs.find(second.token) is second and second.outcome is None


@pytest.mark.parametrize("token", ["", "x", "\ud800", "é", "a" * 22])
def test_a_secret_that_is_not_known_finds_nothing(jobs: Jobs, held: tuple[Held, Job], token: str):
    assert jobs.find(token) is None
    assert jobs.find(held[1].token[:-1]) is None


def test_what_waits_is_begun_in_its_order(jobs: Jobs, held: tuple[Held, Job]):
    done: list[int] = []

    def work(number: int) -> Callable[[Progress], Outcome]:
        return lambda progress: done.append(number) or quick(progress)  # type: ignore[func-returns-value]

    waiting = [jobs.begin(work(number)) for number in range(4)]
    jobs.cancel(waiting[1])
    held[0].released.set()
    over(waiting[-1])
    assert done == [0, 2, 3]


def test_one_that_runs_ends_when_it_looks_whether_it_is_wanted(jobs: Jobs, held: tuple[Held, Job]):
    _work, job = held
    jobs.cancel(job)
    assert over(job).state is State.CANCELLED
    assert job.failure is None and job.outcome is None and job.work is None
    assert over(jobs.begin(quick)).state is State.DONE


def test_one_that_is_done_stays_done(jobs: Jobs):
    job = over(jobs.begin(quick))
    jobs.cancel(job)
    assert job.state is State.DONE and job.outcome is not None
    assert job.progress.done == job.progress.total


def test_more_than_may_wait_are_refused(jobs: Jobs, held: tuple[Held, Job]):
    waiting = [jobs.begin(quick) for _ in range(MOST_WAITING)]
    with pytest.raises(TooManyJobsError, match="8 bakings are waiting already"):
        jobs.begin(quick)
    jobs.cancel(waiting[3])
    assert jobs.begin(quick).state is State.WAITING


@pytest.mark.parametrize(
    ("error", "cause", "told"),
    [
        (UnknownNetworkError("no LoRA is called 'a'"), Cause.UNKNOWN_NETWORK, "no LoRA is called 'a'"),
        (OrderError("no tag"), Cause.ORDER, "no tag"),
        (BakeError("no model"), Cause.STATE, "no model"),
        (NoRoomError("full"), Cause.ROOM, "full"),
        (KeyError("/secret/path"), Cause.SERVER, "an error of the server (KeyError)"),
        (MemoryError(), Cause.SERVER, "an error of the server (MemoryError)"),
    ],
)
def test_a_failure_is_told_and_the_next_one_is_done(jobs: Jobs, caplog, error: Exception, cause: Cause, told: str):
    def fail(_progress: Progress) -> Outcome:
        raise error

    job = over(jobs.begin(fail))
    assert job.state is State.FAILED and job.failure is not None
    assert job.failure.cause is cause and job.failure.message.startswith(told)
    assert "/secret" not in job.failure.message
    assert ("could not be baked" in caplog.text) == (cause is Cause.SERVER)
    assert over(jobs.begin(quick)).state is State.DONE


def test_what_is_over_keeps_nothing_of_its_work(jobs: Jobs):
    class Large:
        def __call__(self, progress: Progress) -> Outcome:
            return quick(progress)

    work: Large | None = Large()
    seen = weakref.ref(work)
    over(jobs.begin(cast(Large, work)))
    work = None
    gc.collect()
    assert seen() is None


def test_the_last_ones_are_remembered(jobs: Jobs):
    found = [over(jobs.begin(quick)) for _ in range(18)]
    assert [jobs.find(job.token) is job for job in found] == [False] * 2 + [True] * 16


def test_what_is_not_listed_is_found_by_nobody_and_forgets_nothing(jobs: Jobs, held: tuple[Held, Job]):
    work, first = held
    unlisted = [jobs.begin(quick, is_listed=False) for _ in range(MOST_WAITING)]
    assert [jobs.find(job.token) for job in unlisted] == [None] * MOST_WAITING
    work.released.set()
    over(unlisted[-1])
    unlisted += [over(jobs.begin(quick, is_listed=False)) for _ in range(16)]
    assert [jobs.find(job.token) for job in unlisted] == [None] * len(unlisted)
    assert jobs.find(first.token) is first


def content(jobs: Jobs, job: Job) -> bytes | None:
    file = jobs.file_of(job)
    return None if file is None else b"".join(file.chunks())


def test_a_file_can_be_fetched_several_times_at_once(jobs: Jobs):
    file = jobs.file_of(over(jobs.begin(with_file)))
    assert file is not None and (file.size, file.name) == (5_000_000, "new")
    read = [b"", b""]
    for one, other in zip(file.chunks(), file.chunks(), strict=True):
        read = [read[0] + one, read[1] + other]
    assert read == [b"0123456789" * 500_000] * 2


def test_no_more_than_two_files_stay_the_oldest_goes(jobs: Jobs):
    made = [over(jobs.begin(with_file)) for _ in range(3)]
    over(jobs.begin(quick))
    assert [content(jobs, job) is not None for job in made] == [False, True, True]
    assert jobs.find(made[0].token) is made[0]


def test_a_file_goes_after_ten_minutes(jobs: Jobs, clock: Clock):
    job = over(jobs.begin(with_file))
    clock.now = 599
    assert content(jobs, job) is not None
    clock.now = 601
    assert content(jobs, job) is None and jobs.find(job.token) is job


def test_a_file_goes_when_nobody_asks_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bake_jobs, "_FETCHABLE_S", 0.3)
    made: list[weakref.ref[Any]] = []

    def work(progress: Progress) -> Outcome:
        outcome = with_file(progress)
        made.append(weakref.ref(outcome.file))
        return outcome

    jobs = Jobs()
    over(jobs.begin(work))
    until(lambda: gc.collect() >= 0 and made[0]() is None)


def test_whoever_is_reading_a_file_that_goes_has_it_to_its_end(jobs: Jobs, clock: Clock):
    job = over(jobs.begin(with_file))
    file = jobs.file_of(job)
    assert file is not None
    chunks = file.chunks()
    first = next(chunks)
    del file
    clock.now = 1000
    assert jobs.file_of(job) is None
    assert first + b"".join(chunks) == b"0123456789" * 500_000


def test_no_thread_stays_when_nothing_is_to_do(jobs: Jobs, clock: Clock):
    job = over(jobs.begin(with_file))
    assert jobs._thread is not None
    clock.now = 1000
    assert jobs.file_of(job) is None
    until(lambda: jobs._thread is None)
    assert over(jobs.begin(quick)).state is State.DONE
    until(lambda: jobs._thread is None)
