"""Small helpers for files."""
from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator


def natural_sort_key(s: str) -> list[str | int]:
    """Sorts "image10" behind "image9"."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", s)]


def walk_files(path: str, allowed_extensions: Collection[str] | None = None) -> Iterator[str]:
    """The files below a folder, in natural order of their names; extensions are given with the dot, in lower case."""
    found = [os.path.join(parent, name) for parent, _, names in os.walk(path, followlinks=True) for name in names]
    for filename in sorted(found, key=natural_sort_key):
        if allowed_extensions is None or os.path.splitext(filename)[1].lower() in allowed_extensions:
            yield filename
