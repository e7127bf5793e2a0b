"""Saving a preset file that others may have changed since it was loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from lbw.tags.encodings import decode
from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.ordinary_files import read_bytes
from lbw.tags.presets import MOST_BYTES, Parse, changing, read, write_atomically


class ChangedOnDiskError(Exception):
    """A preset file is not what it was when it was loaded. ``names`` are the entries that differ."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


def version_of(text: str) -> str:
    """What tells two states of a preset file apart."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def save(path: Path, default: str, text: str, loaded: str | None, parse: Parse) -> str:
    """Write a preset file, in UTF-8 and with the line ends that it has; returns its new version. The bytes of one that
    was written in something else are kept beside it.

    Args:
        loaded: the version that the text was made from; None writes over whatever is there.
        parse: reads the file's entries, to say which of them changed.

    Raises:
        ChangedOnDiskError: the file has another version than ``loaded``; nothing was written.
        ValueError: the text is too long, or cannot be stored; nothing was written.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"the text has {len(text)} characters; expected {LONGEST_TEXT} at most")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start + 1} is half of a character and cannot be stored") from None
    if "\0" in text:
        raise ValueError(f"character {text.index(chr(0)) + 1} is a zero, which no text has")
    version = version_of(text)
    with changing:
        on_disk = read(path, default)
        if loaded is not None and version_of(on_disk) != loaded and on_disk != text:
            raise ChangedOnDiskError(_differing(parse(on_disk)[0], parse(text)[0]))
        before = read_bytes(path, MOST_BYTES) if path.exists() else b""
        if not decode(before).is_utf8:
            _keep(path, before)
        write_atomically(path, text, decode(before).line_end)
    return version


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def _keep(path: Path, content: bytes) -> None:
    """Put the bytes of a file that is not UTF-8 beside it, where none that were kept before are lost."""
    for number in count(1):
        beside = path.with_name(f"{path.name}.before-utf8{f'.{number}' if number > 1 else ''}")
        if not beside.exists():
            beside.write_bytes(content)
        if beside.read_bytes() == content:
            return
