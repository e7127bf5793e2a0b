"""Network files that the host knows: measured, without a network becoming active."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from lbw.engine.meter import StrengthMeter
from lbw.engine.strengths import Strengths, UnmeasurableError
from lbw.hosts.serving import adapter
from lbw.hosts.settings import FOREIGN_NAMES, setting
from modules.call_queue import queue_lock

meter = StrengthMeter(adapter.ledger, adapter.parts)

PATCHED = (
    "the WebUI itself has LoRAs in the model's weights now, as of an image that was made with this extension off"
)
_MOST_KNOWN = 500
_known: WeakKeyDictionary[Any, dict[tuple[str, float, bool], tuple[str, ...] | None]] = WeakKeyDictionary()
"""{model: {path and time of a file, and whether foreign names are read: the keys of the parts that it has for the
model; None if it cannot be read}}."""


def measure(name: str) -> Strengths:
    """The strengths of a network file in the model that is in use. Waits for a generation that is under way to end.
    Where the host has left LoRAs of its own in the weights, they are relative to these, and nothing is kept of them.

    Raises:
        UnmeasurableError: there is no such network or no model, or the file cannot be read.
    """
    with queue_lock:
        file = adapter.network_file(name)
        if not adapter.is_loaded():
            raise UnmeasurableError("no model is loaded, and a strength is relative to its weights; load a checkpoint")
        is_patched = adapter.has_patched()
        at_work = StrengthMeter(adapter.ledger, adapter.parts) if is_patched else meter
        found = at_work.measure(adapter.read_network(file), adapter.layers())
        note = f"{PATCHED}; strengths are relative to these weights"
        return replace(found, messages=(*found.messages, note)) if is_patched else found


def changed_layers(name: str) -> tuple[str, ...] | None:
    """The keys of the parts that a network file has for the model in use.

    None where that cannot be told now: there is no such file or model, it cannot be read, or a generation is under way,
    for which nobody shall wait.
    """
    if not queue_lock.acquire(blocking=False):
        return None
    try:
        return changed_layers_in_turn(name)
    finally:
        queue_lock.release()


def changed_layers_in_turn(name: str) -> tuple[str, ...] | None:
    """As :func:`changed_layers`, for whoever holds the host's queue."""
    try:
        if not adapter.is_loaded():
            return None
        file = adapter.network_file(name)
        known = _known.setdefault(adapter.model(), {})
        key = file.filename, os.path.getmtime(file.filename), bool(setting(FOREIGN_NAMES))
        if key not in known:
            if len(known) == _MOST_KNOWN:
                known.clear()
            known[key] = _read_keys(file)
        return known[key]
    except (UnmeasurableError, OSError):
        return None


def _read_keys(file: Any) -> tuple[str, ...] | None:
    try:
        return tuple(adapter.parts.keys(adapter.read_network(file)))
    except UnmeasurableError:
        return None
