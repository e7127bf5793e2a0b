"""Telling the user on stderr what went wrong, and remembering the last few exceptions."""
from __future__ import annotations

import sys
import textwrap
import traceback
from collections.abc import Callable
from types import TracebackType

MAX_RECORDS = 5

exception_records: list[dict] = []
already_displayed: dict[str, int] = {}


def format_traceback(tb: TracebackType | None) -> list[list[str]]:
    return [[f"{x.filename}, line {x.lineno}, {x.name}", x.line or ""] for x in traceback.extract_tb(tb)]


def format_exception(e: BaseException, tb: TracebackType | None) -> dict:
    return {"exception": str(e), "traceback": format_traceback(tb)}


def get_exceptions() -> list[dict]:
    """The recorded exceptions, newest first."""
    return exception_records[::-1]


def record_exception() -> None:
    """Remember the exception that is being handled, if any."""
    _, exception, tb = sys.exc_info()
    if exception is None:
        return
    record = format_exception(exception, tb)
    if exception_records and exception_records[-1] == record:
        return
    exception_records.append(record)
    del exception_records[:-MAX_RECORDS]


def report(message: str, *, exc_info: bool = False) -> None:
    """Print a message, marked as an error, and on request the traceback of the exception being handled."""
    record_exception()
    print(textwrap.indent(message, "*** "), file=sys.stderr)
    if exc_info:
        print(textwrap.indent(traceback.format_exc(), "    ") + "---", file=sys.stderr)


def print_error_explanation(message: str) -> None:
    """Print a message for a person, between two rules."""
    record_exception()
    lines = message.strip().split("\n")
    rule = "=" * max(len(line) for line in lines)
    print(rule, *lines, rule, sep="\n", file=sys.stderr)


def display(e: Exception, task: str | None, *, full_traceback: bool = False) -> None:
    """Print an exception under the name of the task that it ended; on request with the caller's frames too."""
    record_exception()
    details = traceback.TracebackException.from_exception(e)
    if full_traceback:
        callers = traceback.extract_stack()[:-2]
        details.stack = traceback.StackSummary.from_list([*callers, *details.stack])
    print(f"{task or 'error'}: {type(e).__name__}", file=sys.stderr)
    print("".join(details.format()), end="", file=sys.stderr)


def display_once(e: Exception, task: str) -> None:
    """As `display`, but only the first time for each task."""
    record_exception()
    if task not in already_displayed:
        already_displayed[task] = 1
        display(e, task)


def run(code: Callable[[], object], task: str) -> None:
    """Run something whose failure is worth a message, but not worth stopping for."""
    try:
        code()
    except Exception as e:
        display(e, task)
