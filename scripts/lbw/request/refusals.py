"""Refusals of what a route cannot read."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute


class Route(APIRoute):
    """A route whose refusals do not repeat what was asked: some of it, such as NaN or half a character, has no place
    in an answer, and the refusal would be an error of the server."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_or_refuse(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                found = [{key: each[key] for key in ("loc", "msg", "type")} for each in error.errors()]
                return Response(json.dumps({"detail": found}), 422, media_type="application/json")

        return handle_or_refuse
