"""What the kinds of networks make of a weight, in the weight's number format, which is float32 where hosts merge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Fit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(delta, weight) -> both in one shape."""


def reshaped(delta: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return delta.reshape(weight.shape), weight


def _like(weight: Tensor, *values: Tensor | None) -> list[Tensor | None]:
    return [None if value is None else value.to(weight) for value in values]


def _scale(alpha: float | None, rank: int | None) -> float:
    return 1.0 if alpha is None or rank is None else alpha / rank


def _lora(weight: Tensor, values: tuple) -> tuple[Tensor, float]:
    up, down, mid = _like(weight, values[0], values[1], values[3])
    if mid is not None:
        down = torch.einsum("ba...,ai->bi...", mid, down.flatten(1))
    return up.flatten(1) @ down.flatten(1), _scale(values[2], len(down))


def _loha(weight: Tensor, values: tuple) -> tuple[Tensor, float]:
    w1a, w1b, w2a, w2b, t1, t2 = _like(weight, values[0], values[1], *values[3:7])
    if t1 is None:
        return (w1a @ w1b) * (w2a @ w2b), _scale(values[2], len(w1b))
    first, second = (
        torch.einsum("ab...,bi,ao->oi...", core, b, a) for core, a, b in ((t1, w1a, w1b), (t2, w2a, w2b)))
    return first * second, _scale(values[2], len(w1b))


def _lokr(weight: Tensor, values: tuple) -> tuple[Tensor, float]:
    w1, w2, w1a, w1b, w2a, w2b, t2 = _like(weight, values[0], values[1], *values[3:8])
    rank = None
    if w1 is None:
        w1, rank = w1a @ w1b, len(w1b)
    if w2 is None:
        rank = len(w2b)
        w2 = w2a @ w2b if t2 is None else torch.einsum("ab...,bi,ao->oi...", t2, w2b, w2a)
    if w2.ndim == 4:
        w1 = w1[:, :, None, None]
    return torch.kron(w1, w2.contiguous()), _scale(values[2], rank)


def _glora(weight: Tensor, values: tuple) -> tuple[Tensor, float]:
    """Two forms are in use; a file is of the older one if its shapes say so, and if they leave it open for a square
    weight."""
    a1, a2, b1, b2 = _like(weight, *(value.flatten(1) for value in values[:4]))
    is_older = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    is_newer = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    is_square = len(a2) == weight.shape[0] == weight.shape[1]
    if is_older and (not is_newer or is_square):
        return b2 @ b1 + weight.flatten(1) @ a2 @ a1, _scale(values[4], len(a1))
    of_weight = torch.einsum("oi...,ij->oj...", weight, a1 @ a2)
    return of_weight + (b1 @ b2).reshape(weight.shape), _scale(values[4], len(a2))


def _rotations(blocks: Tensor, limit: float) -> Tensor:
    """Cayley transform of the skew part, which is no longer than `limit`; 0 for any length."""
    skew = blocks - blocks.transpose(-1, -2)
    length = skew.norm() + 1e-8
    if limit > 0 and length > limit:
        skew = skew * (limit / length)
    eye = torch.eye(blocks.shape[-1], device=blocks.device, dtype=blocks.dtype)
    return (eye + skew) @ (eye - skew).float().inverse()


def oft(weight: Tensor, values: tuple, strength: float) -> Tensor:
    """The strength counts twice, and `rescale` not at all, as in the host."""
    blocks = _like(weight, values[0])[0]
    turns = _rotations(blocks, values[2])
    change = (turns - torch.eye(turns.shape[-1]).to(turns)) * strength
    groups = weight.unflatten(0, (-1, turns.shape[-1]))
    return weight + strength * torch.einsum("gnm,gn...->gm...", change, groups).flatten(0, 1)


def boft(weight: Tensor, values: tuple, strength: float) -> Tensor:
    """In stage i the partners of a row are 2^i half blocks away. The strength counts twice here, too."""
    blocks, rescale = _like(weight, *values[:2])
    stages = _rotations(blocks, values[2])
    eye = torch.eye(stages.shape[-1]).to(stages)
    turned = weight
    for i, turns in enumerate(stages):
        pairs = turned.unflatten(0, (-1, 2, 2**i * (turns.shape[-1] // 2))).transpose(1, 2)
        groups = pairs.flatten(0, 2).unflatten(0, (-1, turns.shape[-1]))
        groups = torch.einsum("gij,gj...->gi...", turns * strength + (1 - strength) * eye, groups)
        turned = groups.flatten(0, 1).reshape(pairs.shape).transpose(1, 2).flatten(0, 2)
    if rescale is not None:
        turned = turned * rescale
    return weight + strength * (turned - weight)


def decomposed(weight: Tensor, delta: Tensor, dora_scale: Tensor, strength: float) -> Tensor:
    """DoRA: between the weight and what it becomes with lengths from the file, by strength.

    Lengths of rows are those of the weight as it was, lengths of columns those of the weight with the delta.
    """
    changed = weight + delta
    lengths = dora_scale.to(weight)
    if len(lengths) == len(weight):
        norms = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
    else:
        columns = changed.transpose(0, 1)
        norms = columns.flatten(1).norm(dim=1).reshape(1, -1, *[1] * (weight.ndim - 2))
    changed = changed * (lengths / (norms + torch.finfo(weight.dtype).eps))
    return torch.lerp(weight, changed, strength) if strength != 1.0 else changed


DELTAS = {"lora": _lora, "loha": _loha, "lokr": _lokr, "glora": _glora}
DORA_PLACES = {"lora": 4, "loha": 7, "lokr": 8, "glora": 5}


def added(kind: str, values: tuple, weight: Tensor, strength: float, fit: Fit = reshaped) -> Tensor:
    """The weight with a network of one of the four `DELTAS`.

    Raises:
        RuntimeError: the tensors do not fit each other, or the weight.
    """
    delta, scale = DELTAS[kind](weight, values)
    delta, weight = fit(delta, weight)
    dora_scale = values[DORA_PLACES[kind]]
    if dora_scale is not None:
        return decomposed(weight, delta * scale, dora_scale, strength)
    return weight + (strength * scale) * delta
