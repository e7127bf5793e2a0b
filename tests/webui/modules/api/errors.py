"""Errors of the API as JSON: `error`, `detail`, `body` and `errors`, with the status that the exception asks for."""

from __future__ import annotations

import datetime
import time

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from modules import errors, shared


def handle_exception(request: Request, error: Exception) -> JSONResponse:
    answer = {
        "error": type(error).__name__,
        "detail": getattr(error, "detail", ""),
        "body": getattr(error, "body", ""),
        "errors": str(error),
    }
    if not isinstance(error, HTTPException):
        errors.report(f"{request.method} {request.url.path} failed: {answer}", exc_info=True)
    return JSONResponse(status_code=getattr(error, "status_code", 500), content=jsonable_encoder(answer))


async def _answer_errors(request: Request, call_next):
    try:
        return await call_next(request)
    except Exception as error:
        return handle_exception(request, error)


async def _log_and_time(request: Request, call_next):
    started = time.time()
    response = await call_next(request)
    duration = str(round(time.time() - started, 4))
    response.headers["X-Process-Time"] = duration
    path = request.scope.get("path", "")
    if shared.cmd_opts.api_log and path.startswith("/sdapi"):
        now = datetime.datetime.now().isoformat(sep=" ")
        print(f"API {now} {response.status_code} {request.method} {path} {duration}")
    return response


async def _on_exception(request: Request, error: Exception) -> JSONResponse:
    return handle_exception(request, error)


def api_middleware(app: FastAPI) -> None:
    """Add the above to an application that may be serving already.

    Its middlewares are listed and built in one go, as Starlette refuses to add one once a request has come in.
    """
    app.user_middleware[:0] = [
        Middleware(BaseHTTPMiddleware, dispatch=_answer_errors),
        Middleware(BaseHTTPMiddleware, dispatch=_log_and_time),
    ]
    app.exception_handlers[Exception] = _on_exception
    app.exception_handlers[HTTPException] = _on_exception
    app.middleware_stack = app.build_middleware_stack()
