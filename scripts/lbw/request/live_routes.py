"""The routes to a generation while it is under way: what is in force in it, and moves of its strengths.

They name a generation by the id of the host's task, which is random: who does not know it can neither see nor move
anything, and an id that is not known is answered alike whatever is running. The host tells it whoever began the task;
but some list the ids of tasks that wait to anybody who reaches them, at ``/internal/pending-tasks``. Besides:

* Where the host has its API, the routes are behind the API's dependencies, so behind ``--api-auth``.
* The panel has them at a path of its own, as the host's page has its progress: a browser has no credentials for the
  API. There they are behind the page's login, ``--gradio-auth``, if there is one. Without the API both paths are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Query

from lbw.request.arguments import TITLE
from lbw.request.live import Fader, Job, Key
from lbw.request.preview import Backend
from lbw.request.refusals import Route, page_login
from lbw.request.route_models import LONGEST_TASK, Live, LiveLora, Move, MoveRequest
from lbw.tags.limits import shortened

PATH = "/lbw/v1/live"
PAGE_PATH = "/internal/lbw/live"


def _lora(index: int, fader: Fader) -> LiveLora:
    return LiveLora(
        index=index, name=fader.key[0], tag=fader.tag, strength=fader.strength, next=fader.following,
        played=fader.is_played, course=list(fader.course), in_prompt=fader.is_in_prompt, played_tag=fader.played_tag,
    )


def _answer(job: Job) -> Live:
    return Live(
        running=job.is_running, pass_title="hires" if job.is_hires else "first", step=job.step, steps=job.steps,
        batch=job.batch, batches=job.batches,
        loras=[_lora(index, fader) for index, fader in enumerate(job.faders)],
    )


def _job(backend: Backend, task: str) -> Job:
    """
    Raises:
        HTTPException: 404 for an id that is not known.
    """
    job = backend.job(task)
    if job is None:
        raise HTTPException(404, "no task of this id is running, or among the last that were")
    return job


def _key(move: Move, faders: Sequence[Fader]) -> Key:
    """The tag that a move is of.

    Raises:
        HTTPException: 422 if it is of none.
    """
    if (move.index is None) == (move.name is None):
        raise HTTPException(422, "a move has either an index or a name")
    if move.index is not None:
        if not 0 <= move.index < len(faders):
            raise HTTPException(422, f"index {move.index}: expected one of {len(faders)} LoRAs, counted from 0")
        return faders[move.index].key
    found = [fader.key for fader in faders if fader.key[0] == move.name]
    if len(found) != 1:
        raise HTTPException(
            422, f"{shortened(move.name or '')!r}: {len(found)} tags have this name; expected one, or an index"
        )
    return found[0]


def _moved(job: Job, moves: Iterable[Move]) -> Mapping[Key, float]:
    """
    Raises:
        HTTPException: 409 where nothing can be moved, 422 for a move of no tag.
    """
    if not job.is_running:
        raise HTTPException(409, "the task is over; nothing can be moved in it")
    obstacle = job.obstacle or ("" if job.faders else "no pass with LoRA tags is under way")
    if obstacle:
        raise HTTPException(409, f"nothing can be moved now: {obstacle}")
    return {_key(move, job.faders): move.strength for move in moves}


def add(app: FastAPI, backend: Backend, of_api: Sequence[Any] | None) -> None:
    """Add the routes to the host's application.

    Args:
        of_api: the dependencies of the host's API; None if it runs without.
    """
    task = Query(..., max_length=LONGEST_TASK, description="the host's id of the task: force_task_id of a request")

    def show(id_task: str = task) -> Live:
        """The pass of the caller's own task that is under way, or was the last: its step, and the LoRAs' strengths."""
        return _answer(_job(backend, id_task))

    def move(asked: MoveRequest) -> Live:
        """Move strengths of the caller's own task. They are in force from its next step on."""
        moved = _moved(_job(backend, asked.id_task), asked.moves)
        if moved and not backend.play(asked.id_task, moved):
            raise HTTPException(409, "the task is over; nothing can be moved in it")
        return _answer(_job(backend, asked.id_task))

    login = page_login(app)
    for path, dependencies in ((PATH, login if of_api is None else of_api), (PAGE_PATH, login)):
        more: dict[str, Any] = {
            "response_model": Live, "tags": [TITLE], "dependencies": dependencies,
            "include_in_schema": path == PATH and of_api is not None, "route_class_override": Route,
        }  # fmt: skip
        app.router.add_api_route(path, show, methods=["GET"], **more)
        app.router.add_api_route(path, move, methods=["POST"], **more)
