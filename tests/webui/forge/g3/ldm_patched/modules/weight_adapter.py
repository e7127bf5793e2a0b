"""What a LoRA file has for one layer, as an object that knows what to make of the layer's weight."""

from __future__ import annotations

import logging
from typing import Any

import torch
from modules_forge import formulas
from torch import Tensor

logger = logging.getLogger("forge")


class WeightAdapterBase:
    """`weights` are its tensors and numbers, in the order that patches as tuples have them."""

    name: str

    def __init__(self, loaded_keys: set[str], weights: tuple) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(
        self, weight: Tensor, key: str, strength: float, strength_model: float, offset: Any, function: Any,
        intermediate_dtype: torch.dtype = torch.float32, original_weight: Any = None,
    ) -> Tensor:
        """The weight with this network. If it does not fit, the weight, with a line in the log."""
        try:
            return self._changed(weight, strength)
        except (RuntimeError, TypeError) as error:
            logger.error("%s: %s", key, error)
            return weight

    def _changed(self, weight: Tensor, strength: float) -> Tensor:
        return formulas.added(self.name, self.weights, weight, strength)


class LoRAAdapter(WeightAdapterBase):
    name = "lora"


class LoHaAdapter(WeightAdapterBase):
    name = "loha"


class LoKrAdapter(WeightAdapterBase):
    name = "lokr"


class GLoRAAdapter(WeightAdapterBase):
    name = "glora"


class OFTAdapter(WeightAdapterBase):
    """Without an alpha in the file it has no effect, as in the host, which compares alpha with a number."""

    name = "oft"

    def _changed(self, weight: Tensor, strength: float) -> Tensor:
        return formulas.oft(weight, self.weights, strength)


class BOFTAdapter(WeightAdapterBase):
    name = "boft"

    def _changed(self, weight: Tensor, strength: float) -> Tensor:
        return formulas.boft(weight, self.weights, strength)


adapters = [LoRAAdapter, LoHaAdapter, LoKrAdapter, GLoRAAdapter, OFTAdapter, BOFTAdapter]
