"""Saving a preset file that others may have changed since it was loaded."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.presets import Parse, read, write_atomically

_saving = threading.Lock()


class ChangedOnDiskError(Exception):
    """A preset file is not what it was when it was loaded. ``names`` are the entries that differ."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


def version_of(text: str) -> str:
    """What tells two states of a preset file apart."""
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: Path, default: str, text: str, loaded: str | None, parse: Parse) -> str:
    """Write a preset file; returns its new version.

    Args:
        loaded: the version that the text was made from; None writes over whatever is there.
        parse: reads the file's entries, to say which of them changed.

    Raises:
        ChangedOnDiskError: the file has another version than ``loaded``; nothing was written.
        ValueError: the text is too long, or cannot be stored; nothing was written.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"the text has {len(text)} characters; expected {LONGEST_TEXT} at most")
    text = text.replace("\r\n", "\n")
    try:
        version = version_of(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start + 1} is half of a character and cannot be stored") from None
    with _saving:
        on_disk = read(path, default)
        if loaded is not None and version_of(on_disk) != loaded and on_disk != text:
            raise ChangedOnDiskError(_differing(parse(on_disk)[0], parse(text)[0]))
        _keep_foreign_bytes(path)
        write_atomically(path, text)
    return version


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def _keep_foreign_bytes(path: Path) -> None:
    """A file that is not UTF-8 was shown with replacement characters: keep its bytes beside it before they are lost."""
    content = path.read_bytes() if path.exists() else b""
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError:
        path.with_name(f"{path.name}.before-utf8").write_bytes(content)
