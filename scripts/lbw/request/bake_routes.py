"""The routes that bake: for the API at once, for the panel as jobs that its page asks for again and again.

Who begins a job gets its secret, and one that is not known is answered alike whatever is running. The panel's routes
are behind the page's login, and there without the API, too; those of the API are behind its dependencies, and leave
nothing on the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from lbw.bake.forms import Form
from lbw.bake.new_file import ENDING, require_name
from lbw.pictures import Theme, png
from lbw.pictures.strengths import draw
from lbw.request import bake_actions
from lbw.request.arguments import TITLE
from lbw.request.bake import BakeBackend, Order, Report
from lbw.request.bake_actions import TemporaryFile
from lbw.request.bake_jobs import JOBS, Cause, Job, Jobs, TooManyJobsError, Work
from lbw.request.bake_models import (
    LONGEST_NAME,
    Action,
    Baked,
    BakeRequest,
    BlockLoss,
    FormCounts,
    JobBegun,
    JobRequest,
    PageBakeRequest,
    Place,
)
from lbw.request.refusals import Route, page_login, require_json

PATH = "/lbw/v1/bake"
PAGE_PATH = "/internal/lbw/bake"

_STATUSES = {
    Cause.UNKNOWN_NETWORK: 404, Cause.STATE: 409, Cause.ORDER: 422, Cause.ROOM: 507, Cause.SERVER: 500,
}  # fmt: skip

_NAMELESS = "baked"
"""What is looked at before it has a name."""

_WAIT_S = 0.05
"""Between two looks at a job that an answer waits for."""


def _order(asked: BakeRequest) -> Order:
    """
    Raises:
        HTTPException: 422 for a step that there is not.
    """
    if asked.step >= asked.steps:
        raise HTTPException(422, f"step {asked.step}: expected one of {asked.steps}, counted from 0")
    return Order(
        asked.prompt, asked.rank, asked.dtype, asked.step, asked.steps, asked.seed, asked.presets, asked.elements,
        asked.default_preset,
    )


def _name(asked: BakeRequest) -> str:
    """
    Raises:
        HTTPException: 422 for one that no file can have.
    """
    try:
        return require_name(asked.name)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


def _work(asked: PageBakeRequest, backend: BakeBackend) -> Work:
    """
    Raises:
        HTTPException: 422 for what cannot be meant, 403 for what the server does not allow.
    """
    order = _order(asked)
    if asked.action is Action.LOOK:
        return partial(bake_actions.look, order, _name(asked) if asked.name.strip() else _NAMELESS, backend)
    name = _name(asked)
    if asked.action is Action.DOWNLOAD:
        return partial(bake_actions.download, order, name, asked.words, backend)
    obstacle = backend.keeping_obstacle()
    if obstacle:
        raise HTTPException(403, f"nothing is kept: {obstacle}; download the file instead")
    return partial(bake_actions.keep, order, name, asked.words, backend)


def _begin(jobs: Jobs, work: Work, *, is_listed: bool) -> Job:
    """
    Raises:
        HTTPException: 429 if too many wait.
    """
    try:
        return jobs.begin(work, is_listed=is_listed)
    except TooManyJobsError as error:
        raise HTTPException(429, str(error)) from None


def _job(jobs: Jobs, token: str) -> Job:
    """
    Raises:
        HTTPException: 404 for a secret that is not known.
    """
    job = jobs.find(token)
    if job is None:
        raise HTTPException(404, "this baking is not known, or not any longer; begin it again")
    return job


def _losses(report: Report) -> list[BlockLoss]:
    return [
        BlockLoss(block=block, parts=loss.parts, lost_share=loss.share) for block, loss in report.losses.items()
    ]


def _whole(text: str) -> str:
    """A text as an answer can have it: a tag may have halves of characters."""
    return text.encode(errors="replace").decode()


def _answer(job: Job, may_keep: bool) -> Baked:
    state = job.state  # first, because it is what is set last
    outcome, report = job.outcome, job.outcome.report if job.outcome else None
    return Baked(
        state=state.value, done=job.progress.done, total=job.progress.total,
        message=job.failure.message if job.failure else "",
        warnings=[*map(_whole, report.messages)] if report else [],
        size=report.bytes if report else None,
        layers=FormCounts(**{form.value: report.layers[form] for form in Form}) if report else None,
        left_out=report.left_out if report else None,
        tags=[*map(_whole, report.tags)] if report else [],
        losses=_losses(report) if report else [],
        lost_share=report.lost.share if report else None,
        file=outcome.kept if outcome else None,
        may_keep=may_keep,
    )


def _file(file: TemporaryFile) -> StreamingResponse:
    name = file.name + ENDING
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    headers = {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}",
        "Content-Length": str(file.size),
        "Content-Encoding": "identity",  # else the host compresses what hardly gets smaller, and its length is unknown
    }
    return StreamingResponse(file.chunks(), headers=headers, media_type="application/octet-stream")


async def _left(request: Request) -> None:
    """Wait for the client to go away, which ``is_disconnected`` of a request does not see behind hosts' middleware."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _done(jobs: Jobs, work: Work, request: Request) -> Job:
    """A job when it is done. Where the client goes away meanwhile it is cancelled.

    Raises:
        HTTPException: it failed.
    """
    job = _begin(jobs, work, is_listed=False)
    leaving = asyncio.ensure_future(_left(request))
    try:
        while not job.is_over and not leaving.done():
            await asyncio.sleep(_WAIT_S)
    finally:
        leaving.cancel()
        jobs.cancel(job)
    if job.failure is not None:
        raise HTTPException(_STATUSES[job.failure.cause], job.failure.message)
    if job.outcome is None:
        raise HTTPException(409, "cancelled; nothing was written")
    return job


def _add_to_page(app: FastAPI, backend: BakeBackend, jobs: Jobs) -> None:
    secret = Query(..., max_length=LONGEST_NAME)
    login = page_login(app)

    def add(path: str, method: str, endpoint: Callable[..., Any], **named: Any) -> None:
        app.router.add_api_route(
            PAGE_PATH + path, endpoint, methods=[method], include_in_schema=False, route_class_override=Route,
            dependencies=[*login, Depends(require_json)] if method == "POST" else login, **named,
        )  # fmt: skip

    def may_keep() -> bool:
        return not backend.keeping_obstacle()

    def begin(asked: PageBakeRequest) -> JobBegun:
        return JobBegun(job=_begin(jobs, _work(asked, backend), is_listed=True).token)

    def show(job: str = secret) -> Baked:
        return _answer(_job(jobs, job), may_keep())

    def cancel(asked: JobRequest) -> Baked:
        job = _job(jobs, asked.job)
        jobs.cancel(job)
        return _answer(job, may_keep())

    def picture(job: str = secret, theme: Theme = Theme.LIGHT) -> Response:
        outcome = _job(jobs, job).outcome
        if outcome is None or outcome.strengths is None:
            raise HTTPException(404, "this baking has no picture")
        return Response(png(draw(outcome.strengths, theme)), media_type="image/png")

    def fetch(job: str = secret) -> Response:
        found = _job(jobs, job)
        outcome = found.outcome
        if outcome is None or outcome.kept is not None or outcome.strengths is not None:
            raise HTTPException(404, "this baking has no file")
        file = jobs.file_of(found)
        if file is None:
            raise HTTPException(
                410, "the file is no longer there: it stays for 10 minutes, or until two others are made; bake it again"
            )
        return _file(file)

    def place() -> Place:
        obstacle = backend.keeping_obstacle()
        return Place(may_keep=not obstacle, reason=obstacle)

    add("", "POST", begin, response_model=JobBegun)
    add("", "GET", show, response_model=Baked)
    add("/cancel", "POST", cancel, response_model=Baked)
    add("/picture.png", "GET", picture, response_class=Response)
    add("/file", "GET", fetch, response_class=Response)
    add("/place", "GET", place, response_model=Place)


def add(app: FastAPI, backend: BakeBackend, of_api: Sequence[Any] | None, jobs: Jobs = JOBS) -> None:
    """Add the routes to the host's application.

    Args:
        of_api: the dependencies of the host's API; None if it runs without, and then there are none of ours for it.
    """
    _add_to_page(app, backend, jobs)
    if of_api is None:
        return

    async def bake(asked: BakeRequest, request: Request) -> Response:
        """All tags of a prompt as one LoRA file, whose strength 1 is what the tags are on the loaded model.

        Nothing is written into the server's folders. What its user has to know is in the file's metadata.
        """
        work = partial(bake_actions.download, _order(asked), _name(asked), asked.words, backend)
        job = await _done(jobs, work, request)
        assert job.outcome is not None and job.outcome.file is not None
        return _file(job.outcome.file)

    async def look(asked: BakeRequest, request: Request) -> Baked:
        """What would be in the file, which is not made."""
        work = partial(bake_actions.look, _order(asked), _name(asked), backend)
        return _answer(await _done(jobs, work, request), not backend.keeping_obstacle())

    file: dict[int | str, Any] = {
        200: {"content": {"application/octet-stream": {}}, "description": "a .safetensors file"}
    }
    more: dict[str, Any] = {
        "methods": ["POST"], "tags": [TITLE], "dependencies": of_api, "route_class_override": Route,
    }  # fmt: skip
    app.router.add_api_route(PATH, bake, response_class=Response, responses=file, **more)
    app.router.add_api_route(f"{PATH}/look", look, response_model=Baked, **more)
