"""Preset files: named block weights and named element rule sets. Read, validate, write atomically.

A preset line is ``NAME:v,v,...`` or ``NAME:blocks=value,...``, and no ``#``; every other line is a comment and is kept
as it stands, see :mod:`lbw.tags.preset_lines`. Of several lines of one name, the one that fits the loaded model counts.
Rule sets are separated by empty lines: ``NAME:rules``. Full-width signs mean what the others mean.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from threading import Lock

from lbw.tags import named_weights
from lbw.tags.elements import parse_rules
from lbw.tags.encodings import decode
from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.ordinary_files import read_bytes
from lbw.tags.preset_lines import check_weights, read_line, unusable_in_tag
from lbw.tags.slips import narrow
from lbw.tags.weights import is_named, split_vector

logger = logging.getLogger("lbw")

MOST_BYTES = 16_000_000
"""Of a preset file: more than can be saved, in any encoding."""

changing = Lock()
"""Held by whoever writes a preset file because of what is in it."""

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


def has_own_entries(text: str) -> bool:
    """Whether a file has presets or rule sets that neither the original's nor ours begin with."""
    defaults = "\n".join((ORIGINAL_PRESETS, DEFAULT_PRESETS, DEFAULT_RULE_SETS))
    entries = "\n".join(line for line in text.splitlines() if line.strip() not in defaults.splitlines())
    return bool(parse_presets(entries)[0] or parse_rule_sets(entries)[0])


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
    parsed = _parsed_presets(text)
    return {**parsed.presets}, [*parsed.problems]


def unusable_lines(text: str) -> dict[str, str]:
    """{name: what is wrong} of lines that are no presets and look like some, for who uses the name."""
    return {**_parsed_presets(text).unusable}


@dataclass(frozen=True)
class _Parsed:
    presets: Mapping[str, tuple[str, ...]]
    problems: Sequence[Problem]
    unusable: Mapping[str, str]


def narrow_values(line: str) -> str:
    """A preset's line with the signs of an ordinary keyboard; a name before an ordinary colon is as its user has it."""
    name, colon, values = line.partition(":")
    return name + colon + narrow(values) if colon else narrow(line)


@lru_cache(maxsize=8)
def _parsed_presets(text: str) -> _Parsed:
    """A file of thousands of lines is not read anew for each image."""
    presets: dict[str, list[str]] = {}
    unusable: dict[str, str] = {}
    problems = []
    places: dict[tuple[str, Hashable], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = read_line(narrow_values(line))
        if found is None:
            continue
        name = found.name
        if found.fault is not None and found.looks_like_one:
            problems.append(Problem(number, f"{name}: {found.fault}" if name else found.fault))
        if not found.is_preset and not name:
            continue
        if not found.is_preset:
            unusable[name] = f"line {number} of the presets: {found.fault}"
            continue
        if found.models is not None and (earlier := places.get((name, found.models))):
            problems.append(Problem(earlier, f"{name}: line {number} is for the same models, and counts instead"))
        places[name, found.models] = number
        presets.setdefault(name, []).append(found.weights)
    return _Parsed({name: tuple(lines) for name, lines in presets.items()}, sorted(problems, key=_by_line), unusable)


def _by_line(problem: Problem) -> int:
    return problem.line


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
    rule_sets, problems = _parsed_rule_sets(text)
    return {**rule_sets}, [*problems]


@lru_cache(maxsize=8)
def _parsed_rule_sets(text: str) -> tuple[Mapping[str, str], Sequence[Problem]]:
    rule_sets: dict[str, str] = {}
    problems = []
    places: dict[str, int] = {}
    for number, rows in _paragraphs(narrow(text)):
        own = [(number + i, row) for i, row in enumerate(rows) if not row.startswith("#")]
        entry = "\n".join(row for _, row in own)
        name, colon, rules = (part.strip() for part in entry.partition(":"))
        if not colon or not name:
            if colon and _are_rules(rules):
                problems.append(Problem(own[0][0], "no name before the colon"))
            continue
        line = own[0][0]
        if fault := _fault_of_rule_set(name, rules, [row for _, row in own]):
            problems.append(Problem(line, f"{name}: {fault}"))
        if name in places:
            problems.append(Problem(places[name], f"{name}: line {line} has the same name, and counts instead"))
        places[name] = line
        rule_sets[name] = rules
    return rule_sets, sorted(problems, key=_by_line)


def _fault_of_rule_set(name: str, rules: str, rows: Sequence[str]) -> str | None:
    try:
        parse_rules(rules)
    except ValueError as error:
        if any(row.count(":") == 3 for row in rows[1:]):
            return f"{error}; is there an empty line before each name?"
        if name != re.split(r"[=\s]", name)[0] and rules.count(":") == 1:
            sign = "'='" if "=" in name else "a blank"
            return f"{sign} where the first colon belongs"
        return f"{error}; expected the note in a line of its own" if "#" in rules else str(error)
    if not rules:
        return "nothing behind the colon; expected blocks:elements:ratio"
    character = unusable_in_tag(name)
    return character and f"{character!r} cannot stand in a tag"


def _are_rules(text: str) -> bool:
    try:
        return bool(parse_rules(text))
    except ValueError:
        return False


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
    check_weights(narrow(vector))
    lines = text.splitlines()
    ends = [whole[len(line) :] or "\n" for whole, line in zip(text.splitlines(keepends=True), lines, strict=True)]
    found = [read_line(narrow_values(line)) for line in lines]
    places = [i for i, line in enumerate(found) if line is not None and line.name == name]
    weights = {i: line.weights for i, line in enumerate(found) if line is not None and line.is_preset}
    same = [i for i in places if i in weights and _models_of(weights[i]) <= _models_of(narrow(vector))]
    if same:
        lines[same[-1]] = f"{name}:{vector}"
    else:
        place = places[-1] + 1 if places else len(lines)
        if place and not ends[place - 1].endswith("\n"):
            ends[place - 1] += "\n"
        lines.insert(place, f"{name}:{vector}")
        ends.insert(place, "\n")
    return "".join(line + end for line, end in zip(lines, ends, strict=True))


def _models_of(weights: str) -> set[object]:
    """What tells which models a preset's line is for: its length, or those that have the blocks that it names."""
    if not is_named(weights):
        return {len(split_vector(weights))}
    with contextlib.suppress(ValueError):
        return {*named_weights.check(weights)}
    return {weights}


def read(path: Path, default: str) -> str:
    """The text of a preset file, or ``default`` if it is absent, with ``\\n`` behind its lines.

    It is read as what it was written in, which is logged once if that is not UTF-8.

    Raises:
        OSError: it is there, and cannot be read, or is larger than one can be.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        return default
    decoded = decode(content)
    if not decoded.is_utf8:
        _tell_once(path.name, decoded.encoding, content)
    return decoded.text


def read_if_possible(path: Path, default: str) -> str:
    """As :func:`read`; of a file that cannot be read, the default, and that is logged."""
    try:
        return read(path, default)
    except OSError as error:
        _tell_unreadable(path.name, error.strerror or type(error).__name__)
        return default


@lru_cache(maxsize=8)
def _tell_unreadable(name: str, reason: str) -> None:
    """Once for each reason: the files are read for each image, and for each look of a page."""
    logger.warning(
        "LoRA Block Weight: %s cannot be read (%s); what the extension comes with is used in its place", name, reason
    )


@lru_cache(maxsize=8)
def _tell_once(name: str, encoding: str, _content: bytes) -> None:
    logger.warning(
        "LoRA Block Weight: %s: expected UTF-8; it is read as %s; saving makes it UTF-8, and keeps it beside as it was",
        name, encoding,
    )


def encoding_of(path: Path) -> str | None:
    """What a preset file is read as, if it is there and not UTF-8."""
    content = read_bytes(path, MOST_BYTES) if path.exists() else b""
    return None if decode(content).is_utf8 else decode(content).encoding


def read_or_create(path: Path, default: str, earlier_default: str | None = None) -> str:
    """The text of a preset file, which is made with ``default`` if it is absent, and if nobody has changed it since it
    was made with an earlier default."""
    with changing:
        is_unchanged = earlier_default is not None and read(path, "").strip() == earlier_default.strip()
        if not path.exists() or is_unchanged:
            write_atomically(path, default)
    return read(path, default)


def write_atomically(path: Path, text: str, line_end: str = "\n") -> None:
    """Replace a file by a complete new one: a reader, or a crash, sees the old text or the new one, never a part. A
    link stays one."""
    path = Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline=line_end) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
