"""Run by the host at each of its starts. There is nothing to install: the host brings all that is needed.

At the first start the presets of the original extension are carried over, so that nobody has to type them again: from
wherever it lies among the extensions, in use, switched off or renamed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "scripts"
FILES = ("lbwpresets.txt", "elempresets.txt")
LARGEST = 10_000_000
"""Bytes; what is larger is no preset file."""


def extensions_folders(host_root: Path) -> list[Path]:
    """The folders in which extensions lie: the one in which this one does (``--data-dir``), and the host's.

    A checkout that is elsewhere has neighbours that are none of ours to read.
    """
    folders = [Path(sys.argv[0]).absolute().parents[1], host_root / "extensions"]
    return [folder for folder in folders if folder.name == "extensions"]


def earlier_files(host_root: Path, name: str) -> Iterator[Path]:
    """The files of this name that the original, or a copy of it, left in an extension's folder or in the host's.

    No link leads out of the folder in which it lies.
    """
    for folder in extensions_folders(host_root):
        yield from (path for path in sorted(folder.glob(f"*/scripts/{name}")) if _is_inside(path, folder))
    path = host_root / "scripts" / name
    if _is_inside(path, host_root):
        yield path


def _is_inside(path: Path, folder: Path) -> bool:
    found = path.resolve()
    is_ours = found.parent == FOLDER
    return not is_ours and found.is_relative_to(folder.resolve()) and found.is_file() and found.stat().st_size < LARGEST


def has_own_entries(path: Path) -> bool:
    """Whether somebody has put something of their own into a file."""
    sys.path.insert(0, str(FOLDER))
    from lbw.tags.presets import has_own_entries, read

    return has_own_entries(read(path, ""))


def carry_over(host_root: Path) -> None:
    """Copy each file that is absent here from where it is found: of several, from the newest with entries of its user's
    own, or else from the newest."""
    for name in FILES:
        target = FOLDER / name
        if target.exists():
            continue
        found = [*{path.resolve(): path for path in earlier_files(host_root, name)}.values()]
        if not found:
            continue
        if len(found) > 1:
            found.sort(key=lambda path: (has_own_entries(path), path.stat().st_mtime))
        *others, source = found
        temporary = target.with_suffix(".new")
        temporary.write_bytes(source.read_bytes())
        os.replace(temporary, target)
        print(f"LoRA Block Weight: took over {source}", *map(str, others), sep=", and not ")


def host_root() -> Path:
    """The host runs this file with its own folder first on PYTHONPATH, and mostly from that folder."""
    paths = [Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return next((path for path in paths if (path / "modules").is_dir()), Path(sys.argv[0]).resolve().parents[2])


if __name__ == "__main__":
    try:
        carry_over(host_root())
    except OSError as error:
        print(f"LoRA Block Weight: earlier presets were not taken over: {error}", file=sys.stderr)
