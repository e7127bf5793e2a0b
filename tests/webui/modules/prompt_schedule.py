"""Prompts that change while sampling: `[a:b:N]` puts b in the place of a after step N, `[a|b]` alternates.

A small recursive descent parser. A bracket that is none of these stays in the text, as emphasis or as what it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")


@dataclass
class _Switch:
    """`[before:after:N]`."""

    before: list
    after: list
    when: str
    step: int = 0


@dataclass
class _Alternate:
    """`[a|b|...]`."""

    options: list[list] = field(default_factory=list)


class _Parser:
    """Turns text into a list of strings, `_Switch` and `_Alternate`."""

    def __init__(self, text: str):
        self.text = text
        self.at = 0
        self.plain: set[int] = set()  # brackets known to open nothing: not tried again, or nesting would be exponential

    def parse(self) -> list:
        parts: list = []
        while self.at < len(self.text):
            parts += self._sequence(stop="")
            if self.at < len(self.text):
                parts.append(self._take())
        return parts

    def _take(self) -> str:
        self.at += 1
        return self.text[self.at - 1]

    def _sequence(self, stop: str) -> list:
        """Everything up to one of the `stop` characters, which is not consumed."""
        parts: list = []
        while self.at < len(self.text) and self.text[self.at] not in stop:
            char = self.text[self.at]
            if char == "\\":
                parts.append(self.text[self.at : self.at + 2])
                self.at += 2
            elif char == "[":
                parts += self._bracket()
            elif char == "(":
                parts += self._group()
            else:
                parts.append(self._take())
        return parts

    def _plain(self, start: int) -> list:
        """Go back to a bracket that opens nothing, and take it as a character."""
        self.plain.add(start)
        self.at = start
        return [self._take()]

    def _group(self) -> list:
        """`( ... )`: colons and bars inside belong to it, so that `[(a:2):3]` has one colon of its own."""
        start = self.at
        if start in self.plain:
            return [self._take()]
        opening = self._take()
        inner = self._sequence(stop=")]")
        if self.at < len(self.text) and self.text[self.at] == ")":
            return [opening, *inner, self._take()]
        return self._plain(start)

    def _bracket(self) -> list:
        """A switch, an alternation, or a bracketed text."""
        start = self.at
        if start in self.plain:
            return [self._take()]
        opening = self._take()
        fields, separators = [self._field()], ""
        while self.at < len(self.text) and self.text[self.at] in ":|":
            separators += self._take()
            fields.append(self._field())
        if self.at == len(self.text):
            return self._plain(start)
        closing = self._take()
        if not separators:
            return [opening, *fields[0][0], closing]
        if set(separators) == {"|"}:
            return [_Alternate([parts for parts, _ in fields])]
        if separators in (":", "::") and _NUMBER.match(fields[-1][1]):
            before = fields[0][0] if len(fields) == 3 else []
            return [_Switch(before, fields[-2][0], fields[-1][1].strip())]
        return self._plain(start)

    def _field(self) -> tuple[list, str]:
        start = self.at
        parts = self._sequence(stop=":|]")
        return parts, self.text[start : self.at]


def _walk(parts: list, visit: Callable) -> None:
    for part in parts:
        if isinstance(part, _Switch):
            visit(part)
            _walk(part.before, visit)
            _walk(part.after, visit)
        elif isinstance(part, _Alternate):
            visit(part)
            for option in part.options:
                _walk(option, visit)


def _text_at(parts: list, step: int) -> str:
    """The prompt in force in a step, steps counting from 1."""
    text = ""
    for part in parts:
        if isinstance(part, _Switch):
            text += _text_at(part.before if step <= part.step else part.after, step)
        elif isinstance(part, _Alternate):
            text += _text_at(part.options[(step - 1) % len(part.options)], step)
        else:
            text += part
    return text


def _step_of(when: str, base_steps: int, hires_steps: int | None, old: bool) -> int:
    """The last step before a switch. In the hires pass counting goes on: N beyond the first pass, fractions above 1."""
    hires = hires_steps is not None and not old
    steps = hires_steps if hires else base_steps
    value = float(when)
    if old:
        value = value * steps if value < 1 else value
    elif "." in when:
        value = (value - (1.0 if hires else 0.0)) * steps
    else:
        value -= base_steps if hires else 0
    return min(steps, int(value))


def schedule(prompt: str, base_steps: int, hires_steps: int | None = None, old: bool = False) -> list[list]:
    """`[[last step, text], ...]` of one prompt, e.g. ("a [b:3]", 10) -> [[3, "a "], [10, "a b"]]."""
    steps = base_steps if hires_steps is None or old else hires_steps
    parts = _Parser(prompt).parse()
    ends = {steps}

    def collect(part) -> None:
        if isinstance(part, _Switch):
            part.step = _step_of(part.when, base_steps, hires_steps, old)
            ends.update({part.step} if part.step >= 1 else ())
        else:
            ends.update(range(1, steps + 1))

    _walk(parts, collect)
    return [[end, _text_at(parts, end)] for end in sorted(ends)]
