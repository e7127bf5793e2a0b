"""What a hand has played on a tag's strength while an image was made, as the tag that repeats it.

A course is the tag's strength in the U-Net in each step of a pass, block weights apart: the last one holds from there
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lbw.tags.curves import Curve, is_curve, parse_curve
from lbw.tags.limits import MOST_KEYFRAMES, number
from lbw.tags.positions import Position
from lbw.tags.prompt import LoraRequest, is_strength, parse
from lbw.tags.schedule import Schedule
from lbw.tags.slips import WEIGHTS_KEYS, split_arguments

Course = Sequence[float]

_WINDOW = ("start", "stop", "step")
_WHOLE_PASS = "0-100%"


def _keyframes(course: Course) -> list[tuple[float, int]]:
    """(strength, step) of a curve that has the strengths of a course, whatever its shape: one at the first step of each
    strength, and one at the last."""
    firsts = [step for step in range(len(course)) if step == 0 or course[step] != course[step - 1]]
    steps = sorted({*firsts, *(step - 1 for step in firsts[1:])})
    if len(firsts) > 1 and steps[-1] == 1:
        steps.append(2)  # a curve that goes no further than 1 would have shares of the pass
    return [(course[min(step, len(course) - 1)], step) for step in steps]


def played(request: LoraRequest, course: Course) -> LoraRequest:
    """The request of a tag with a course in place of its own strength in the U-Net, start and stop."""
    keyframes = _keyframes(course)
    curves: tuple[Curve, ...] = ()
    if len(keyframes) > 1:
        values, steps = zip(*keyframes, strict=True)
        curves = (Curve(values, tuple(Position(float(step)) for step in steps), request.shape),)
    return replace(
        request,
        unet_multiplier=1.0 if curves else course[0],
        schedule=Schedule(curves=curves, presence=request.schedule.presence),
        is_played=True,
    )


def _shown(value: float) -> str:
    """The shortest text that is read as exactly this number."""
    short = f"{value:g}"
    return short if repr(float(short)) == repr(value) else repr(value)


def _curve(course: Course) -> str:
    """
    Raises:
        ValueError: it has more changes than a curve may have keyframes.
    """
    keyframes = _keyframes(course)
    if len(keyframes) > MOST_KEYFRAMES:
        raise ValueError(f"it was moved too often: {len(keyframes)} keyframes; expected at most {MOST_KEYFRAMES}")
    if len(keyframes) == 1:
        return _shown(course[0])
    return ",".join(f"{_shown(value)}@{step}" for value, step in keyframes)


def _is_valid(text: str) -> bool:
    try:
        parse_curve(text) if is_curve(text) else number(text)
    except ValueError:
        return False
    return True


def played_tag(written: str, first: Course | None, hires: Course | None = None) -> str:
    """The tag that says what was played.

    Args:
        written: the whole tag as it stands in the prompt, ``<lora:name:...>``.
        first: the course of the first pass; None where the tag was in force as it is written.
        hires: that of the hires pass; None if there was none, or as for ``first``.

    Raises:
        ValueError: there is no room in a tag for so many changes.
    """
    kind, name, *items = written[1:-1].split(":")
    positional, named = split_arguments(items)
    strengths = [item for item in positional if is_strength(item)]
    request = parse([name, *items], lambda _message: None)

    def first_valid(texts: Sequence[str | None], default: str) -> str:
        return next((text for text in texts if text is not None and _is_valid(text)), default)

    te = first_valid([named.get("te"), *strengths[:1]], "1")
    unet = first_valid([named.get("unet"), *strengths[1:2]], te)
    if request.dyn_dim is not None:
        named["dyn"] = str(request.dyn_dim)
    else:
        named.pop("dyn", None)
    both = named.get("hr")
    hrte = first_valid([named.get("hrte"), both], "")
    kept = {key: value for key, value in named.items() if key not in ("te", "unet")}
    has_window = any(key in named for key in _WINDOW)
    if first is not None:
        unet = _curve(first)
        kept = {key: value for key, value in kept.items() if key not in _WINDOW}
    said = {"te": te, "unet": unet}
    if hires is not None:
        gone = ("hr", "hrte", "hrunet", *(f"hr{key}" for key in _WINDOW))
        kept = {key: value for key, value in kept.items() if key not in gone}
        said |= ({"hrte": hrte} if hrte else {}) | {"hrunet": _curve(hires)}
        if first is None and has_window:
            said["hrstep"] = _WHOLE_PASS
    words = [item for item in positional if not is_strength(item)]
    as_written = [te, hrte, *([unet] if first is None else []), *(kept[key] for key in ("hr", "hrunet") if key in kept)]
    if not (words or kept.keys() & set(WEIGHTS_KEYS) or any(map(is_curve, as_written))):
        kept.pop("curve", None)  # of what is played, each step is said
    arguments = [*(f"{key}={value}" for key, value in said.items()), *words]
    return f"<{':'.join([kind, name, *arguments, *(f'{key}={value}' for key, value in kept.items())])}>"
