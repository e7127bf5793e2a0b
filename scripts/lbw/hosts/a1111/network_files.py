"""Network files as AUTOMATIC1111 lists and reads them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import networks as host_networks
from lbw.engine.strengths import UnmeasurableError
from lbw.hosts import file_lists

logger = logging.getLogger("lbw")


def find(name: str) -> Any:
    """The file that a tag with this name means."""
    return file_lists.require(file_lists.find(host_networks, name), name)


def read(file: Any, load: Callable[[str, Any], Any]) -> Any:
    """The network of a file that is no network in use. ``load`` makes it, of the name and the file."""
    try:
        return load(file.name, file)
    except Exception as error:  # whatever is wrong with a file of whatever type; the message may have its path
        logger.warning("LoRA Block Weight: %s cannot be read: %s", file.filename, error)
        raise UnmeasurableError(f"{file.name}: the file cannot be read ({type(error).__name__})") from error
