"""Hostile texts and values, from a grammar of what our readers know and from what has been seen to lead anywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from random import Random
from types import FrameType
from typing import Any

NUMBERS = (
    "0", "1", "-1", "0.5", "-0.7", "1e6", "1e999", "-1e999", "nan", "-nan", "inf", "1e-400", "0x10", "1_000", "+1",
    ".5", "5.", ".", "-", "+", "", " ", "٣", "\uff11", "\U0001d7d9", "½", "²", "1e", "1e+", "--1", "1..2", "0,5",
    "9" * 50, "1" * 400,
    "1000000", "1000001", "0.0000000001", "1" + "0" * 39, "null", "True", "1\u2009000", "\u221210",
)  # fmt: skip
UNITS = ("", "", "%", "sigma", " sigma", "Sigma", "steps", "%%", "\u03c3", "e9")
SHAPES = ("linear", "step", "cosine", "Linear", "cubic", "")
NAMES = (
    "demo", "other", "", " ", "../demo", "/etc/passwd", "a" * 300, "猫", "\ud800", "\x00", "CON", "{}", "%s", "{0}",
    "demo.safetensors", "DEMO", "'", '"', "\\", "<", "a\nb", "\u202e", "1",
)  # fmt: skip
WEIGHTS = (
    "OUTD", "OUTALL", "NONE", "ALL", "outd", "XYZ", "ZYX", "NOPE", "R", "U", "X", "X+0.2", "X-1e9", "LOOP", "A0",
    "BAD", ",".join(["1"] * 17), ",".join(["R"] * 17), ",".join(["0.5"] * 12), ",".join(["X"] * 20),
    ",".join(["1"] * 61), "1,0", "NONE,OUT03-OUT06=1", "NONE,BASE FIRST=1,M00=R", "ALL,NOT BASE=0.5", "IN05-IN01=1",
    "0.5,M00=2", "NONE@0,OUTD@0.5,ALL@1", "0@0,1@100%", "OUTD,M00", "=", ",", ",,,", "NOT", "NOT NOT", "-", "IN-OUT=1",
    "LOOP,M00=1", "IN00-=1",
)  # fmt: skip
RULES = (
    "OFF", "off", "NOPE", "XYZ", "IN05-OUT05:attn:0", "::1", "NOT BASE:NOT attn1:0.5", ":::", "a:b:c", "M00:attn:nan",
    "IN05-OUT05:attn:0,M00::1", "OUT05-IN05:attn:1", ":" + "attn " * 200 + ":1",
)  # fmt: skip
POSITIONAL = ("1", "0.5", "0.5:0.8", "1:1:4", "OUTD", "1:OUTD", "0@0,1@1", "1@0;0@10", "0~0,1~50%", "", "::", "5-10")
KEYS = (
    "lbw", "w", "te", "unet", "lbwe", "x", "start", "stop", "step", "curve", "dyn", "in", "mid", "out", "hr", "hrte",
    "hrunet", "hrlbw", "hrstart", "hrstop", "hrstep", "strength", "LBW", "Stop", "end", "\uff4c\uff42\uff57", "stpo",
    "weight", "l b w",
    "", " ", "=", "te te",
)  # fmt: skip
SEPARATORS = (":", ":", ":", ":", "\uff1a", ",", ";", "|", " ", "::", " : ", "")
EQUALS = ("=", "=", "=", "=", "\uff1d", " = ", "==", ":", "")
WORDS = (
    "[", "]", "(", ")", "|", ":", "AND", "BREAK", "\\(", "\\", "[|", ":0.5]", ":5]", "::5]", ":1.2)", "a cat", "\n",
    ",",
    "<", ">", "<lora:", "<lyco:x:1>", "<hypernet:a:1>", "\ue000", "\ue0000\ue001", "\uf8ff", "\ud83d", "\x00", "#",
    "{", "}",
)  # fmt: skip


class Tags:
    """Prompts with LoRA tags: from the grammar, or a mutation of one that has led somewhere new.

    Args:
        choice: of all that is left to chance.
    """

    def __init__(self, choice: Random) -> None:
        self.choice = choice
        self.corpus: list[str] = [
            "a cat <lora:demo:1:lbw=OUTD:stop=5>", "<lora:demo:0.5:0.8:lbw=R,1,0:lbwe=OFF:start=20%>",
            "[<lora:demo:1>:<lora:other:1>:0.5]", "<lora:demo:0@0,1@0.5,0@1:curve=cosine>", "<lora:demo:te=0:hr=0.5>",
        ]  # fmt: skip

    def _one(self, among: Sequence[str]) -> str:
        return self.choice.choice(among)

    def _position(self) -> str:
        return self._one(NUMBERS) + self._one(UNITS)

    def _curve(self) -> str:
        count = self.choice.choice((1, 5, 150, 151)) if self.choice.random() < 0.05 else self.choice.randint(1, 4)
        at, sign = self._one("@@@~"), self._one(",,,;")
        return sign.join(f"{self._one(NUMBERS)}{at}{self._position()}" for _ in range(count))

    def _value(self, key: str) -> str:
        chance = self.choice.random()
        if chance < 0.05:
            return self._one(WORDS) * self.choice.choice((1, 1, 1, 50))
        if key in ("lbw", "w", "hrlbw", "LBW", "\uff4c\uff42\uff57", "weight"):
            return self._one(WEIGHTS)
        if key == "lbwe":
            return self._one(RULES)
        if key == "curve":
            return self._one(SHAPES)
        if "step" in key:
            return f"{self._position()}-{self._position()}" if chance < 0.7 else self._position()
        if "st" in key or key == "end":
            return self._position()
        return self._curve() if chance < 0.4 else self._one(NUMBERS)

    def _argument(self) -> str:
        if self.choice.random() < 0.3:
            return self._one(POSITIONAL)
        key = self._one(KEYS)
        return f"{key}{self._one(EQUALS)}{self._value(key)}"

    def _tag(self) -> str:
        count = self.choice.randint(0, 6)
        parts = "".join(self._one(SEPARATORS) + self._argument() for _ in range(count))
        name = "demo" if self.choice.random() < 0.6 else self._one(NAMES)
        return f"<lora:{name}{parts}>"

    def _grown(self) -> str:
        """A prompt near the longest that has a bound on its time: one piece, over and over."""
        piece = self._one((
            *WORDS, *NUMBERS, *WEIGHTS, *RULES, "<lora:demo:1>", self._tag(), self._curve(), self._argument(),
            ":stop=5",
            ",stop=5", "=", ",", ":", "@", "0@0,", "R,", "IN05-OUT05 ", "x", " ", "\n", "9", "(", "[<lora:demo:1>:",
        ))  # fmt: skip
        text = (piece or ":") * (self.choice.choice((200, 2000, 9900)) // max(len(piece), 1) + 1)
        place = self._one((
            "{}", "<lora:demo:{}>", "<lora:demo:1:lbw={}>", "<lora:{}>", "<lora:demo:lbwe={}>", "<lora:demo:step={}>",
            "[{}:0.5]", "<lora:demo:{}@0>", "<lora:demo:1:{}=1>",
        ))  # fmt: skip
        return place.replace("{}", text)

    def _fresh(self) -> str:
        parts = []
        for _ in range(self.choice.choice((1, 1, 1, 2, 3))):
            tag = self._tag()
            edited = f"[{tag}{self._one(('', '|', ':'))}{self._tag()}:{self._position()}]"
            parts.append(tag if self.choice.random() < 0.8 else edited)
            if self.choice.random() < 0.2:
                parts.append(self._one(WORDS))
        return "".join(parts)

    def _mutated(self) -> str:
        text = self.choice.choice(self.corpus)
        for _ in range(self.choice.choice((1, 1, 2, 4))):
            text = self._edited(text)
        return text

    def _edited(self, text: str) -> str:
        start = self.choice.randint(0, len(text))
        end = min(len(text), start + self.choice.choice((0, 1, 1, 2, 5, 20)))
        kind = self.choice.randrange(6)
        if kind == 0:
            return text[:start] + text[end:]
        if kind == 1:
            return text[:start] + text[start:end] * self.choice.choice((2, 3, 30)) + text[end:]
        if kind == 2:
            other = self.choice.choice(self.corpus)
            return text[:start] + other[self.choice.randint(0, len(other)) :]
        if kind == 3:
            return text[:start] + chr(self.choice.randrange(self.choice.choice((128, 0x110000)))) + text[end:]
        if kind == 4:
            return text[:start] + self._one((*NUMBERS, *WORDS, *KEYS)) + text[end:]
        return text[:start] + self._argument() + text[end:]

    def next(self) -> str:
        chance = self.choice.random()
        text = self._grown() if chance < 0.02 else self._fresh() if chance < 0.5 else self._mutated()
        return text[:10_000]

    def keep(self, text: str) -> None:
        """Mutate this, too, from now on."""
        if len(text) <= 2000:
            self.corpus.append(text)


class Coverage:
    """Which lines of ours have been reached, and from which line before.

    Args:
        under: the folder whose files count.
    """

    def __init__(self, under: str) -> None:
        self._under = under
        self._seen: set[tuple[str, int, int]] = set()
        self._before = 0
        self._is_new = False

    def _call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._under):
            return None
        self._before = 0
        return self._line

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            way = frame.f_code.co_filename, self._before, frame.f_lineno
            self._before = frame.f_lineno
            if way not in self._seen:
                self._seen.add(way)
                self._is_new = True
        return self._line

    def is_new(self, act: Callable[[], Any]) -> bool:
        """Whether something goes a way that nothing has gone before."""
        self._is_new = False
        sys.settrace(self._call)
        try:
            act()
        finally:
            sys.settrace(None)
        return self._is_new

    @property
    def ways(self) -> int:
        return len(self._seen)


def json_value(choice: Random, depth: int = 0) -> Any:
    """Any value that JSON, as Python reads it, can hold."""
    kinds: tuple[Any, ...] = (
        None, True, False, 0, 1, -1, 2**63, 2**64, -(2**70), 10**400, 0.5, float("nan"), float("inf"), -float("inf"),
        "", "a", "\ud800", "\udfff\x00", "x" * 201, "x" * 501,
        "x" * (100_001 if depth == 0 else 50), "null", "1", "NaN", [], {}, "../../x",
    )  # fmt: skip
    if depth < 3 and choice.random() < 0.25:
        return [json_value(choice, depth + 1) for _ in range(choice.choice((0, 1, 2, 30 if depth == 0 else 3)))]
    if depth < 3 and choice.random() < 0.15:
        return {choice.choice(NAMES) or "k": json_value(choice, depth + 1) for _ in range(choice.randint(0, 4))}
    if choice.random() < 0.03:
        return deep(choice.choice((10, 100, 400, 900, 960, 985)))
    return choice.choice(kinds)


def deep(levels: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value
