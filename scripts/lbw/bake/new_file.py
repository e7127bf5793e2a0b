"""A new file that is whole or not there, and never takes the place of another one; and the names that it can have."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

ENDING = ".safetensors"

MOST_BYTES = 200
"""Of a name in UTF-8: file systems allow 255, and hosts put endings of their own behind it."""

_UNFINISHED = re.compile(r"\.lbw-[0-9a-f]{16}\.tmp")
"""Names of files that are being written: hidden, and nothing that a host lists."""

_DAY = 86400.0


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to be written, buffered and seekable, which stands under ``path`` once the block has ended without an
    error: whole, and safely on the disk. Otherwise nothing stands there.

    On Linux it has no name before, so that nothing is left of a process that is killed. Elsewhere it has a hidden one
    in the same folder, and what killed processes have left for a day is removed at the next call. Where a file system
    has no hard links, an empty file stands under ``path`` for the moment before the whole one replaces it.

    Raises:
        FileExistsError: something stands under ``path``, before the block or at its end, be it a link to nothing.
        OSError: the folder or the disk does not take the file.
    """
    if os.path.lexists(path):
        raise _exists(path)
    _remove_leftovers(path.parent)
    anonymous = _open_anonymous(path.parent)
    if anonymous is None:
        with _named(path) as file:
            yield file
    else:
        with _closing(anonymous):
            yield anonymous
            _sync(anonymous)
            if not _link_anonymous(anonymous, path):
                anonymous.seek(0)
                with _named(path) as file:
                    shutil.copyfileobj(anonymous, file, 1 << 20)
    _sync_folder(path.parent)


def _open_anonymous(folder: Path) -> BinaryIO | None:
    """A file without a name; None if the system or the file system has no such thing."""
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        return cast(BinaryIO, os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b"))
    except OSError:
        return None


def _link_anonymous(file: BinaryIO, path: Path) -> bool:
    """Give it a name; False if the file system, or a system without ``/proc``, does not do that."""
    folder = os.open(path.parent, os.O_PATH)
    try:  # with a folder, as Python follows the link to the file only where it has one
        os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        return False
    finally:
        os.close(folder)
    return True


@contextmanager
def _named(path: Path) -> Iterator[BinaryIO]:
    """A file under a hidden name, which becomes ``path`` at the end."""
    hidden = path.with_name(f".lbw-{secrets.token_hex(8)}.tmp")
    try:
        file = cast(BinaryIO, open(hidden, "x+b"))  # noqa: SIM115
    except OSError as error:  # which names a file that nobody has asked for
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with _closing(file):
            yield file
            _sync(file)
        _publish(hidden, path)
    finally:
        with suppress(OSError):
            os.unlink(hidden)


def _publish(hidden: Path, path: Path) -> None:
    try:
        os.link(hidden, path)
        return
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # no hard links
        pass
    try:
        open(path, "xb").close()
    except FileExistsError:
        raise _exists(path) from None
    try:
        os.replace(hidden, path)
    except BaseException:
        os.unlink(path)
        raise


@contextmanager
def _closing(file: BinaryIO) -> Iterator[None]:
    """Close it at the end; an error that its last bytes meet was met before, or nobody wants them any more."""
    try:
        yield
    finally:
        with suppress(OSError):
            file.close()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Its entries too, on systems that do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    with suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if _UNFINISHED.fullmatch(entry.name):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < time.time() - _DAY:
                        os.unlink(entry)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


_IMPOSSIBLE = '<>:"/\\|?*=\uff1a{}'
"""Separators of paths, what Windows has no files with, what has a meaning in a tag, and braces: hosts read metadata
that begin with one as JSON, and ``{}`` in place of a name breaks their lists."""

_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\xb9\xb2\xb3])\s*(?:\..*)?", re.IGNORECASE)
"""Names of devices on Windows, which have no files, whatever their ending is."""


def require_room(folder: Path, size: int) -> None:
    """
    Raises:
        OSError: there are less than ``size`` bytes left in a folder, or it cannot be asked.
    """
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def require_name(name: str) -> str:
    """The name of a new LoRA as it is used: without blanks around it, and without the file's ending.

    Raises:
        ValueError: no file, or no tag on some system, can have the name; the message says why and what is expected.
    """
    used = name.strip()
    if used.lower().endswith(ENDING):
        used = used[: -len(ENDING)].strip()
    problem = _problem(used)
    if problem:
        raise ValueError(f"name of the new LoRA: {problem}")
    return used


def _problem(name: str) -> str | None:
    """What is wrong with a name, and what is expected."""
    if not name:
        return "it is empty; expected a name such as my_lora"
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:
        return "it has half a character; expected whole ones"
    if kinds & {"Cc", "Zl", "Zp"}:
        return "it has line breaks or control characters; expected one line of text"
    found = "".join(dict.fromkeys(character for character in name if character in _IMPOSSIBLE))
    if found:
        return f"it has {' '.join(found)}, which a file name or a tag cannot have; expected a name without a folder"
    if name.startswith("."):
        return "it begins with a dot, and hosts do not list such files; expected another first character"
    if name.endswith("."):
        return "it ends with a dot, which Windows takes away; expected another last character"
    if _RESERVED.fullmatch(name):
        return f"{name} is a device on Windows, and no file; expected another name"
    length = len(name.encode())
    if length > MOST_BYTES:
        return f"it has {length} bytes in UTF-8; expected at most {MOST_BYTES}"
    return None
