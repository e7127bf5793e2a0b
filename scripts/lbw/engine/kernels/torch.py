"""The in-place update in plain torch, for every device and dtype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from lbw.engine.deltas import Delta, LowRank, accumulation_dtype

_IN_CACHE = 1 << 20
"""Bytes of an intermediate result that a core of a CPU has at hand, with what it is made of."""

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
    here = base.to(device).contiguous()
    low_rank = [(delta, coefficient) for delta, coefficient in terms if isinstance(delta, LowRank)]
    if len(low_rank) == len(terms) and weight.device.type == device.type == "cpu" and weight.is_contiguous():
        _add_by_rows(weight.flatten(1), here.flatten(1), low_rank, dtype)
    else:
        weight.copy_(_sum(here, base, terms, dtype))
    added = [delta.bias.to(device, dtype) * value for delta, value in terms if delta.bias is not None]
    return torch.stack(added).sum(0) if added else None


def _add_by_rows(weight: Tensor, base: Tensor, terms: Sequence[tuple[LowRank, float]], dtype: torch.dtype) -> None:
    """On a CPU most of the time would go into memory that is new for each layer, and is gone through three times."""
    for delta, _ in terms:
        delta.to(weight.device)
    factors = [(delta.up.to(dtype), delta.down.to(dtype), value * delta.scale) for delta, value in terms]
    rows = max(_IN_CACHE * torch.get_num_threads() // max(weight.shape[1] * dtype.itemsize, 1), 1)
    wide = torch.empty(min(rows, len(weight)), weight.shape[1], dtype=dtype)
    for start in range(0, len(weight), rows):
        here = slice(start, start + rows)
        total = wide[: len(weight[here])].copy_(base[here])
        for up, down, strength in factors:
            total.addmm_(up[here], down, alpha=strength)
        weight[here].copy_(total)


def _sum(here: Tensor, base: Tensor, terms: Sequence[tuple[Delta, float]], dtype: torch.dtype) -> Tensor:
    """``here``, which is ``base`` where it is computed, with all terms."""
    (first, strength), rest = terms[0], terms[1:]
    total = first.onto(here, strength, dtype, base)
    if total is None:
        total, rest = here.to(dtype, copy=True), terms
    flat = total.flatten(1) if total.dim() > 1 else total
    for delta, coefficient in rest:
        if isinstance(delta, LowRank):
            delta.to(here.device)
            flat.addmm_(delta.up.to(dtype), delta.down.to(dtype), alpha=coefficient * delta.scale)
        else:
            total.add_(delta.compute(total), alpha=coefficient)
    return total
