"""Preset files: named block weights and named element rule sets. Read, validate, write atomically.

A preset line is ``NAME:v,v,...`` or ``NAME:blocks=value,...``, and no ``#``; every other line is a comment and is kept
as it stands. Of several lines of one name, the one that fits the loaded model counts. Rule sets are separated by empty
lines: ``NAME:rules``.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from lbw.tags import named_weights
from lbw.tags.blocks import UnknownBlockError
from lbw.tags.elements import parse_rules
from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.weights import check_values, families_of_length, is_named, is_value, is_vector, split_vector

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


def _lines(ins: int, deep_in: int, middle: int, outs: int, deep_out: int) -> str:
    """The original's presets for a model with ``ins`` blocks before the middle and ``outs`` behind it.

    Args:
        deep_in: the first block of the deep half of the input, counted from 0.
        middle: how many blocks there are between.
        deep_out: the first block of the output that is no longer deep.
    """
    rest, shallow = ins - deep_in, outs - deep_out
    return "\n".join((
        _line("INS", (1 + deep_in, rest + middle + outs)),
        _line("IND", (1, deep_in), (rest, middle + outs)),
        _line("INALL", (1 + ins, middle + outs)),
        _line("MIDD", (1, deep_in), (rest + middle + deep_out, shallow)),
        _line("OUTD", (1, ins + middle), (deep_out, shallow)),
        _line("OUTS", (1, ins + middle + deep_out), (shallow, 0)),
        _line("OUTALL", (1, ins + middle), (outs, 0)),
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
# Flux and Chroma, 58 values:
{_lines(19, 9, 0, 38, 19)}
# SD3 and SD3.5 medium; SD3.5 large, 39 values:
INS:NONE,BASE IN00-IN05=1
IND:NONE,BASE IN06-IN11=1
INALL:NONE,BASE IN00-IN11=1
MIDD:NONE,BASE IN06-OUT05=1
OUTD:NONE,BASE OUT00-OUT05=1
OUTS:NONE,BASE OUT06-OUT11=1
OUTALL:NONE,BASE OUT00-OUT11=1
{_lines(19, 10, 0, 19, 9)}
# SDXL, 20 values:
{_lines(9, 6, 1, 9, 3)}
# SD1 and SD2, 17 values:
{ORIGINAL_PRESETS}"""
"""What a preset file begins with; ``,BASE=`` because one value alone is no preset. Other tools read such files, too:
they know 17 values, and of several lines the last."""

DEFAULT_RULE_SETS = """\
ATTNDEEPON:IN05-OUT05:attn:1

ATTNDEEPOFF:IN05-OUT05:attn:0

PROJDEEPOFF:IN05-OUT05:proj:0

XYZ:::1
"""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line of a preset text that looks like an entry. ``line`` counts from 1."""

    line: int
    reason: str


Parse = Callable[[str], tuple[Mapping[str, str], list[Problem]]]
"""A text -> {name: entry}, and what is wrong with it."""


def parse_joined_presets(text: str) -> tuple[dict[str, str], list[Problem]]:
    """As :func:`parse_presets`, with the lines of a preset in one text."""
    presets, problems = parse_presets(text)
    return {name: "\n".join(lines) for name, lines in presets.items()}, problems


def parse_presets(text: str) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
    """Preset text -> {name: texts of its lines}, and what is wrong with lines that look like presets: they can be used
    on no published model, or not in a tag."""
    presets, problems = _parsed_presets(text)
    return {**presets}, [*problems]


@lru_cache(maxsize=4)
def _parsed_presets(text: str) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
    """A file of thousands of lines is not read anew for each image."""
    presets: dict[str, list[str]] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        name, separator, weights = (part.strip() for part in line.partition(":"))
        if not separator or "#" in line or not name:
            continue
        try:
            check_weights(weights)
        except ValueError as error:
            is_kept = _can_be_told_when_used(weights, error)
            if is_kept or "," in weights:
                problems.append(Problem(number, f"{name}: {error}"))
            if not is_kept:
                continue
        if character := unusable_in_tag(name):
            problems.append(Problem(number, f"{name}: {character!r} cannot stand in a tag"))
        presets.setdefault(name, []).append(weights)
    return {name: tuple(lines) for name, lines in presets.items()}, problems


_BLOCKS = re.compile(r"[A-Z][A-Z0-9_]+|[A-Za-z0-9_]+[._]?\d+")
"""What blocks and rows of a model look like that no family is known for."""


def _can_be_told_when_used(weights: str, error: ValueError) -> bool:
    """Whether what is wrong with a line is its length, its blocks or a value, so that it is a preset all the same: it
    may be for another model, and whoever uses it is told the reason."""
    if is_named(weights):
        return isinstance(error, UnknownBlockError) and all(map(_BLOCKS.fullmatch, error.word.split("-")))
    items = split_vector(weights)
    return "," in weights and (bool(families_of_length(len(items))) or all(map(is_value, items)))


def check_weights(weights: str) -> None:
    """
    Raises:
        ValueError: a preset with this text can be used on no published model.
    """
    if is_named(weights):
        named_weights.check(weights)
        return
    items = split_vector(weights)
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
    """A preset text in which ``name`` has ``vector``: in the place of one of this name for no other models, or else
    in a new line, behind those of this name.

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
    places = [i for i, line in enumerate(lines) if name == line.partition(":")[0].strip() and "#" not in line]
    same = [place for place in places if _models_of(lines[place].partition(":")[2].strip()) <= _models_of(vector)]
    if same:
        lines[same[-1]] = f"{name}:{vector}"
    else:
        lines.insert(places[-1] + 1 if places else len(lines), f"{name}:{vector}")
    return "\n".join(lines) + "\n"


def _models_of(weights: str) -> set[object]:
    """What tells which models a preset's line is for: its length, or those that have the blocks that it names."""
    if not is_named(weights):
        return {len(split_vector(weights))}
    with contextlib.suppress(ValueError):
        return {*named_weights.check(weights)}
    return {weights}


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
    is_unchanged = earlier_default is not None and read(path, "").strip() == earlier_default.strip()
    if not path.exists() or is_unchanged:
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
