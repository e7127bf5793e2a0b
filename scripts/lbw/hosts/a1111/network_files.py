"""Network files that the host knows, by name: listed and measured, without a network becoming active."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import networks as host_networks
from lbw.engine.meter import StrengthMeter
from lbw.engine.strengths import Strengths, UnknownNetworkError, UnmeasurableError
from lbw.hosts.a1111.model import host, is_loaded
from lbw.tags.limits import shortened
from modules.call_queue import queue_lock

logger = logging.getLogger("lbw")

meter = StrengthMeter()


def names(*, renewed: bool) -> list[str]:
    """The names of the files, as tags have them; ``renewed`` has the host look for files first."""
    if renewed:
        with queue_lock:  # the host's list is empty for a moment
            host_networks.list_available_networks()
    return sorted(host_networks.available_networks, key=str.casefold)


def measure(name: str) -> Strengths:
    """The strengths of a network file in the model that is in use. Waits for a generation that is under way to end.

    Raises:
        UnmeasurableError: there is no such network or no model, or the file cannot be read.
    """
    with queue_lock:
        file = _file(name)
        if not is_loaded():
            raise UnmeasurableError("no model is loaded, and a strength is relative to its weights; load a checkpoint")
        try:
            net = host_networks.load_network(file.name, file)
        except Exception as error:  # whatever is wrong with a file of whatever type; the message may have its path
            logger.warning("LoRA Block Weight: %s cannot be read: %s", file.filename, error)
            raise UnmeasurableError(f"{file.name}: the file cannot be read ({type(error).__name__})") from error
        return meter.measure(net, host.layers())


def _file(name: str) -> Any:
    """The file that a tag with this name means."""
    for _ in range(2):
        file = _known(name)
        if file is not None:
            return file
        host_networks.update_available_networks_by_names([name])  # a file that came after the host had looked
    raise UnknownNetworkError(f"no LoRA is called {shortened(name)!r}")


def _known(name: str) -> Any:
    """The file that the host takes this name for; None for none."""
    is_ambiguous = name.lower() in host_networks.forbidden_network_aliases
    known = host_networks.available_networks if is_ambiguous else host_networks.available_network_aliases
    return known.get(name)


def not_loaded(wanted: Iterable[str]) -> list[str]:
    """Those of the ``wanted`` networks whose file the host has and could not load. It says so in the console alone; of
    a name without a file it tells its user by itself."""
    loaded = {net.name for net in host.networks()}
    return [name for name in wanted if name not in loaded and _known(name) is not None]
