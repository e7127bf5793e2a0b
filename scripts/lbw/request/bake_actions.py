"""What can be done with an order: to look what would come of it, to keep the file, or to have it fetched."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from lbw.bake.baking import Progress
from lbw.bake.host import BakeError
from lbw.bake.new_file import require_room
from lbw.engine.strengths import Strengths
from lbw.request.bake import BakeBackend, Begun, Order, Report, begin, hashes_of

_CHUNK = 1 << 20
"""Bytes that are sent at once."""


class NoRoomError(BakeError):
    """The disk is full, or would be."""


@contextmanager
def _writing(place: str) -> Iterator[None]:
    """Errors of a new file as messages, which do not tell where it is.

    Raises:
        BakeError: NoRoomError, where it is that.
    """
    try:
        yield
    except FileExistsError:
        raise BakeError("a LoRA of this name is there already; choose another name. Nothing was written") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoRoomError(f"{place} has no room for the file ({error.strerror}). Nothing was written") from None
        reason = error.strerror or type(error).__name__
        raise BakeError(f"{place} does not take the file ({reason}). Nothing was written") from None


class TemporaryFile:
    """A file without a name, which is gone with the last reference to this."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name, self._file, self._lock = name, file, threading.Lock()
        self.size = os.fstat(file.fileno()).st_size

    def chunks(self) -> Iterator[bytes]:
        """All of it; several readers do not disturb each other."""
        position = 0
        while position < self.size:
            with self._lock:
                self._file.seek(position)
                chunk = self._file.read(_CHUNK)
            if not chunk:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            position += len(chunk)
            yield chunk


@dataclass(frozen=True)
class Outcome:
    """What a job came to. ``strengths`` are those that the file would have, ``kept`` is the name under which the host
    lists it."""

    report: Report
    strengths: Strengths | None = None
    file: TemporaryFile | None = None
    kept: str | None = None


def look(order: Order, name: str, backend: BakeBackend, progress: Progress) -> Outcome:
    """Find what would be in the file, and make none.

    Raises:
        BakeError, UnknownNetworkError: as :func:`lbw.request.bake.begin`.
    """
    begun = begin(order, backend, progress)
    strengths = begun.baking.strengths(name)
    described = begun.describe(name, False, {source.path: "0" * 64 for source in begun.sources})
    return Outcome(begun.report(described, strengths.messages), strengths)


def download(order: Order, name: str, with_words: bool, backend: BakeBackend, progress: Progress) -> Outcome:
    """Make the file, without a name on this machine.

    Raises:
        BakeError, UnknownNetworkError: as :func:`look`; or there is no room.
    """
    begun = begin(order, backend, progress)
    described = _described(begun, name, with_words, progress)
    with _writing("the folder for temporary files"):
        folder = tempfile.gettempdir()
        require_room(Path(folder), begun.report(described).bytes)
        file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115  whoever fetches it reads it
        begun.baking.write(file, described)
        file.flush()
    return Outcome(begun.report(described), file=TemporaryFile(file, name))


def keep(order: Order, name: str, with_words: bool, backend: BakeBackend, progress: Progress) -> Outcome:
    """Make the file in the host's LoRA folder.

    Raises:
        BakeError, UnknownNetworkError: as :func:`look`; or the name is taken, or the folder does not take the file.
    """
    place = "the LoRA folder"
    with _writing(place):
        if not backend.is_free(name):
            raise FileExistsError
    begun = begin(order, backend, progress)
    described = _described(begun, name, with_words, progress)
    size = begun.report(described).bytes
    with _writing(place), backend.new_network(name, size) as file:
        begun.baking.write(file, described)
        progress.tick(0)
    messages = backend.list_network(name, [source.path for source in begun.sources], with_words)
    return Outcome(begun.report(described, messages), kept=name)


def _described(begun: Begun, name: str, with_words: bool, progress: Progress) -> dict[str, str]:
    return begun.describe(name, with_words, hashes_of(begun.sources, progress))
