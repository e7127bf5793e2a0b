"""Wrappers around what the page calls: one job at a time, errors as a message on the page, time taken below it."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from functools import wraps

from modules import devices, errors, fifo_lock, progress, shared

queue_lock = fifo_lock.FIFOLock()


def wrap_queued_call(func: Callable) -> Callable:
    """Run under the lock that all generations share."""

    @wraps(func)
    def queued(*args, **kwargs):
        with queue_lock:
            return func(*args, **kwargs)

    return queued


def wrap_gradio_gpu_call(func: Callable, extra_outputs: list | None = None) -> Callable:
    """Make a job of a call: queued, announced to `modules.progress`, with `shared.state` begun and ended.

    The job's id is the first argument, where that looks like `task(...)`.
    """

    @wraps(func)
    def job(*args, **kwargs):
        id_task = _task_id(args)
        if id_task is not None:
            progress.add_task_to_queue(id_task)
        with queue_lock:
            shared.state.begin(job=id_task)
            progress.start_task(id_task)
            try:
                result = func(*args, **kwargs)
                progress.record_results(id_task, result)
            finally:
                progress.finish_task(id_task)
            shared.state.end()
        return result

    return wrap_gradio_call(job, extra_outputs=extra_outputs, add_stats=True)


def _task_id(args: tuple) -> str | None:
    first = args[0] if args else None
    return first if isinstance(first, str) and first.startswith("task(") and first.endswith(")") else None


def wrap_gradio_call(func: Callable, extra_outputs: list | None = None, add_stats: bool = False) -> Callable:
    """`wrap_gradio_call_no_job`, and no trace of the job in `shared.state`, however it ended."""

    @wraps(func)
    def cleaned(*args, **kwargs):
        try:
            return func(*args, **kwargs)
        finally:
            state = shared.state
            state.skipped = state.interrupted = state.stopping_generation = False
            state.job_count = 0
            state.job = ""

    return wrap_gradio_call_no_job(cleaned, extra_outputs, add_stats)


def wrap_gradio_call_no_job(func: Callable, extra_outputs: list | None = None, add_stats: bool = False) -> Callable:
    """Turn an exception into outputs: `extra_outputs`, then the error as HTML; `add_stats` adds the time taken."""

    @wraps(func)
    def guarded(*args, extra_outputs_array: list | None = extra_outputs, **kwargs):
        started = time.perf_counter()
        try:
            outputs = list(func(*args, **kwargs))
        except Exception as error:
            errors.report(f"{func.__name__} failed", exc_info=True)
            message = html.escape(f"{type(error).__name__}: {error}")
            outputs = [*(extra_outputs_array or [None, ""]), f"<div class='error'>{message}</div>"]
        devices.torch_gc()
        if add_stats:
            outputs[-1] += _stats_html(time.perf_counter() - started)
        return tuple(outputs)

    return guarded


def _stats_html(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    text = f"{int(minutes)} min. {rest:.1f} sec." if minutes else f"{rest:.1f} sec."
    taken = f"Time taken: <wbr><span class='measurement'>{text}</span>"
    return f"<div class='performance'><p class='time'>{taken}</p></div>"
