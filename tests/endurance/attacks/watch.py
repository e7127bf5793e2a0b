"""Watches what one input costs and does: time, memory, errors, what is logged."""

from __future__ import annotations

import logging
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

MOST_EXAMPLES = 3
"""Inputs that are kept of one kind of finding."""


class HangError(BaseException):
    """No end in sight. Not an Exception, so that nobody takes it for one that belongs to an input."""


@dataclass
class Report:
    """What one part has tried, and found.

    ``findings`` are {what is wrong: (how often, inputs)}.
    """

    kind: str
    tried: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    slowest: str = ""
    peak_mb: float = 0.0
    """By how much the process's memory has grown at most since the part began."""
    findings: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def find(self, what: str, shown: str) -> None:
        count, examples = self.findings.get(what, (0, []))
        if not count:
            print(f"FAULT: {self.kind}: {what}\n       {shown}", flush=True)
        self.findings[what] = count + 1, [*examples, shown][:MOST_EXAMPLES]


def resident_mb() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def short(value: Any, length: int = 160) -> str:
    """An input for a table."""
    text = value if isinstance(value, str) else repr(value[: 4 * length] if isinstance(value, bytes) else value)
    size = len(value) if isinstance(value, (str, bytes)) else len(text)
    if size > length:
        text = f"{text[: length // 2]}...{text[-length // 4 :]} ({size} long)"
    return text.encode("unicode_escape").decode()


class Limits:
    """Of a run: when no part begins anything any more, by the clock; None: never. And whether time counts."""

    ends: float | None = None
    is_timed = True

    @classmethod
    def numbers(cls, count: int) -> Iterator[int]:
        """The numbers up to ``count``, as long as there is time."""
        for number in range(count):
            if cls.ends is not None and time.monotonic() > cls.ends:
                print(f"out of time after {number} of {count}", flush=True)
                return
            yield number


class Watch:
    """Of one part.

    Args:
        limit_ms: of the processor, for one input.
        limit_mb: by how much one input may raise the most memory that the process has had.
        hang_s: after which it is given up.
    """

    def __init__(self, kind: str, *, limit_ms: float, limit_mb: float, hang_s: int = 20) -> None:
        self.report = Report(kind)
        self.limit_ms, self.limit_mb, self.hang_s = limit_ms, limit_mb, hang_s
        self._first_mb = resident_mb()
        self._begun = time.perf_counter()

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        def give_up(_signal: int, _frame: FrameType | None) -> None:
            raise HangError

        before = signal.signal(signal.SIGALRM, give_up)
        signal.alarm(self.hang_s if Limits.is_timed else 10 * self.hang_s)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    def attempt(
        self, shown: Any, act: Callable[[], Any], *, expected: tuple[type[BaseException], ...] = (), times: float = 1
    ) -> Any:
        """What ``act`` returns, or the expected error that it raises; None where it does harm.

        Args:
            times: of the usual limit, what this may take.
        """
        self.report.tried += 1
        memory, begun = resident_mb(), time.process_time()
        outcome = None
        try:
            with self._alarm():
                outcome = act()
        except expected as error:
            outcome = error
        except HangError:
            self.report.find("does not end", short(shown))
        except Exception as error:
            self.report.find(f"{type(error).__name__}: {short(str(error), 80)} at {_place(error)}", short(shown))
        took = (time.process_time() - begun) * 1000
        if took > self.report.slowest_ms:
            self.report.slowest_ms, self.report.slowest = took, short(shown)
        if Limits.is_timed and took > self.limit_ms * times and self._took_again(act, expected) > self.limit_ms * times:
            self.report.find(f"takes more than {self.limit_ms * times:.0f} ms", f"{took:.0f} ms: {short(shown)}")
        if resident_mb() - memory > self.limit_mb:
            self.report.find(f"takes more than {self.limit_mb:.0f} MB", short(shown))
        return outcome

    def _took_again(self, act: Callable[[], Any], expected: tuple[type[BaseException], ...]) -> float:
        """What it takes the second time: the first may have met the garbage collector."""
        begun = time.process_time()
        try:
            with self._alarm():
                act()
        except (*expected, HangError, Exception):
            pass
        return (time.process_time() - begun) * 1000

    def end(self) -> Report:
        self.report.seconds = time.perf_counter() - self._begun
        self.report.peak_mb = resident_mb() - self._first_mb
        return self.report


def _place(error: BaseException) -> str:
    """The innermost line of ours that an error has come through."""
    found, trace = "?", error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if "/lbw/" in path:
            found = f"{path.partition('/lbw/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


class Listener(logging.Handler):
    """Errors that are logged, by whomever."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.lines.append(f"{record.getMessage()} {type(error).__name__ if error else ''}")


@contextmanager
def listening() -> Iterator[Listener]:
    """Errors that are logged while the block runs."""
    listener = Listener()
    logging.getLogger().addHandler(listener)
    logging.getLogger("lbw").addHandler(listener)
    try:
        yield listener
    finally:
        logging.getLogger().removeHandler(listener)
        logging.getLogger("lbw").removeHandler(listener)
