"""Refusals of what a route cannot read, and of whom the page does not know."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

logger = logging.getLogger("lbw")

LARGEST_BODY = 16_000_000
"""Bytes of a request: more than the texts that one can have, which are read when all of them are there."""

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


_LONGEST_NUMBER = 100
"""Digits of a whole number that is read as one; a longer one is too large for everything."""


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else float(digits)


class _BoundedRequest(Request):
    """A request of which no more is read than one may have, and whose numbers all are some.

    Raises:
        HTTPException: 413, when it says that it has more; or where more is read of one that does not say it.
    """

    def __init__(self, request: Request) -> None:
        self._count = 0
        self._too_large = HTTPException(413, f"the request has too many bytes; expected at most {LARGEST_BODY}")
        said = request.headers.get("content-length", "")
        if said.isdecimal() and (len(said) > 20 or int(said) > LARGEST_BODY):
            raise self._too_large

        async def receive() -> Any:
            message = await request.receive()
            self._count += len(message.get("body", b""))
            if self._count > LARGEST_BODY:
                raise self._too_large
            return message

        super().__init__(request.scope, receive)

    async def json(self) -> Any:
        return json.loads(await self.body(), parse_int=_whole_number)


class _Answer(JSONResponse):
    """JSON in ASCII, which can hold halves of characters: what was asked may have some, and is repeated."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Route(APIRoute):
    """A route whose refusals do not repeat what was asked: some of it, such as NaN or half a character, has no place
    in an answer, and the refusal would be an error of the server. What is too large is refused before it is held, and a
    file that cannot be read is told by name."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        if getattr(self.response_class, "value", self.response_class) is JSONResponse:
            self.response_class = _Answer
        handle = super().get_route_handler()

        async def handle_or_refuse(request: Request) -> Response:
            try:
                return await handle(_BoundedRequest(request))
            except RequestValidationError as error:
                found = [{key: each[key] for key in ("loc", "msg", "type")} for each in error.errors()]
                return Response(json.dumps({"detail": found}), 422, media_type="application/json")
            except OSError as error:
                name, reason = Path(str(error.filename or "a file")).name, error.strerror or type(error).__name__
                logger.warning("LoRA Block Weight: %s: %s: %s; answered with an error", request.url.path, name, reason)
                return Response(json.dumps({"detail": f"{name}: {reason}"}), 500, media_type="application/json")

        return handle_or_refuse
