"""Factors as files have them -> factors as tensor cores take them, see ``pack.cu``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lbw.engine.kernels.compiled import THREADS, Packer, kernel_for

TILE = THREADS * 8
"""Elements that a block writes."""

_MATRIX = np.dtype(
    [("from", np.uint64), ("to", np.uint64)]
    + [(name, np.int32) for name in ("rows", "columns", "is_down", "unused")]
)


class Packing:
    """Matrices that are packed into one buffer, some of them at a time.

    Args:
        shapes: [matrices, 2]; ``up`` and ``down`` of a delta, in turn.
        packed: where they go.
        places: where in it each begins, in elements.
    """

    def __init__(self, shapes: np.ndarray, packed: Tensor, places: np.ndarray) -> None:
        self._device, self._dtype, self._itemsize = packed.device, packed.dtype, packed.element_size()
        self._table = np.zeros(len(shapes), _MATRIX)
        self._table["to"] = packed.data_ptr() + places * self._itemsize
        self._table["rows"], self._table["columns"] = shapes.T
        self._table["is_down"] = np.arange(len(shapes)) % 2
        padded = -(-shapes.astype(np.int64) // 32) * 32
        self._tiles = padded.prod(axis=1) // TILE
        self.largest = torch.zeros(max(len(shapes), 1), dtype=torch.int32, device=packed.device)
        """For each matrix the number of its largest magnitude among those of the type, once it is packed."""

    def pack(self, plain: Tensor, first: int, places: np.ndarray) -> None:
        """Pack some matrices.

        Args:
            plain: what they are in, as they are, on the device.
            first: the number of the first one; the others follow.
            places: where in ``plain`` each begins, in elements.
        """
        chosen = slice(first, first + len(places))
        table = self._table[chosen].copy()
        table["from"] = plain.data_ptr() + places * self._itemsize
        counts = self._tiles[chosen]
        owners = np.repeat(np.arange(len(counts)), counts)
        tiles = np.stack((owners, np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners]), axis=1)
        kernel = kernel_for(self._device, self._dtype, Packer())
        arguments = [kernel.upload(tiles.astype(np.int32)), kernel.upload(table.view(np.uint8)), self.largest[chosen]]
        kernel.launch(len(tiles), THREADS, arguments)
