"""The lists that a host's module of networks keeps of network files; both families have the same."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from threading import RLock
from typing import Any

from safetensors import safe_open

from lbw.engine.strengths import UnknownNetworkError
from lbw.tags.limits import shortened
from lbw.tags.ordinary_files import is_ordinary
from modules.call_queue import queue_lock

_listing = RLock()
"""Held while the host makes its lists anew for us, which are empty for a moment."""


def names(networks: Any, *, renewed: bool) -> list[str]:
    """The names of all files.

    Args:
        renewed: whether the host looks for new files before.
    """
    if renewed:
        with queue_lock:
            list_anew(networks)
    with _listing:
        found = [*networks.available_networks]
    return sorted(found, key=str.casefold)


def list_anew(networks: Any) -> None:
    """Have the host look for all files."""
    with _listing:
        networks.list_available_networks()


def known(networks: Any, name: str) -> Any:
    """The file that the host takes this name for; None for none."""
    with _listing:
        is_ambiguous = name.lower() in networks.forbidden_network_aliases
        files = networks.available_networks if is_ambiguous else networks.available_network_aliases
        return files.get(name)


def missing(networks: Any, names: Iterable[str], loaded: Collection[str]) -> list[str]:
    """Those of ``names`` that are not loaded because there is no such file."""
    return [name for name in names if name not in loaded and known(networks, name) is None]


def find(networks: Any, name: str) -> Any:
    """As :func:`known`, of files too that came after the host had looked."""
    file = known(networks, name)
    if file is not None:
        return file
    with _listing:
        if hasattr(networks, "update_available_networks_by_names"):
            networks.update_available_networks_by_names([name])
        else:  # before 1.8 the host looks for all files only
            networks.list_available_networks()
        return known(networks, name)


def require(file: Any, name: str) -> Any:
    """A file that was looked for by the name that a tag has.

    Raises:
        UnknownNetworkError: there is none.
    """
    if file is None:
        raise UnknownNetworkError(f"no LoRA is called {shortened(name)!r}")
    return file


def is_safe(path: str) -> bool:
    """Whether a file can be read without running what is in it, or waiting for it."""
    return os.path.splitext(path)[1].lower() == ".safetensors" and is_ordinary(path)


def metadata_of(path: str) -> Mapping[str, str]:
    """What a file notes of itself, as it has it: some hosts make objects of that. Nothing for one of another format."""
    if not is_safe(path):
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}
