"""The in-place update in plain torch, for every device and dtype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from lbw.engine.deltas import Delta, LowRank, accumulation_dtype

_INEXACT = ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """No gradients, autocast, TF32 or sums in 16 bits: the host activates networks inside autocast, and allows TF32 on
    most cards."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for device_type in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        for name in _INEXACT:
            stack.callback(setattr, torch.backends.cuda.matmul, name, getattr(torch.backends.cuda.matmul, name))
            setattr(torch.backends.cuda.matmul, name, False)
        yield


def update_weight(
    weight: Tensor, base: Tensor, terms: Sequence[tuple[Delta, float]], device: torch.device | None = None
) -> Tensor | None:
    """Write ``round(base + sum_k c_k * D_k)`` into ``weight``: accumulated in a wider type, rounded once.

    Args:
        weight: the layer's parameter, or some rows of it, [out, ...]; modified in place.
        base: its pristine value, of the same shape and dtype, on any device.
        terms: (delta, coefficient) pairs in the host's order.
        device: where it is computed; None for where the weight is.

    Returns:
        What the terms add to the layer's bias, or None.
    """
    if not terms:
        weight.copy_(base)
        return None
    device = weight.device if device is None else device
    dtype = accumulation_dtype(weight.dtype)
    first, strength = terms[0]
    here = base.to(device).contiguous()
    total, rest = first.onto(here, strength, dtype, base), terms[1:]
    if total is None:
        total, rest = here.to(dtype, copy=True), terms
    flat = total.flatten(1) if total.dim() > 1 else total
    for delta, coefficient in rest:
        if isinstance(delta, LowRank):
            delta.to(device)
            flat.addmm_(delta.up.to(dtype), delta.down.to(dtype), alpha=coefficient * delta.scale)
        else:
            total.add_(delta.compute(total), alpha=coefficient)
    weight.copy_(total)
    added = [delta.bias.to(device, dtype) * value for delta, value in terms if delta.bias is not None]
    return torch.stack(added).sum(0) if added else None
