"""Network files as AUTOMATIC1111 lists and reads them."""

from __future__ import annotations

import logging
from typing import Any

import networks as host_networks
from lbw.engine.strengths import UnknownNetworkError, UnmeasurableError
from lbw.tags.limits import shortened
from modules.call_queue import queue_lock

logger = logging.getLogger("lbw")


def names(*, renewed: bool) -> list[str]:
    if renewed:
        with queue_lock:  # the host's list is empty for a moment
            host_networks.list_available_networks()
    return sorted(host_networks.available_networks, key=str.casefold)


def find(name: str) -> Any:
    """The file that a tag with this name means."""
    for _ in range(2):
        file = known(name)
        if file is not None:
            return file
        _look_for(name)  # a file that came after the host had looked
    raise UnknownNetworkError(f"no LoRA is called {shortened(name)!r}")


def _look_for(name: str) -> None:
    look = getattr(host_networks, "update_available_networks_by_names", None)
    if look is None:  # before 1.8 the host looks for all files only
        host_networks.list_available_networks()
    else:
        look([name])


def read(file: Any) -> Any:
    try:
        return host_networks.load_network(file.name, file)
    except Exception as error:  # whatever is wrong with a file of whatever type; the message may have its path
        logger.warning("LoRA Block Weight: %s cannot be read: %s", file.filename, error)
        raise UnmeasurableError(f"{file.name}: the file cannot be read ({type(error).__name__})") from error


def known(name: str) -> Any:
    """The file that the host takes this name for; None for none."""
    is_ambiguous = name.lower() in host_networks.forbidden_network_aliases
    files = host_networks.available_networks if is_ambiguous else host_networks.available_network_aliases
    return files.get(name)
