"""Slips in a tag's arguments: what was plainly meant is read as that, and told. This is the place that decides.

A key is read in any case, with blanks around it, and by the names that other tools have for it. Full-width signs, which
Japanese and Chinese keyboards make, mean what the others mean.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import lru_cache

from lbw.tags.blocks import families_with, split_words
from lbw.tags.limits import number, shortened
from lbw.tags.positions import split_range

Warn = Callable[[str], None]

WEIGHTS_KEYS = ("lbw", "w", "hrlbw")
"""Arguments whose value may have ``=`` in it: block weights by name."""

KEYS = (
    *WEIGHTS_KEYS, "te", "unet", "lbwe", "x", "start", "stop", "step", "curve", "dyn", "in", "mid", "out",
    "hr", "hrte", "hrunet", "hrstart", "hrstop", "hrstep", "strength",
)  # fmt: skip
"""What an argument may be called. ``strength`` is that of text encoder and U-Net, which mostly has no key."""

_SYNONYMS = {
    "end": "stop", "to": "stop", "until": "stop", "stopstep": "stop", "endstep": "stop", "stepend": "stop",
    "begin": "start", "from": "start", "startstep": "start", "stepstart": "start", "beginstep": "start",
    "steps": "step", "range": "step", "weight": "strength", "multiplier": "strength", "str": "strength",
    "preset": "lbw", "weights": "lbw", "blocks": "lbw", "blockweights": "lbw", "elements": "lbwe",
    "textencoder": "te", "clip": "te", "model": "unet",
}  # fmt: skip

_WIDE = str.maketrans(
    {chr(0xFF01 + i): chr(ord("!") + i) for i in range(94)} | {"\u3000": " ", "\u3001": ",", "\uff64": ","}
)
"""Full-width signs, the blank and the ideographic comma, which has a narrow form -> what they mean."""

_KEY_BEHIND_WRONG_SIGN = re.compile(
    r"(?:\s{0,3}[,;|]\s{0,3}|\s)"
    rf"(?=({'|'.join(key for key in (*KEYS, *_SYNONYMS) if not families_with(key.upper()))})\s{{0,3}}=)",
    re.IGNORECASE,
)
"""A key where the argument before it should have ended with a colon. Blocks by name are no keys."""

_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,2},\d{1,20}")
_LAST_FIELD = re.compile(r"\s*[+-]?[\d.]+\s*(,.*)?")


def narrow(text: str) -> str:
    """``text`` with the signs of an ordinary keyboard."""
    return text.translate(_WIDE)


def key_of(text: str) -> str | None:
    """The key that a text means; None if it is none."""
    key = re.sub("[ _-]", "", text.lower())
    return key if key in KEYS else _SYNONYMS.get(key)


def split_arguments(items: Sequence[str], warn: Warn = lambda _message: None) -> tuple[list[str], dict[str, str]]:
    """Positional and named arguments of a tag, whose items stood between colons.

    An item with exactly one ``=`` is named, as on the host, unless it is block weights by name.

    Args:
        warn: gets one message for each slip, and for each key that there is not.
    """
    items = [part for item in items for part in narrow(item).split(":")]
    items = _with_rules_joined(items, warn)
    items = [part for item in items for part in _split_at_keys(item, warn)]
    items = _with_numbers_joined([item for item in items if item.strip()], warn)
    positional: list[str] = []
    named: dict[str, str] = {}
    unknown = 0
    for item in items:
        text, equals, value = item.partition("=")
        key = key_of(text) if equals else None
        if equals and text.strip() and not value.strip():
            warn(f"{shortened(item.strip())}: expected a value behind the sign; it is left out")
            continue
        if key in WEIGHTS_KEYS:
            pass
        elif key is not None and item.count("=") == 1 and not _begins_named_weights(text):
            value = _without_decimal_comma(value.strip(), warn)
            value = _with_hyphen(value) if key in ("step", "hrstep") else value
        elif equals and item.count("=") == 1 and not _begins_named_weights(text):
            unknown += 1
            _tell_unknown_key(text, item, warn, is_compared=unknown <= _MOST_COMPARED)
            continue
        elif split_range(_with_hyphen(item)) not in (None, (None, None)) and re.match(r"\s*\d", item):
            key, value = "step", _with_hyphen(item).strip()
        else:
            positional.append(_without_decimal_comma(item, warn))
            continue
        if key in named and named[key] != value:
            warn(f"{key}={shortened(named[key])}: the tag also has {key}={shortened(value)}, which is used")
        named[key] = value
    strength = named.pop("strength", None)
    if strength is not None:
        numbers = [item for item in positional if _is_position(item)]
        for item in numbers:
            if item.strip() not in ("1", strength):
                warn(f"{shortened(item)}: the tag also has a strength with a key, {shortened(strength)}, which is used")
        positional = [strength, *(item for item in positional if item not in numbers)]
    return positional, named


def _begins_named_weights(key: str) -> bool:
    """Whether what stands before the first ``=`` of an item without a key is blocks."""
    return "," in key or (key != key.lower() and bool(families_with(re.split("[- ]", key)[-1])))


def _split_at_keys(item: str, warn: Warn) -> list[str]:
    """``lbw=OUTD,stop=5`` -> two items."""
    item = item.strip()
    parts, end = [], 0
    for match in _KEY_BEHIND_WRONG_SIGN.finditer(item):
        parts.append(item[end : match.start()])
        end = match.end()
        sign = {",": "comma", ";": "semicolon", "|": "bar"}.get(match[0].strip(), "blank")
        warn(f"{shortened(item)}: a {sign} before {match[1]}=; expected a colon, as which it is read")
    return [*parts, item[end:]]


def _with_numbers_joined(items: Sequence[str], warn: Warn) -> list[str]:
    """``stop:5`` -> ``stop=5``. A key of one letter may be a preset's name."""
    joined: list[str] = []
    for item in items:
        before = joined[-1] if joined else ""
        key = key_of(before) if len(before.strip()) > 1 and "=" not in before else None
        if key is None or "=" in item or (key not in WEIGHTS_KEYS and not _is_position(item)):
            joined.append(item)
            continue
        joined[-1] = f"{key}={item.strip()}"
        warn(f"{shortened(before.strip())}:{shortened(item.strip())}: expected {shortened(joined[-1])}, as which it is "
             "read")
    return joined


def _is_position(text: str) -> bool:
    return re.match(r"\s*[+-]?[\d.]", text) is not None


def _with_rules_joined(items: Sequence[str], warn: Warn) -> list[str]:
    """``lbwe=IN05-OUT05:attn:0`` -> one item: rules have colons, too."""
    joined: list[str] = []
    rest = deque(items)
    while rest:
        item = rest.popleft()
        text, equals, blocks = item.partition("=")
        if equals and key_of(text) == "lbwe" and _are_blocks(blocks):
            while len(rest) > 1 and (match := _LAST_FIELD.fullmatch(rest[1])):
                item += f":{rest.popleft()}:{rest.popleft()}"
                if not match[1]:
                    break
        joined.append(item)
    return joined


def _are_blocks(text: str) -> bool:
    words, _is_inverted = split_words(text)
    return all(map(families_with, words))


_DASHES = str.maketrans(dict.fromkeys("\u30fc\u301c\uff5e\u2013\u2014\u2212~", "-"))
"""What keyboards make of a hyphen between two numbers."""


def _with_hyphen(text: str) -> str:
    return text.translate(_DASHES)


def _without_decimal_comma(text: str, warn: Warn) -> str:
    if not _DECIMAL_COMMA.fullmatch(text.strip()):
        return text
    value = text.strip().replace(",", ".")
    warn(f"{text.strip()}: a decimal comma; expected a point; {number(value):g} is used")
    return value


_MOST_COMPARED, _LONGEST_COMPARED = 5, 40
"""How many keys of a tag, and of how many characters, are compared with those that there are, which takes long."""


@lru_cache(maxsize=1000)
def _nearest_key(text: str) -> str | None:
    nearest = get_close_matches(text, [*KEYS, *_SYNONYMS], n=1, cutoff=0.5)
    return key_of(nearest[0]) if nearest else None


def _tell_unknown_key(text: str, item: str, warn: Warn, *, is_compared: bool) -> None:
    key = re.sub("[ _-]", "", text.strip().lower())
    nearest = _nearest_key(key) if is_compared and len(key) <= _LONGEST_COMPARED else None
    known = f"the nearest is {nearest}=" if nearest else f"expected one of {', '.join(KEYS)}"
    warn(f"{shortened(item.strip())}: there is no key {shortened(text.strip())!r}; {known}; it is left out")
