"""A request for an image, as one made from another of it: a plot's cell has other rules and other arguments."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from lbw.hosts.preset_files import library, recalled, rule_set_text
from lbw.request.arguments import ARGUMENTS, Arguments
from lbw.tags.library import VARIED, Library

_FILES_BEFORE: dict[str, set[str]] = {"presets": set(), "elements": set()}
"""What the files held when components were made: the host takes the defaults of its API from them, once."""


def note_defaults(components: dict[str, Any]) -> None:
    """Components, by the names of their arguments, have been made."""
    for name, texts in _FILES_BEFORE.items():
        texts.add(components[name].value)


def leave_to_files(p: Any, place: slice) -> None:
    """Have a client of the host's API that says nothing of presets and rules, for which the host puts in what the files
    held before, get those that are in the files now. Whoever sends the very text of before cannot be told apart."""
    if not getattr(p, "is_api", False):
        return
    values = list(p.script_args)
    for index, argument in enumerate(ARGUMENTS, place.start):
        before = _FILES_BEFORE.get(argument.name, set())
        if index < len(values) and isinstance(values[index], str) and values[index] in before:
            values[index] = ""
    if values != [*p.script_args]:
        p.script_args = tuple(values)


def library_of(arguments: Arguments) -> Library:
    """What names mean in a request, whose warnings the generation itself gives."""
    return recalled(library(arguments), arguments, lambda _message: None)


def with_varied_rules(arguments: Arguments, rules: str) -> Arguments:
    """The arguments with these rules as the rule set that a plot varies."""
    return replace(arguments, elements=f"{arguments.elements or rule_set_text()}\n\n{VARIED}:{rules}\n")


def put(p: Any, arguments: Arguments, place: slice) -> None:
    """Give a processing object these arguments, at ``place`` among those of all scripts."""
    values = list(p.script_args)
    values[place] = [getattr(arguments, item.name) for item in fields(arguments)]
    p.script_args = tuple(values)
