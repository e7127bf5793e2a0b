"""Refusals of what a route cannot read, and of whom the page does not know."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

logger = logging.getLogger("lbw")

_LOGIN_CHECKS = ("/login_check", "/login_check/")


def page_login(app: FastAPI) -> list[Any]:
    """The check of the page's login, which refuses nobody where there is none."""
    checks = [route.endpoint for route in app.routes if isinstance(route, APIRoute) and route.path in _LOGIN_CHECKS]
    return [Depends(check) for check in checks[:1]]


def require_json(content_type: str = Header("")) -> None:
    """Anything but JSON, a page of whatever origin can have a user's browser send.

    Raises:
        HTTPException: 415 for something else.
    """
    if not content_type.startswith("application/json"):
        raise HTTPException(415, "expected JSON, and a header that says so")


class Route(APIRoute):
    """A route whose refusals do not repeat what was asked: some of it, such as NaN or half a character, has no place
    in an answer, and the refusal would be an error of the server. A file that cannot be read is told by name."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_or_refuse(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                found = [{key: each[key] for key in ("loc", "msg", "type")} for each in error.errors()]
                return Response(json.dumps({"detail": found}), 422, media_type="application/json")
            except OSError as error:
                name, reason = Path(str(error.filename or "a file")).name, error.strerror or type(error).__name__
                logger.warning("LoRA Block Weight: %s: %s: %s; nothing was answered", request.url.path, name, reason)
                return Response(json.dumps({"detail": f"{name}: {reason}"}), 500, media_type="application/json")

        return handle_or_refuse
