"""The two preset files of the extension, and the library that a request gets from them and from its arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lbw.request import infotext
from lbw.request.arguments import Arguments
from lbw.tags import prompt
from lbw.tags.curves import is_curve
from lbw.tags.library import Library
from lbw.tags.limits import shortened
from lbw.tags.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS, read_if_possible

_SCRIPTS_FOLDER = Path(__file__).resolve().parents[2]
PRESETS_FILE = _SCRIPTS_FOLDER / "lbwpresets.txt"
RULE_SETS_FILE = _SCRIPTS_FOLDER / "elempresets.txt"


def preset_text() -> str:
    """The presets, as their file has them."""
    return read_if_possible(PRESETS_FILE, DEFAULT_PRESETS)


def rule_set_text() -> str:
    """The element rule sets, as their file has them."""
    return read_if_possible(RULE_SETS_FILE, DEFAULT_RULE_SETS)


def library(arguments: Arguments) -> Library:
    """Presets and rule sets from the request, or from their files where it has none."""
    return Library.read(
        arguments.presets or preset_text(), arguments.elements or rule_set_text(), arguments.default_preset
    )


def recalled(library: Library, arguments: Arguments, warn: prompt.Warn) -> Library:
    """The library with what a pasted infotext brought, and without a default preset that cannot be used."""
    try:
        library = infotext.recall(arguments.pasted, library)
    except ValueError as error:
        warn(f"argument pasted: {error}")
    default = library.default_preset
    if default is not None and not is_curve(default) and not library.knows(default):
        warn(f"default preset {shortened(default)}: {library.missing(default)}; "
             "tags without lbw= keep all blocks at 1")
        library = replace(library, default_preset=None)
    return library
