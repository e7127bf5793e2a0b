"""The model in use, while something is baked with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import ref

from torch import Tensor

from lbw.bake.host import BakeError
from lbw.engine.parameters import Layer
from lbw.engine.parts import Network
from lbw.engine.strengths import UnmeasurableError
from lbw.hosts import network_files
from lbw.hosts.serving import adapter
from modules import devices
from modules.call_queue import queue_lock


class BakeHost:
    """The protocol of :mod:`lbw.bake.host`.

    Raises:
        BakeError: no model is loaded.
    """

    ledger, parts, meter = adapter.ledger, adapter.parts, network_files.meter

    def __init__(self) -> None:
        if not adapter.is_loaded():
            raise BakeError("no model is loaded, and block weights are those of its layers; load a checkpoint")
        self._model, self._checkpoint = ref(adapter.model()), _checkpoint()
        # Others than CUDA's have no numbers of 64 bits.
        self.device = devices.device if devices.device.type == "cuda" else devices.cpu

    @contextmanager
    def turn(self) -> Iterator[Mapping[str, Layer]]:
        with queue_lock:
            is_same = adapter.is_loaded() and adapter.model() is self._model() and _checkpoint() == self._checkpoint
            if not is_same:
                raise BakeError("another model has been loaded meanwhile; nothing was written")
            if adapter.has_patched():
                raise BakeError(f"{network_files.PATCHED}; make an image with it on, and bake again")
            yield adapter.layers()

    def network_of(self, file: Any, tensors: Mapping[str, Tensor], dyn_dim: int | None = None) -> Network:
        try:
            network = adapter.network_of(file, tensors)
        except UnmeasurableError as error:
            raise BakeError(str(error)) from None
        if hasattr(network, "dyn_dim"):
            network.dyn_dim = dyn_dim
        return network


def _checkpoint() -> Any:
    """The file of the weights in use: another one of the same architecture comes into the same model."""
    return getattr(getattr(adapter.model(), "sd_checkpoint_info", None), "filename", None)
