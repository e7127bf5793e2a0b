"""Reads files that somebody else may have put in a file's place: a pipe would keep its reader for ever, a device has no
end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def is_ordinary(path: str | Path) -> bool:
    """Whether a path leads to a file with data, and not to a folder, a pipe, a device, or nowhere."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def read_bytes(path: str | Path, most: int) -> bytes:
    """The whole content of an ordinary file.

    Raises:
        OSError: it cannot be read, is no ordinary file, or has more than ``most`` bytes.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        with open(handle, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(handle)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content
