"""Infotexts: what shaped an image and is not in its prompt, written so that reading it back makes the image again.

Names that a prompt only refers to come with what they meant: presets and rule sets in the form of their files, random
values as the numbers they came out as. Every text has a colon or a comma in it, so that the host quotes it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from lbw import __version__
from lbw.plan.plan import Pass, Plan
from lbw.request.arguments import MODES, PLOT_ARGUMENTS, Arguments
from lbw.tags.families import Family
from lbw.tags.library import Drawn, Library
from lbw.tags.presets import parse_presets, parse_rule_sets
from lbw.tags.prompt import LoraRequest
from lbw.tags.schedule import Schedule
from lbw.tags.weights import has_random_value, shown

DEFAULT_PRESET = "LBW default preset"
PRESETS = "LBW presets"
RULE_SETS = "LBW rule sets"
VALUES = "LBW values"
STEPS = "LBW steps"
STRENGTHS = "LBW strengths"
SIGMAS = "LBW sigmas"
PLOT = "LBW plot"
VERSION = "LBW version"

_HIRES_VALUES = "hires:"
"""Marks values that are of the hires pass alone; those of earlier versions are of all passes."""


def describe(passes: Sequence[Pass], library: Library) -> dict[str, str]:
    """{infotext key: text} of one image; empty where the host alone would have made it.

    Args:
        passes: each sampling pass.
        library: what the generation brought besides its tags.
    """
    pairs = [(each, request) for each in passes for request in each.plan.requests]
    families = dict.fromkeys(each.plan.family for each in passes)
    if all(each.plan.is_plain for each in passes):
        return {}
    has_default = any(request.weights == library.default_preset for _, request in pairs)
    texts = {
        DEFAULT_PRESET: _default_preset(library, families) if has_default else "",
        PRESETS: _presets({name for _, request in pairs for name in _names(request, library)}, library, families),
        RULE_SETS: "\n\n".join(f"{name}:{library.rule_sets[name]}" for name in sorted(_rule_sets(passes, library))),
        VALUES: "\n".join(_values(passes)),
        STEPS: "; ".join(dict.fromkeys(
            f"{_escaped(request.name)}: {_mark(each)}{steps_on(request.schedule, each)} of {each.steps}"
            for each, request in pairs
            if request.schedule.without_curves().depends_on_pass or request.schedule.presence is not None
        )),
        STRENGTHS: "; ".join(dict.fromkeys(
            f"{_escaped(request.name)}: {_mark(each)}{strengths_of(request, each)}"
            for each, request in pairs if request.has_curve
        )),
        SIGMAS: ", ".join(dict.fromkeys(
            _mark(each) + " ".join(f"{sigma:.6g}" for sigma in each.sigmas)
            for each in passes if each.plan.depends_on_noise
        )),
    }
    return {key: text for key, text in texts.items() if text} | {VERSION: __version__}


def _names(request: LoraRequest, library: Library) -> list[str]:
    """The presets that a tag names, and those that begin them; but the default preset, which has a key of its own."""
    names = [] if request.weights is None else library.names(request.weights)
    is_default = request.weights == library.default_preset
    return names[1:] if is_default and library.default_preset in library.presets else names


def _default_preset(library: Library, families: Iterable[Family]) -> str:
    name = (library.default_preset or "").strip()
    return (name in library.presets and _lines(name, library, families)) or name


def _presets(names: Iterable[str], library: Library, families: Iterable[Family]) -> str:
    lines = [_lines(name, library, families) for name in sorted(names) if name in library.presets]
    return "\n".join(filter(None, lines))


def _lines(name: str, library: Library, families: Iterable[Family]) -> str:
    """The lines of a preset that counted, as its file has them."""
    texts = dict.fromkeys(library.line(name, family) for family in families)
    return "\n".join(f"{name}:{text}" for text in texts if text is not None)


def _rule_sets(passes: Iterable[Pass], library: Library) -> set[str]:
    """The names of those that counted; rules may also stand in a tag itself."""
    used = (
        library.rule_set_name(request.elements)
        for each in passes
        for request, rules in zip(each.plan.requests, each.plan.rules, strict=True)
        if request.elements is not None and rules
    )
    return {name for name in used if name in library.rule_sets}


def _mark(made: Pass) -> str:
    """What stands before that which is said of the hires pass."""
    return "hires " if made.is_hires else ""


def _values(passes: Iterable[Pass]) -> Iterator[str]:
    """A line for each vector that had random values. Those of a network in the hires pass are marked, if they are not
    those of its first one."""
    first: dict[str, dict[str, None]] = {}
    hires: dict[str, dict[str, None]] = {}
    for each in passes:
        for name, values in _drawn(each.plan):
            (hires if each.is_hires else first).setdefault(name, {})[values] = None
    yield from (f"{_escaped(name)}:{values}" for name, lines in first.items() for values in lines)
    for name, lines in hires.items():
        if [*lines] != [*first.get(name, ())]:
            yield from (f"{_escaped(name)}:{_HIRES_VALUES}{values}" for values in lines)


def _drawn(plan: Plan) -> Iterator[tuple[str, str]]:
    """(name of its network, what it came out as) of each vector that had random values."""
    for request, weights in zip(plan.requests, plan.weights, strict=True):
        for drawn in weights:
            if has_random_value([*drawn.vector.values.values()]):
                yield request.name, ",".join(map(shown, drawn.values))


def steps_on(schedule: Schedule, made: Pass) -> str:
    """The steps in which the windows of a schedule let a LoRA work, as ``2-5``."""
    strengths = made.strengths(schedule.without_curves())
    on = [step for step, strength in enumerate(strengths) if strength != 0]
    starts = [step for step in on if step - 1 not in on]
    stops = [step for step in on if step + 1 not in on]
    return " ".join(f"{start}-{stop}" for start, stop in zip(starts, stops, strict=True)) or "none"


def strengths_of(request: LoraRequest, made: Pass) -> str:
    """The text encoder's strength, and the U-Net's in each step: ``te 0, unet 0 0.5 1x3``."""
    te = request.te_strength(made.steps, made.sigmas)
    return f"te {te:.4g}, unet {course(made.unet_strengths(request))}"


def course(strengths: Iterable[float]) -> str:
    """Strengths step by step; ``1x3`` for three steps with 1."""
    runs = [(text, len(list(run))) for text, run in groupby(f"{strength:.4g}" for strength in strengths)]
    return " ".join(text if length == 1 else f"{text}x{length}" for text, length in runs)


def _escaped(name: str) -> str:
    """A network's name; as JSON if a line end or a quote in it could be mistaken for the text's own."""
    return json.dumps(name, ensure_ascii=False) if re.search(r'["\r\n]', name) else name


def _split_line(line: str) -> tuple[str, str]:
    """The name and the text of a line ``name:text``."""
    if line.startswith('"'):
        with contextlib.suppress(ValueError):
            name, end = json.JSONDecoder().raw_decode(line)
            return name, line[end:].removeprefix(":")
    name, _, text = line.partition(":")
    return name, text


def pasted_default_preset(parameters: Mapping[str, Any]) -> str:
    """The default preset that an infotext names; "" for none."""
    return str(parameters.get(DEFAULT_PRESET, "")).partition(":")[0]


def pasted_active(parameters: Mapping[str, Any]) -> bool | None:
    """True where the image was made by the extension; None where the infotext does not say."""
    return True if VERSION in parameters else None


def plot(arguments: Arguments) -> str:
    """What a plot was asked for, which :func:`pasted_plot` reads."""
    asked = {name: getattr(arguments, name) for name in PLOT_ARGUMENTS[arguments.mode]}
    return json.dumps({**asked, "mode": MODES[arguments.mode]}, ensure_ascii=False)


def pasted_plot(argument: str) -> Callable[[Mapping[str, Any]], Any]:
    """Reads one argument of the plot that an image is the grid of. An image of another kind asks for no plot."""

    def read(parameters: Mapping[str, Any]) -> Any:
        try:
            asked = json.loads(str(parameters.get(PLOT, "{}")))
            found = asked.get(argument)
        except (ValueError, AttributeError, RecursionError):
            found = None
        return found if found is not None or argument != "mode" else MODES[0]

    return read


def pasted(parameters: Mapping[str, Any]) -> str:
    """The argument ``pasted`` for an infotext's parameters, which :func:`recall` reads; "" where they hold nothing."""
    default = str(parameters.get(DEFAULT_PRESET, ""))
    presets = [str(parameters.get(PRESETS, "")), default if ":" in default else ""]
    found = {
        "presets": "\n".join(text for text in presets if text),
        "rule_sets": str(parameters.get(RULE_SETS, "")),
        "values": str(parameters.get(VALUES, "")),
        "seed": str(parameters.get("Seed", "")) if VALUES in parameters else "",
    }
    found = {key: text for key, text in found.items() if text}
    return json.dumps(found, ensure_ascii=False) if found else ""


def _with_recalled(
    presets: Mapping[str, tuple[str, ...]], recalled: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Those of an image count before one's own, also where these are called alike but for the case."""
    names = {name.lower() for name in recalled}
    return {**{name: lines for name, lines in presets.items() if name.lower() not in names}, **recalled}


def recall(text: str, library: Library) -> Library:
    """``library`` with what an infotext brought, which goes before presets and rule sets of the same names.

    Raises:
        ValueError: the text is not of the form that :func:`pasted` makes.
    """
    if not text:
        return library
    try:
        found = json.loads(text)
        parts = {key: found.get(key, "") for key in ("presets", "rule_sets", "values", "seed")}
        if not all(isinstance(part, str) for part in parts.values()):
            raise ValueError
        vectors: dict[str, tuple[str, ...]] = {}
        hires: dict[str, tuple[str, ...]] = {}
        for name, vector in map(_split_line, filter(None, parts["values"].split("\n"))):
            of_pass = hires if vector.startswith(_HIRES_VALUES) else vectors
            of_pass[name] = (*of_pass.get(name, ()), vector.removeprefix(_HIRES_VALUES))
        drawn = Drawn(int(parts["seed"]), vectors, hires) if vectors or hires else None
    except (ValueError, AttributeError, RecursionError):
        raise ValueError("not what reading an image's parameters brings; it is left out") from None
    return replace(
        library,
        presets=_with_recalled(library.presets, parse_presets(parts["presets"])[0]),
        rule_sets={**library.rule_sets, **parse_rule_sets(parts["rule_sets"])[0]},
        drawn=drawn,
    )


_TAG_NAME = re.compile(r"<(?:lora|lyco):([^:>]+)")


def follow_renames(infotext: str, parameters: dict[str, Any]) -> None:
    """Give drawn values the names that the host, which knows a network by its hash, has put into the pasted prompt."""
    if VALUES not in parameters:
        return
    new = _TAG_NAME.findall(str(parameters.get("Prompt", "")))
    names = dict(zip(_TAG_NAME.findall(infotext), new, strict=False))
    lines = map(_split_line, str(parameters[VALUES]).split("\n"))
    parameters[VALUES] = "\n".join(f"{_escaped(names.get(name, name))}:{vector}" for name, vector in lines)
