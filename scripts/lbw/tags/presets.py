"""Preset files: named block weights and named element rule sets. Read, validate, write atomically.

A preset line is ``NAME:v,v,...`` or ``NAME:blocks=value,...``, and no ``#``; every other line is a comment and is kept
as it stands. Of several lines of one name, the one that fits the loaded model counts. Rule sets are separated by empty
lines: ``NAME:rules``.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lbw.tags import named_weights
from lbw.tags.blocks import UnknownBlockError
from lbw.tags.elements import parse_rules
from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.weights import check_values, families_of_length, is_named, is_vector, split_values

ORIGINAL_PRESETS = """\
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

"""The presets that the original extension has."""


def _line(name: str, *runs: tuple[int, int]) -> str:
    """A preset of so many ones and so many zeros in turn."""
    return f"{name}:{','.join(value for ones, zeros in runs for value in ['1'] * ones + ['0'] * zeros)}"


def _lines(size: int, deep_in: int, deep_out: int, middle: int) -> str:
    """The original's presets for a model with ``size`` blocks before the middle and as many behind it.

    Args:
        deep_in: the first block of the deep half of the input, counted from 0.
        deep_out: the first block of the output that is no longer deep.
        middle: how many blocks there are between.
    """
    rest = size - deep_in
    return "\n".join((
        _line("INS", (1 + deep_in, rest + middle + size)),
        _line("IND", (1, deep_in), (rest, middle + size)),
        _line("INALL", (1 + size, middle + size)),
        _line("MIDD", (1, deep_in), (rest + middle + deep_out, size - deep_out)),
        _line("OUTD", (1, size + middle), (deep_out, size - deep_out)),
        _line("OUTS", (1, size + middle + deep_out), (size - deep_out, 0)),
        _line("OUTALL", (1, size + middle), (size, 0)),
    ))


DEFAULT_PRESETS = f"""\
# Of several lines with one name, the one that fits the loaded model counts; of several that fit, the last.
# All models:
NONE:NONE,BASE=0
ALL:ALL,BASE=1
ALL0.5:0.5,BASE=0.5
INALL:NONE,BASE FIRST=1
MIDD:NONE,BASE MID=1
OUTALL:NONE,BASE LAST=1
# Flux:
INS:NONE,BASE D00-D08=1
IND:NONE,BASE D09-D18=1
INALL:NONE,BASE D=1
MIDD:NONE,BASE D09-S18=1
OUTD:NONE,BASE S00-S18=1
OUTS:NONE,BASE S19-S37=1
OUTALL:NONE,BASE S=1
# SD3 and SD3.5 medium, 25 values; SD3.5 large, 39:
{_lines(12, 6, 6, 0)}
{_lines(19, 10, 9, 0)}
# SDXL, 20 values:
{_lines(9, 6, 3, 1)}
# SD1 and SD2, 17 values:
{ORIGINAL_PRESETS}"""
"""What a preset file begins with. Other tools read such files, too: they know 17 values, and of several lines the last.
"""

DEFAULT_RULE_SETS = """\
ATTNDEEPON:IN05-OUT05:attn:1

ATTNDEEPOFF:IN05-OUT05:attn:0

PROJDEEPOFF:IN05-OUT05:proj:0

XYZ:::1
"""


@dataclass(frozen=True)
class Problem:
    """A line of a preset text that looks like an entry but is none. ``line`` counts from 1."""

    line: int
    reason: str


Parse = Callable[[str], tuple[Mapping[str, Any], list[Problem]]]


def parse_presets(text: str) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
    """Preset text -> {name: texts of its lines}, and the lines that look like presets but can be used on no published
    model."""
    presets: dict[str, tuple[str, ...]] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        name, separator, weights = (part.strip() for part in line.partition(":"))
        if not separator or "#" in line or not name:
            continue
        try:
            check_weights(weights)
        except ValueError as error:
            is_kept = _may_be_of_another_model(weights, error)
            if is_kept or "," in weights:
                problems.append(Problem(number, f"{name}: {error}"))
            if not is_kept:
                continue
        if character := unusable_in_tag(name):
            problems.append(Problem(number, f"{name}: {character!r} cannot stand in a tag"))
        presets[name] = (*presets.get(name, ()), weights)
    return presets, problems


def _may_be_of_another_model(weights: str, error: ValueError) -> bool:
    """Whether what is wrong with a preset can be told only when it is used: its length, its blocks or a value."""
    if is_named(weights):
        return isinstance(error, UnknownBlockError)
    items = split_values(weights)
    if families_of_length(len(items)):
        return "," in weights
    try:
        check_values(items)
    except ValueError:
        return False
    return len(items) > 1


def check_weights(weights: str) -> None:
    """
    Raises:
        ValueError: a preset with this text can be used on no published model.
    """
    if is_named(weights):
        named_weights.check(weights)
        return
    items = split_values(weights)
    if not is_vector(weights) or not families_of_length(len(items)):
        raise ValueError(f"{len(items)} values; expected 12, 17, 20, 26, 61, or one for each block of a model")
    check_values(items)


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
    """A preset text in which ``name`` has ``vector``: in the place of one of this name with as many values, or else in
    a new line, behind those of this name.

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
    check_weights(vector)
    lines = text.splitlines()
    places = [i for i, line in enumerate(lines) if name in parse_presets(line)[0]]
    for place in reversed(places):
        if _form(lines[place].partition(":")[2]) == _form(vector):
            lines[place] = f"{name}:{vector}"
            break
    else:
        lines.insert(places[-1] + 1 if places else len(lines), f"{name}:{vector}")
    return "\n".join(lines) + "\n"


def _form(weights: str) -> int:
    """How many values a preset has; 0 of one by name. Of one form, a later one always counts instead of an earlier."""
    return 0 if is_named(weights) else len(split_values(weights))


def read(path: Path, default: str) -> str:
    """The text of a preset file, or ``default`` if it is absent.

    A file that is not UTF-8 is read with replacement characters rather than refused: its other lines stay usable.
    """
    try:
        return path.read_bytes().decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    except FileNotFoundError:
        return default


def read_or_create(path: Path, default: str, earlier_default: str | None = None) -> str:
    """The text of a preset file, which is made with ``default`` if it is absent, and if nobody has changed it since it
    was made with an earlier default."""
    if not path.exists() or read(path, default).strip() == (earlier_default or default).strip() != default.strip():
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
