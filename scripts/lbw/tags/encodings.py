"""What a text file is written in: UTF-8, or what editors of other times and places make of it.

UTF-8 and UTF-16 tell themselves; between Shift-JIS, GBK and Latin-1, which nearly any bytes can be, the one counts
whose characters are those that people write. (charset_normalizer, which the host has for other things, takes four of
six preset files with a word or two for Korean or Hong Kong's.)
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, lru_cache

from lbw.tags.limits import listed

UTF8 = "UTF-8"

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"), (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"), (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)  # fmt: skip
"""What files may begin with, the longer before the shorter."""

_THREE_BYTES = re.compile(rb"[\xe0-\xef][\x80-\xbf]{2}")
_ACCENTED = "[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff]"
_LATIN_LETTER = re.compile(
    rf"(?<=[A-Za-z]){_ACCENTED}|{_ACCENTED}(?=[A-Za-z])|(?<![^\x00-\x7f]){_ACCENTED}(?![^\x00-\x7f])"
)
"""A letter with an accent that stands at another letter, or alone."""


@dataclass(frozen=True)
class Decoded:
    """A file's text, whose lines end with ``\\n``; what it was written in, in words; what its lines ended with."""

    text: str
    encoding: str
    line_end: str

    @property
    def is_utf8(self) -> bool:
        return self.encoding == UTF8


@lru_cache(maxsize=4)
def decode(content: bytes) -> Decoded:
    """The text of a file, whatever it was written in; it is not read anew for each image."""
    text, encoding = _decode(content)
    ends = Counter(re.findall("\r\n|\r|\n", text))
    line_end = max(("\n", "\r\n", "\r"), key=lambda end: ends[end])
    return Decoded(text.replace("\r\n", "\n").replace("\r", "\n"), encoding, line_end)


def _decode(content: bytes) -> tuple[str, str]:
    for mark, marked, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(marked, errors="replace"), encoding
    codec = _unmarked_utf16(content)
    if codec is not None and (text := _strictly(content, codec)) is not None:
        return text, "UTF-16"
    content = content.removeprefix(codecs.BOM_UTF8)
    if (text := _strictly(content, "utf-8")) is not None:
        return text, UTF8
    return _by_lines(content)


def _strictly(content: bytes, codec: str) -> str | None:
    try:
        return content.decode(codec)
    except UnicodeDecodeError:
        return None


def _unmarked_utf16(content: bytes) -> str | None:
    """UTF-16 has a zero in nearly every character of a preset, its second byte or its first."""
    first, second = content[::2].count(0), content[1::2].count(0)
    if first == second or max(first, second) * 4 < len(content) // 2:
        return None
    return "utf-16-le" if second > first else "utf-16-be"


def _by_lines(content: bytes) -> tuple[str, str]:
    """Lines of UTF-8 stay what they are among others: some tools add theirs at the end of what an editor wrote."""
    lines = content.splitlines(keepends=True)
    others = b"".join(line for line in lines if _strictly(line, "utf-8") is None)
    readings = [
        (_likelihood(text, codec), codec) for codec in _NAMES if (text := _strictly(others, codec)) is not None
    ]
    codec = max(readings)[1] if readings else "latin-1"
    texts, kept = [], []
    for number, line in enumerate(lines, 1):
        # Two bytes of GBK may be a character of UTF-8 by chance; three, hardly.
        is_utf8 = bool(_THREE_BYTES.search(line)) or codec in ("cp1252", "latin-1")
        text = _strictly(line, "utf-8") if is_utf8 else None
        if text is not None and not text.isascii():
            kept.append(str(number))
        texts.append(line.decode(codec, errors="replace") if text is None else text)
    name = _NAMES.get(codec, "Latin-1")
    return "".join(texts), f"{name}, lines {listed(kept)} as {UTF8}" if kept else name


_NAMES = {"cp1252": "Latin-1", "gb18030": "GBK", "cp932": "Shift-JIS"}


def _likelihood(text: str, codec: str) -> int:
    """How much a text is like what people write."""
    foreign = [character for character in text if ord(character) > 0x7F]
    if codec == "cp1252":
        letters = len(_LATIN_LETTER.findall(text))
        return letters - (len(foreign) - letters)
    usual = _usual_characters(codec)
    score = 0
    for character, count in Counter(foreign).items():
        if character in usual or "\u3000" <= character <= "\u30ff" or "\uff01" <= character <= "\uff5e":
            score += 3 * count
        else:
            score -= 2 * count * _is_unusual(character, codec)
    return score


def _is_unusual(character: str, codec: str) -> bool:
    """Half-width katakana and private characters; of hanzi, those that GB2312 does not have."""
    if codec == "cp932":
        return "\uff61" <= character <= "\uff9f" or "\ue000" <= character <= "\uf8ff"
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return True
    return False


@cache
def _usual_characters(codec: str) -> Collection[str]:
    """The kanji or hanzi of the first level: those that nearly all texts are made of."""
    leads = range(0x88, 0x98) if codec == "cp932" else range(0xB0, 0xD8)
    trails = range(0x40, 0xFD) if codec == "cp932" else range(0xA1, 0xFF)
    pairs = b" ".join(bytes((lead, trail)) for lead in leads for trail in trails if trail != 0x7F)
    return frozenset(pairs.decode(codec, errors="ignore")) - {" "}
