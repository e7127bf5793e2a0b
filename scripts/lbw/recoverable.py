"""Layers that keep no copy of their pristine weight: it is recovered from the patched one, see :mod:`lbw.lean`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lbw import lean
from lbw.base_weights import Layer, StandIn, Unchanged, parameter_of, pristine
from lbw.binding import BoundLayer, Holding, Record, Value
from lbw.deltas import Delta, LowRank
from lbw.kernels.torch import exact_arithmetic


class Recoverable(StandIn):
    """A backup that recovers the pristine weight of a layer from the patched one.

    Args:
        layer: its weight has to be pristine at this moment.
        record: what is in the weight, kept up to date by whoever writes it.
        deltas: all that may be in it, one for each network.
        limits: the largest coefficient of each.

    Raises:
        torch.cuda.OutOfMemoryError: no room to compute the codes.
    """

    def __init__(self, layer: Layer, record: Record, deltas: Sequence[LowRank], limits: Sequence[float]) -> None:
        super().__init__(layer, "weight")
        self._record = record
        self.deltas = tuple(deltas)
        self.limits = tuple(limits)
        base = self.parameter.flatten(1)
        with exact_arithmetic():
            spread, error = torch.zeros_like(base, dtype=torch.float32), torch.zeros_like(base, dtype=torch.float32)
            for delta, limit in zip(deltas, limits, strict=True):
                up, down = delta.up.to(base.device).float(), delta.down.to(base.device).float()
                scale = abs(limit * delta.scale)
                spread.add_((up @ down).abs_(), alpha=scale)
                error.addmm_(up.abs(), down.abs(), alpha=scale * (up.shape[1] + 4) * 2.0**-23)
            self.code = lean.encode(base, spread, error)

    def allows(self, deltas: Sequence[LowRank], coefficients: Sequence[float]) -> bool:
        """Whether the weight can be brought to these coefficients, and stay recoverable."""
        return len(deltas) == len(self.deltas) and all(
            new is known and abs(coefficient) <= limit
            for new, known, coefficient, limit in zip(deltas, self.deltas, coefficients, self.limits, strict=True)
        )

    def values(self) -> Tensor:
        if self._copy is not None:
            return self._copy
        device = self.code.codes.device
        weight = self.parameter.to(device)
        with exact_arithmetic():
            delta = torch.zeros_like(weight.flatten(1), dtype=torch.float32)
            for _slot, part, coefficient in self._record.contents:
                assert isinstance(part, LowRank)
                up, down = part.up.to(device).float(), part.down.to(device).float()
                delta.addmm_(up, down, alpha=coefficient * part.scale)
            return lean.decode(weight.flatten(1), delta, self.code).view(weight.shape)


def make_recoverable(bound: BoundLayer, value: Value) -> bool:
    """Have a layer's pristine weight recovered instead of copied, for coefficients up to ``value``.

    Where its weight is not recoverable yet, it is made pristine first. In any case the layer's record afterwards says
    what is in the weight in terms of the layer's deltas.

    Returns:
        Whether it is so now; False where a delta is not low-rank, or the code would take more than a quarter of the
        weight's memory, or cannot hold the weight.
    """
    deltas = [delta for _slot, _network, delta in bound.deltas if isinstance(delta, LowRank)]
    if len(bound.keys) > 1 or not deltas or len(deltas) < len(bound.deltas):
        return False
    record, backup = bound.record, bound.attributes["network_weights_backup"]
    coefficients = [value[0][network] for _slot, network, _delta in bound.deltas]
    is_recoverable = isinstance(backup, Recoverable) and backup.allows(deltas, coefficients)
    held: dict[Delta, float] = {}
    if is_recoverable:
        held = {delta: coefficient for _slot, delta, coefficient in record.contents}
    elif not isinstance(backup, Unchanged):
        parameter_of(bound.layer, "weight").copy_(pristine(bound.layer, "weight"))
    in_force = [0.0] * len(value[0])
    for _slot, network, delta in bound.deltas:
        in_force[network] = held.get(delta, 0.0)
    record.deltas, record.holding = bound.deltas, Holding((tuple(in_force),))
    if is_recoverable:
        return True
    if not lean.can_encode(parameter_of(bound.layer, "weight")):
        return False
    backup = Recoverable(bound.layer, record, deltas, [_limit(coefficient) for coefficient in coefficients])
    if 4 * backup.code.nbytes > backup.parameter.nbytes:
        return False
    bound.layer.network_weights_backup = backup
    return True


def _limit(coefficient: float) -> float:
    """A limit that leaves room above ``coefficient``: a rising strength shall not need new codes at each step."""
    return 2.0 ** max(0, math.ceil(math.log2(abs(coefficient)))) if coefficient else 1.0
