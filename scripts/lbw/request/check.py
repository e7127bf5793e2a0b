"""The check of a request for an image, before the host begins it: what is for this script has to be usable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException, Request

from lbw.request.arguments import TITLE, ArgumentError, from_object, is_unicode, shown


def _refusal(path: tuple[str | int, ...], expected: str, value: Any) -> HTTPException:
    """HTTP 422 in the form of the host's own answers to a wrong type."""
    key = f"argument {path[-1] + 1}" if isinstance(path[-1], int) else path[-1]
    got = shown(value)
    message = f"{key}: expected {expected}, got {got}"
    detail = {"loc": ["body", *path], "msg": message, "type": "value_error", "expected": expected, "got": got}
    return HTTPException(422, [detail])


def _is_repeatable(value: Any) -> bool:
    """Whether the host's answer, which repeats the request, can hold a value: JSON is read more widely than written."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str) and not is_unicode(item):
            return False
        if isinstance(item, (int, float)) and not -(2**63) <= item < 2**63:
            return False
        if isinstance(item, Mapping):
            rest += [*item, *item.values()]
        elif isinstance(item, list):
            rest += item
    return True


def check_arguments(body: Any) -> None:
    """Refuse what a request has for this script and cannot be used, before the host does anything.

    Raises:
        HTTPException: 422, which names the key, what was expected and what came.
    """
    scripts = body.get("alwayson_scripts") if isinstance(body, Mapping) else None
    for name, given in scripts.items() if isinstance(scripts, Mapping) else ():
        if name.lower() != TITLE.lower():
            continue
        path = ("alwayson_scripts", name)
        if not isinstance(given, Mapping):
            raise _refusal(path, "an object with the key args", given)
        args = given.get("args", [])
        if not isinstance(args, list):
            raise _refusal((*path, "args"), "a list", args)
        for position, value in enumerate(args):
            if not _is_repeatable(value) and not isinstance(args[0], Mapping):
                raise _refusal((*path, "args", position), "numbers of at most 64 bits and whole characters", value)
        if args and isinstance(args[0], Mapping):
            if len(args) > 1:
                raise _refusal((*path, "args"), "one object, or a list of values", args)
            try:
                from_object(args[0])
            except ArgumentError as error:
                raise _refusal((*path, "args", 0, error.key), error.expected, args[0][error.key]) from None


def accept_script_name(body: Any) -> None:
    """Take ``script_name`` and ``script_args``, which the original's plots are asked for with, as always-on arguments.

    The host itself would refuse the name, because the script is not one of the menu.
    """
    if isinstance(body, dict) and str(body.get("script_name")).lower() == TITLE.lower():
        del body["script_name"]
        scripts = body.get("alwayson_scripts") or {}
        if isinstance(scripts, Mapping):
            body["alwayson_scripts"] = {**scripts, TITLE: {"args": body.pop("script_args", [])}}


async def check_request(request: Request) -> None:
    try:
        body = await request.json()
    except ValueError:
        return  # the host answers what is no JSON
    accept_script_name(body)
    check_arguments(body)
