"""The kinds of delta: what the engine has to know of a network type, and no more.

A delta is what a network module adds at strength 1, with alpha and rank already in it. A coefficient multiplies all of
it, the bias's part included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar
from weakref import ref

import torch
from torch import Tensor

T = TypeVar("T")

Source = Callable[[], Tensor]
"""Brings a layer's pristine weight, in its own type, to whoever needs it."""


class UnsupportedPartError(Exception):
    """A part of a network that cannot be applied to its layer; the message says why."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 carries a weight of up to 16 bits to its correct rounding; a float32 weight needs float64."""
    return torch.float32 if dtype.itemsize <= 2 else torch.float64


def frobenius(tensor: Tensor) -> float:
    """The Frobenius norm: row by row, because float32 loses a thousandth in a sum of millions of squares."""
    rows = tensor.detach().reshape(len(tensor), -1)
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return float(torch.linalg.vector_norm(rows, dim=1, dtype=dtype).double().norm())


@dataclass(eq=False)
class Delta(ABC):
    """What a network module adds to one weight."""

    bias: Tensor | None = field(default=None, kw_only=True, compare=False)
    """What it adds to the layer's bias."""

    @abstractmethod
    def compute(self, weight: Tensor) -> Tensor:
        """The delta on ``weight``, which has the layer's shape, is of the type to accumulate in, and is not changed."""

    def norm(self, weight: Source) -> float:
        """The Frobenius norm of the delta on ``weight``; the bias's part does not count."""
        base = weight()
        return frobenius(self.compute(base.to(accumulation_dtype(base.dtype))))

    def onto(self, base: Tensor, coefficient: float, dtype: torch.dtype, of: Any) -> Tensor | None:
        """``base + coefficient * delta`` as a new tensor, by a shorter way than :meth:`compute`; None if there is none.

        Args:
            base: a pristine weight in the layer's own type; it is not changed.
            dtype: the type to accumulate in. The result is of this type.
            of: stands for the pristine weight in what is remembered of it, see :class:`Memo`.
        """
        return None

    def to(self, device: torch.device) -> None:
        """Move the tensors, once for each device that the layer is found on. Back on the device that they came from,
        they are those that they were, which cost nothing; what was derived from weights elsewhere is forgotten."""
        origins: dict[str, Tensor] = self.__dict__.setdefault("_origins", {})
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Delta):
                value.to(device)
            elif isinstance(value, Memo) and device.type == "cpu":
                value.leave_gpu()
            elif isinstance(value, Tensor) and value.device != device:
                origin = origins.setdefault(item.name, value)
                setattr(self, item.name, origin.to(device))


def widened(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in 8 bits in ``dtype``; torch brings the others there as it computes."""
    return weight.to(dtype) if weight.dtype.itemsize == 1 else weight


class Memo(Generic[T]):
    """What was last derived from a pristine weight, and is on a device.

    It holds as long as the weight does. An object stands for the weight: a copy that is never changed, or what else
    lives as long as the weight is as it is.
    """

    def __init__(self) -> None:
        self._known: tuple[ref[Any], torch.device, T] | None = None

    def get(self, of: Any, device: torch.device, derive: Callable[[], T]) -> T:
        if self._known is None or self._known[0]() is not of or self._known[1] != device:
            self._known = ref(of), device, derive()
        return self._known[2]

    def leave_gpu(self) -> None:
        """Forget what is not on the CPU."""
        if self._known is not None and self._known[1].type != "cpu":
            self._known = None


@dataclass(eq=False)
class StandAlone(Delta):
    """A delta that is the same for every weight."""

    def compute(self, weight: Tensor) -> Tensor:
        return self.materialize(weight.device, weight.dtype).reshape(weight.shape)

    @abstractmethod
    def materialize(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The delta on ``device``, with as many elements as the weight, in the weight's order.

        ``dtype`` is the type to accumulate in, see :func:`accumulation_dtype`.
        """


@dataclass(eq=False)
class LowRank(StandAlone):
    """``scale * up @ down`` (Hu et al. 2021, LoRA).

    ``up`` is [out, rank]; ``down`` is [rank, in], for a convolution [rank, in * height * width].
    """

    up: Tensor
    down: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    def materialize(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        self.to(device)
        return (self.up.to(dtype) @ self.down.to(dtype)).mul_(self.scale)

    def norm(self, weight: Source) -> float:
        """From matrices of [rank, rank] alone: ``|U D|^2`` is the sum of ``(U^T U) * (D D^T)``."""
        dtype = torch.promote_types(self.up.dtype, torch.float32)
        up, down = self.up.to(dtype), self.down.to(dtype)
        products = (up.T @ up).double() * (down @ down.T).double()
        return abs(self.scale) * float(products.sum().clamp(min=0).sqrt())


@dataclass(eq=False)
class Dense(StandAlone):
    """A delta that is stored as it is."""

    value: Tensor

    def materialize(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        self.to(device)
        return self.value.to(dtype)

    def norm(self, weight: Source) -> float:
        return frobenius(self.value)


@dataclass(eq=False)
class WeightDependent(Delta):
    """A delta that is computed from the weight it is applied to.

    The host's order and meaning hold: with several networks on a layer, each one sees the weight as the networks before
    it in the prompt left it, and the first one sees the pristine weight. So with coefficients c and formulas F
    ``W1 = W0 + c1 * F1(W0)``, ``W2 = W1 + c2 * F2(W1)``. The host rounds each of these to the weight's type, we round
    the last one only.
    """


@dataclass
class InThird(WeightDependent):
    """A delta for q, k or v, which are the thirds of the rows of one weight."""

    inner: Delta
    third: int

    def compute(self, weight: Tensor) -> Tensor:
        delta = torch.zeros_like(weight)
        delta.chunk(3)[self.third].copy_(self.inner.compute(weight.chunk(3)[self.third]))
        return delta

    def norm(self, weight: Source) -> float:
        return self.inner.norm(lambda: weight().chunk(3)[self.third])
