"""What a layer's parts become in the new file: as they are, joined, cut to a rank, or as a whole difference."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from lbw.engine.deltas import Delta, InThird, LowRank, StandAlone, frobenius

UP, DOWN, MID, ALPHA, SCALE, DIFF, DIFF_BIAS = (
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "scale", "diff", "diff_b",
)  # fmt: skip
"""Tensors of parts, as kohya's scripts and LyCORIS call them."""

_SCALED = {
    UP, DIFF, DIFF_BIAS, "hada_w1_a", "lokr_w1", "lokr_w1_a", "a2.weight", "b2.weight", "weight", "w_norm", "b_norm",
}  # fmt: skip
"""The tensors that take the ratio: what a part adds is proportional to them, each sum in it to one of them."""

_FIXED = {
    DOWN, MID, ALPHA, SCALE, "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2", "a1.weight", "b1.weight", "on_input",
}  # fmt: skip
"""Those that the ratio leaves as they are."""

ADDENDS = {"bias", "bias_indices", "bias_values", "bias_size"}
"""Of a sum beside a part's own, which AUTOMATIC1111 alone knows: other programs read such a part without it."""

_PRODUCTS = (("hada_w1_b",), ("lokr_w2_b", "lokr_w1_b"))
"""LoHa, and LoKr with factors: the tensor whose length is the rank that ``alpha`` is divided by, the first there is."""


class Form(str, Enum):
    """How a layer's parts are kept."""

    KEPT = "kept"
    """Each tensor of the only part, with the ratio in one of the factors."""
    JOINED = "joined"
    """LoRAs side by side: their ranks add up."""
    CUT = "cut"
    """The LoRA of a rank that is nearest to what the parts add."""
    FULL = "full"
    """All that the parts add to the model's weight."""


def is_proportional(kinds: Iterable[str]) -> bool:
    """Whether a part of these tensors stays one of its type at any ratio."""
    return {*kinds} <= _SCALED | _FIXED and not _SCALED.isdisjoint(kinds)


@dataclass(frozen=True)
class Share:
    """What one network has for a layer, and how much of it counts."""

    delta: Delta
    coefficient: float

    def of_third(self) -> Share:
        """What it adds to that third of a weight that it is for; itself, where it is for no third."""
        return replace(self, delta=self.delta.inner) if isinstance(self.delta, InThird) else self


def rank_tensor(kinds: Collection[str]) -> str | None:
    """The tensor with the rank of a LoHa or a LoKr; None for other types, and where ``scale`` stands for the alpha."""
    return next((kind for names in _PRODUCTS for kind in names if kind in kinds and SCALE not in kinds), None)


def is_joinable(shares: Sequence[Share]) -> bool:
    return all(isinstance(share.delta, LowRank) and share.delta.bias is None for share in shares)


def scaled(tensors: Mapping[str, Tensor], ratio: float, gain: float) -> dict[str, Tensor]:
    """A part of a type that :func:`is_proportional`, or of any at 1: at a ratio, as a part at 1.

    Args:
        gain: of what ``alpha`` is for, which has nothing to do with biases.
    """
    factors = {kind: ratio if kind == DIFF_BIAS else ratio * gain for kind in _SCALED}
    return {
        kind: tensor.double() * factors[kind] if factors.get(kind, 1.0) != 1 else tensor
        for kind, tensor in tensors.items()
    }


def joined_alpha(shares: Sequence[Share]) -> float:
    """An alpha for LoRAs that are joined: that of the one that its own alpha makes the strongest, for all ranks."""
    deltas = [share.delta for share in shares]
    largest = max(abs(delta.scale) for delta in deltas if isinstance(delta, LowRank))
    return (largest or 1.0) * joined_rank(shares)


def joined_rank(shares: Sequence[Share]) -> int:
    return sum(share.delta.rank for share in shares if isinstance(share.delta, LowRank))


def joined(shares: Sequence[Share]) -> tuple[Tensor, Tensor]:
    """(up [out, ranks], down [ranks, in * height * width]) in float64, with ratios and scales in ``up``."""
    ups, downs = [], []
    for share in shares:
        assert isinstance(share.delta, LowRank)
        ups.append(share.delta.up.cpu().double() * (share.coefficient * share.delta.scale))
        downs.append(share.delta.down.cpu().double())
    return torch.cat(ups, 1), torch.cat(downs)


def total(shares: Sequence[Share], weight: Tensor) -> Tensor:
    """All that parts add to a pristine weight, in float64, by the rule of
    :class:`lbw.engine.deltas.kinds.WeightDependent`.

    Args:
        weight: on the device to compute on.
    """
    base = weight.double()
    added = torch.zeros_like(base)
    for share in shares:
        if isinstance(share.delta, StandAlone):
            added += share.delta.materialize(base.device, torch.float64).reshape(base.shape) * share.coefficient
        else:
            added += share.delta.compute(base + added) * share.coefficient
    return added


def bias_of(shares: Sequence[Share]) -> Tensor | None:
    """What parts add to the layer's bias, in float64; None if nothing."""
    found = [
        share.delta.bias.detach().cpu().double().flatten() * share.coefficient
        for share in shares if share.delta.bias is not None
    ]
    return sum(found[1:], found[0]) if found else None


@dataclass(frozen=True)
class Cut:
    """``up`` [out, rank] times ``down`` [rank, in * height * width], and the Frobenius norms of what it is nearest to,
    and of what is lost."""

    up: Tensor
    down: Tensor
    whole: float
    lost: float


_NOTHING = 1e-14
"""Of the square of the largest length of a direction, what float64 does not tell from 0."""


def cut(matrix: Tensor, rank: int) -> Cut:
    """The nearest matrix of a rank (Eckart and Young 1936), by the eigenvectors of the smaller one of the products with
    its transpose: in float64 that loses nothing that counts, and takes a fraction of a whole decomposition's time.

    Args:
        matrix: [out, in * height * width], float64.
    """
    is_wide = matrix.shape[0] <= matrix.shape[1]
    product = matrix @ matrix.T if is_wide else matrix.T @ matrix
    vectors = torch.linalg.eigh(product).eigenvectors[:, -rank:].flip(1)
    up, down = (vectors, vectors.T @ matrix) if is_wide else (matrix @ vectors, vectors.T)
    lost = frobenius(matrix - up @ down)
    return Cut(*_balanced(up, down), frobenius(matrix), lost)


def cut_product(up: Tensor, down: Tensor, rank: int) -> Cut:
    """As :func:`cut`, of ``up @ down``, without making the product.

    Args:
        up: [out, ranks], float64, of at least so many ranks.
        down: [ranks, in * height * width], float64.
    """
    lengths, vectors = torch.linalg.eigh(up.T @ up)
    counting = lengths > lengths[-1] * _NOTHING
    if not bool(counting.any()):
        return Cut(up[:, :rank], down[:rank], 0.0, 0.0)
    lengths, vectors = lengths[counting].sqrt(), vectors[:, counting]
    basis, rest = up @ (vectors / lengths), (vectors * lengths).T @ down  # up @ down, with columns of length 1
    found = cut(rest, rank)
    missing = rank - found.up.shape[1]
    return replace(found, up=F.pad(basis @ found.up, (0, missing)), down=F.pad(found.down, (0, 0, 0, missing)))


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with columns of ``up`` as long as the rows of ``down``, so that both have their range of a
    16-bit type."""
    ups, downs = up.norm(dim=0), down.norm(dim=1)
    gains = torch.where((ups > 0) & (downs > 0), (downs / ups.clamp(min=1e-300)).sqrt(), 1.0)
    return up * gains, down / gains[:, None]
