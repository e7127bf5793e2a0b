"""The defaults that LoRAs have of their own, of the files that the host lists: nobody else's name leads to a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lbw.hosts import file_lists
from lbw.hosts.serving import adapter
from lbw.tags import own_default


def get(name: str) -> str:
    """The default of a LoRA; empty if it has none.

    Raises:
        UnknownNetworkError: the host lists no such LoRA.
    """
    return own_default.read(_file(name))


def put(name: str, weights: str) -> None:
    """Set the default of a LoRA, or take it away.

    Raises:
        UnknownNetworkError: the host lists no such LoRA.
        ValueError: the weights, or what is in the LoRA's file, cannot be used; nothing was written.
        OSError: the file cannot be written.
    """
    path = _file(name)
    _tell_pages(path, own_default.write(path, weights))


def _file(name: str) -> Path:
    # Not looked for anew: names come with each move of a cursor.
    return own_default.metadata_file(file_lists.require(adapter.listed_file(name), name).filename)


def _tell_pages(path: Path, content: dict[str, Any]) -> None:
    """The host's pages of LoRA cards remember what was in such files, and their editor writes all of it."""
    module = sys.modules.get("modules.ui_extra_networks")
    for page in getattr(module, "extra_pages", ()):
        for item in [*page.items.values()]:
            filename = item.get("filename")
            if filename and own_default.metadata_file(filename) == path:
                item["user_metadata"] = content
        update = getattr(getattr(page, "lister", None), "update_file_entry", None)  # not before 1.9
        if update is not None:
            update(str(path))
