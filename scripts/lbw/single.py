"""A layer that is written by itself, by torch: what :mod:`lbw.batch` does for many, for every device and delta."""

from __future__ import annotations

from lbw import base_weights
from lbw.base_weights import parameter_of
from lbw.binding import BoundLayer, Contents, bias_fits, targets_of
from lbw.kernels import torch as kernel


def write(bound: BoundLayer, wanted: Contents) -> None:
    """Write ``wanted`` into a layer: weights, and the bias where one was or is to be changed."""
    layer, added = bound.layer, None
    targets = [
        (slot, [(delta, coefficient) for index, delta, coefficient in wanted if index in members])
        for slot, members in targets_of(layer)
    ]
    origins = [base_weights.origin(layer, slot.parameter, is_changed=terms != []) for slot, terms in targets]
    for (slot, terms), origin in zip(targets, origins, strict=True):
        bias = kernel.update_weight(slot.of(parameter_of(layer, slot.parameter)), slot.of(origin), terms)
        if slot.third is None and bias_fits(layer, bias):  # the host adds none for q, k and v
            added = bias
    if added is None and not bound.record.bias_is_changed:
        return
    owned, bias_origin = base_weights.bias_of(layer), base_weights.bias_origin(layer, is_changed=added is not None)
    assert owned is not None and bias_origin is not None
    bound.record.bias_is_changed = True
    owned.copy_(bias_origin if added is None else bias_origin.to(added) + added)
    bound.record.bias_is_changed = added is not None
