"""Preset files: named weight vectors and named element rule sets. Read, validate, write atomically.

A preset line is ``NAME:v,v,...`` with 12, 17, 20, 26 or 61 values, or ``NAME:blocks=value,...``, and no ``#``; every
other line is a comment and is kept as it stands. Rule sets are separated by empty lines: ``NAME:rules``.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lbw.tags import named_weights
from lbw.tags.blocks import LAYOUTS
from lbw.tags.elements import parse_rules
from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.weights import is_named, parse_weights

DEFAULT_PRESETS = """\
NONE:0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0
ALL:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
INS:1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0
IND:1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0
INALL:1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0
MIDD:1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0
OUTD:1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0
OUTS:1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1
OUTALL:1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1
ALL0.5:0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5
FLUXALL:{flux}
""".format(flux=",".join(["1"] * 61))

DEFAULT_RULE_SETS = """\
ATTNDEEPON:IN05-OUT05:attn:1

ATTNDEEPOFF:IN05-OUT05:attn:0

PROJDEEPOFF:IN05-OUT05:proj:0

XYZ:::1
"""


_LENGTHS = ", ".join(str(length) for length in LAYOUTS)


@dataclass(frozen=True)
class Problem:
    """A line of a preset text that looks like an entry but is none. ``line`` counts from 1."""

    line: int
    reason: str


Parse = Callable[[str], tuple[dict[str, str], list[Problem]]]


def parse_presets(text: str) -> tuple[dict[str, str], list[Problem]]:
    """Preset text -> {name: vector text}, and the lines that look like presets but are not."""
    presets: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        name, separator, vector = (part.strip() for part in line.partition(":"))
        if not separator or "#" in line or not name:
            continue
        is_by_name = is_named(vector)
        if not is_by_name and len(vector.split(",")) not in LAYOUTS:
            if "," in vector:
                problems.append(Problem(number, f"{name}: {len(vector.split(','))} values; expected {_LENGTHS}"))
            continue
        try:
            check_vector(vector)
        except ValueError as error:
            if "," in vector:
                problems.append(Problem(number, f"{name}: {error}"))
            if is_by_name:
                continue
        if character := unusable_in_tag(name):
            problems.append(Problem(number, f"{name}: {character!r} cannot stand in a tag"))
        presets[name] = vector
    return presets, problems


def check_vector(vector: str) -> None:
    """
    Raises:
        ValueError: a preset cannot have this text.
    """
    if is_named(vector):
        named_weights.check(vector)
    else:
        parse_weights(vector)


def _paragraphs(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of each run of lines that are not empty."""
    number = 0
    for is_empty, lines in groupby(text.splitlines(), key=lambda line: not line.strip()):
        rows = [line.strip() for line in lines]
        if not is_empty:
            yield number + 1, rows
        number += len(rows)


def parse_rule_sets(text: str) -> tuple[dict[str, str], list[Problem]]:
    """Rule set text -> {name: rules}, and the entries that cannot be read."""
    rule_sets: dict[str, str] = {}
    problems = []
    for line, rows in _paragraphs(text):
        entry = "\n".join(row for row in rows if not row.startswith("#"))
        name, separator, rules = entry.partition(":")
        if not separator or not name.strip():
            continue
        try:
            parse_rules(rules)
        except ValueError as error:
            problems.append(Problem(line, f"{name.strip()}: {error}"))
        rule_sets[name.strip()] = rules.strip()
    return rule_sets, problems


_NOT_IN_A_TAG = ":=>#\n\r"


def unusable_in_tag(name: str) -> str | None:
    """The first character of a name that cannot stand in a tag; None if the name can be used."""
    return next((character for character in name if character in _NOT_IN_A_TAG), None)


def with_preset(text: str, name: str, vector: str) -> str:
    """A preset text in which ``name`` has ``vector``: in its old place if there was one, else in a new last line.

    Raises:
        ValueError: the name cannot be used in a tag, the vector has a wrong count or value, or the text is too long.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"the presets have {len(text)} characters; expected {LONGEST_TEXT} at most")
    name, vector = name.strip(), vector.strip()
    if not name:
        raise ValueError("the preset has no name; expected an identifier")
    if character := unusable_in_tag(name):
        raise ValueError(f"{name!r} contains {character!r}, which cannot stand in a tag")
    check_vector(vector)
    lines = text.splitlines()
    places = [i for i, line in enumerate(lines) if name in parse_presets(line)[0]]
    if places:
        lines[places[-1]] = f"{name}:{vector}"
    else:
        lines.append(f"{name}:{vector}")
    return "\n".join(lines) + "\n"


def read(path: Path, default: str) -> str:
    """The text of a preset file, or ``default`` if it is absent.

    A file that is not UTF-8 is read with replacement characters rather than refused: its other lines stay usable.
    """
    try:
        return path.read_bytes().decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    except FileNotFoundError:
        return default


def read_or_create(path: Path, default: str) -> str:
    """The text of a preset file, which is made with ``default`` if it is absent."""
    if not path.exists():
        write_atomically(path, default)
    return read(path, default)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by a complete new one: a reader, or a crash, sees the old text or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
