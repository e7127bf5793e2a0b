"""How far a job of the page is: the ids of tasks waiting, running and finished, and the answer the page polls for."""

from __future__ import annotations

import base64
import io
import random
import string
import time
from collections import deque

import gradio as gr
from fastapi import FastAPI
from pydantic import BaseModel

from modules import shared

current_task: str | None = None
pending_tasks: dict[str, float] = {}
finished_tasks: deque[str] = deque(maxlen=16)
recorded_results: deque[tuple[str, tuple]] = deque(maxlen=2)


def create_task_id(task_type: str) -> str:
    letters = random.SystemRandom().choices(string.ascii_uppercase + string.digits, k=7)
    return f"task({task_type}-{''.join(letters)})"


def add_task_to_queue(id_job: str) -> None:
    pending_tasks[id_job] = time.time()


def start_task(id_task: str | None) -> None:
    global current_task
    current_task = id_task
    pending_tasks.pop(id_task, None)


def finish_task(id_task: str | None) -> None:
    global current_task
    if current_task == id_task:
        current_task = None
    finished_tasks.append(id_task)


def record_results(id_task: str | None, res: tuple) -> None:
    recorded_results.append((id_task, res))


class PendingTasksResponse(BaseModel):
    size: int
    tasks: list[str]


class ProgressRequest(BaseModel):
    id_task: str | None = None
    id_live_preview: int = -1
    live_preview: bool = True


class ProgressResponse(BaseModel):
    active: bool
    queued: bool
    completed: bool
    progress: float | None = None
    eta: float | None = None
    live_preview: str | None = None
    id_live_preview: int | None = None
    textinfo: str | None = None


def setup_progress_api(app: FastAPI) -> None:
    app.add_api_route("/internal/pending-tasks", get_pending_tasks, methods=["GET"])
    app.add_api_route("/internal/progress", progressapi, methods=["POST"], response_model=ProgressResponse)


def get_pending_tasks() -> PendingTasksResponse:
    return PendingTasksResponse(size=len(pending_tasks), tasks=list(pending_tasks))


def fraction_done() -> float:
    """Part of the running job that is done, 0 to 1: whole passes, and the steps of the running pass."""
    state = shared.state
    if state.job_count <= 0:
        return 0.0
    steps = state.sampling_step / state.sampling_steps if state.sampling_steps > 0 else 0.0
    return min((state.job_no + steps) / state.job_count, 1.0)


def progressapi(req: ProgressRequest) -> ProgressResponse:
    known = {
        "active": req.id_task is not None and req.id_task == current_task,
        "queued": req.id_task in pending_tasks,
        "completed": req.id_task in finished_tasks,
    }
    if not known["active"]:
        return ProgressResponse(**known, id_live_preview=-1, textinfo=_queue_text(req.id_task))

    done = fraction_done()
    elapsed = time.time() - shared.state.time_start
    preview, id_live_preview = _live_preview(req)
    return ProgressResponse(
        **known, progress=done, eta=elapsed / done - elapsed if done else None, live_preview=preview,
        id_live_preview=id_live_preview, textinfo=shared.state.textinfo)


def _queue_text(id_task: str | None) -> str:
    order = sorted(pending_tasks, key=pending_tasks.__getitem__)
    return f"In queue: {order.index(id_task) + 1}/{len(order)}" if id_task in order else "Waiting..."


def _live_preview(req: ProgressRequest) -> tuple[str | None, int]:
    """The current image as a data URI, if it is another than the one that the page has."""
    if not (shared.opts.live_previews_enable and req.live_preview):
        return None, req.id_live_preview
    shared.state.set_current_image()
    image, identity = shared.state.current_image, shared.state.id_live_preview
    if image is None or identity == req.id_live_preview:
        return None, req.id_live_preview
    kind = shared.opts.live_previews_image_format
    with io.BytesIO() as buffer:
        image.save(buffer, format=kind, **({"compress_level": 1} if kind == "png" else {}))
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{encoded}", identity


def restore_progress(id_task: str) -> tuple:
    """Wait for a task that a reloaded page has lost sight of, and give it the task's results."""
    while id_task == current_task or id_task in pending_tasks:
        time.sleep(0.1)
    for known_id, results in recorded_results:
        if known_id == id_task:
            return results
    return gr.update(), gr.update(), gr.update(), f"The results of {id_task} are not kept any more."
