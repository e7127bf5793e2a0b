"""The host's folder of network files, where a new one can be kept."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from lbw.bake.new_file import ENDING, new_file, require_room
from lbw.hosts.serving import adapter
from lbw.tags.ordinary_files import read_bytes
from lbw.tags.own_default import MOST_BYTES, metadata_file
from modules import shared

logger = logging.getLogger("lbw")

_PICTURES = tuple(
    f"{middle}.{ending}" for ending in ("png", "jpg", "jpeg", "webp", "gif") for middle in (".preview", "")
)
"""What a network's picture is called behind the network's name."""

_TEXTS = ("activation text", "negative text", "description")
"""What users have noted of a network, by the host's names of it; what several networks have of it is put together."""

_VERSION, _WEIGHT = "sd version", "preferred weight"

_LONGEST = 10_000
"""Characters of a text of these; a longer one is left out."""


def obstacle() -> str:
    """Why nobody may have a file kept in the folder; empty where that is allowed."""
    if not getattr(shared.cmd_opts, "lora_dir", None):
        return "this WebUI has no LoRA folder that is known"
    if getattr(shared.cmd_opts, "hide_ui_dir_config", False):
        return "this WebUI runs with --hide-ui-dir-config"
    if getattr(shared.cmd_opts, "disable_extension_access", False):
        return "this WebUI is open to others (--listen, --share) and lets nobody change what is installed"
    return ""


def is_free(name: str) -> bool:
    """Whether the host lists no file under a name, in whatever folder, and in no other case; and none is in its way.

    Raises:
        OSError: it cannot look for files.
    """
    try:
        taken = {each.casefold() for each in _taken_names()}
    except FileExistsError:  # of the host, which makes the folder if there is none
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    return name.casefold() not in taken and adapter.listed_file(name) is None


def _taken_names() -> Iterator[str]:
    for name in adapter.network_names(renewed=True):
        yield name
        alias = getattr(adapter.listed_file(name), "alias", None)
        if isinstance(alias, str):
            yield alias
    yield from (entry[: -len(ENDING)] for entry in os.listdir(_folder()) if entry.lower().endswith(ENDING))


def _folder() -> Path:
    return Path(shared.cmd_opts.lora_dir)


@contextmanager
def new_network(name: str, size: int) -> Iterator[BinaryIO]:
    """A new file in the folder, see :func:`lbw.bake.new_file.new_file`.

    Args:
        size: its bytes.

    Raises:
        OSError: the folder does not take it; for want of room, before anything is written.
    """
    require_room(_folder(), size)
    with new_file(_folder() / f"{name}{ENDING}") as file:
        yield file


def list_network(name: str, sources: Sequence[str], with_words: bool) -> list[str]:
    """Have the host list a new file, which is meant for strength 1.

    Args:
        sources: the files that it was made of.
        with_words: whether it gets the picture of the first of them that has one, and the words of all.

    Returns:
        Messages of what could not be done.
    """
    path = _folder() / f"{name}{ENDING}"
    messages = _noted(path, sources if with_words else ())
    if with_words:
        messages += _pictured(path, sources)
    try:
        adapter.network_names(renewed=True)
    except Exception as error:  # whatever a host's list, or another extension's, raises: the file is there
        logger.exception("LoRA Block Weight: the host cannot look for LoRA files")
        messages.append(f"the WebUI could not look for it ({type(error).__name__}); use its refresh button")
    return messages


def _noted(path: Path, sources: Iterable[str]) -> list[str]:
    content = {**_joined([_read(metadata_file(source)) for source in sources]), _WEIGHT: 1}
    text = json.dumps(content, indent=4, ensure_ascii=False).encode(errors="replace")
    return _beside(metadata_file(str(path)), lambda file: file.write(text))


def _pictured(path: Path, sources: Iterable[str]) -> list[str]:
    found = (
        (Path(stem + ending), Path(os.path.splitext(path)[0] + ending))
        for stem in (os.path.splitext(source)[0] for source in sources) for ending in _PICTURES
    )
    for picture, copied in found:
        if picture.is_file():
            return _beside(copied, partial(_copy, picture))
    return []


def _copy(picture: Path, file: BinaryIO) -> None:
    with picture.open("rb") as source:
        shutil.copyfileobj(source, file)


def _beside(path: Path, write: Callable[[BinaryIO], Any]) -> list[str]:
    """Make a file beside the new one, unless one is there. Returns a message if it could not be made."""
    try:
        with new_file(path) as file:
            write(file)
    except FileExistsError:
        return [f"{path.name} was there already, and is left as it is"]
    except OSError as error:
        return [f"{path.name} could not be written ({error.strerror or type(error).__name__})"]
    return []


def _read(path: Path) -> Mapping[str, Any]:
    """What is noted of a network; nothing where it cannot be read."""
    try:
        content = json.loads(read_bytes(path, MOST_BYTES).decode())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _joined(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for key in _TEXTS:
        texts = [text for each in notes if isinstance(text := each.get(key), str) and 0 < len(text) <= _LONGEST]
        if texts:
            found[key] = ", ".join(dict.fromkeys(text.strip() for text in texts))
    versions = {each.get(_VERSION) for each in notes if isinstance(each.get(_VERSION), str)}
    return {**found, _VERSION: versions.pop()} if len(versions) == 1 else found
