"""Network files that the host knows: measured, without a network becoming active."""

from __future__ import annotations

from lbw.engine.meter import StrengthMeter
from lbw.engine.strengths import Strengths, UnmeasurableError
from lbw.hosts.serving import adapter
from modules.call_queue import queue_lock

meter = StrengthMeter(adapter.ledger, adapter.parts)


def measure(name: str) -> Strengths:
    """The strengths of a network file in the model that is in use. Waits for a generation that is under way to end.

    Raises:
        UnmeasurableError: there is no such network or no model, or the file cannot be read.
    """
    with queue_lock:
        file = adapter.network_file(name)
        if not adapter.is_loaded():
            raise UnmeasurableError("no model is loaded, and a strength is relative to its weights; load a checkpoint")
        return meter.measure(adapter.read_network(file), adapter.layers())
