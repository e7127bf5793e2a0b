"""The extension's files of presets and rule sets, which are their user's: whoever writes them puts them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
PRESETS_FILE = SCRIPTS / "lbwpresets.txt"
RULE_SETS_FILE = SCRIPTS / "elempresets.txt"


@contextmanager
def kept(paths: Iterable[Path]) -> Iterator[None]:
    """Files get their old contents back, or go, at the end."""
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)


@contextmanager
def kept_files(contents: Mapping[Path, str]) -> Iterator[None]:
    """Files with given contents, which get their old ones back, or go, at the end."""
    with kept(contents):
        for path, text in contents.items():
            path.write_text(text, newline="")
        yield
