"""The update in plain torch: on a CPU some rows at a time, as many as fit into its cache."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lbw.engine.deltas import LowRank
from lbw.engine.kernels import torch as kernel
from tests.unit.ulp import ulp_distance

PLAIN, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
FORMS = [
    ((7, 5), PLAIN), ((64, 40), PLAIN), ((1000, 3), PLAIN), ((3, 2000), PLAIN), ((16, 4, 3, 3), PLAIN),
    ((16, 4, 3, 3), CHANNELS_LAST),
]  # fmt: skip
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def terms_for(weight: Tensor) -> list[tuple[LowRank, float]]:
    outputs, inputs = weight.flatten(1).shape
    return [
        (LowRank(torch.randn(outputs, rank), torch.randn(rank, inputs), 1 / rank), strength)
        for rank, strength in ((4, 0.7), (2, -0.3))
    ]


def reference(base: Tensor, terms: list[tuple[LowRank, float]]) -> Tensor:
    added = sum(delta.up.double() @ delta.down.double() * (delta.scale * strength) for delta, strength in terms)
    assert isinstance(added, Tensor)
    return (base.double() + added.view(base.shape)).to(base.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("cache", [1, 1000, 1 << 20])
def test_each_row_is_rounded_once(
    monkeypatch: pytest.MonkeyPatch, form: tuple[tuple[int, ...], torch.memory_format], dtype: torch.dtype, cache: int
):
    shape, layout = form
    monkeypatch.setattr(kernel, "_IN_CACHE", cache)
    torch.manual_seed(1)
    base = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    weight = torch.zeros_like(base)
    terms = terms_for(base)
    assert kernel.update_weight(weight, base, terms) is None
    # What float32 sums round to counts where they nearly cancel, and bfloat16 is precise there.
    assert ulp_distance(weight, reference(base, terms), 0.0 if dtype == torch.float32 else 1e-6) <= 1
    assert weight.stride() == base.stride()


def test_a_weight_without_rows_or_columns_is_left_as_it_is():
    for shape in ((0, 4), (4, 0)):
        weight = torch.zeros(shape)
        assert kernel.update_weight(weight, weight.clone(), terms_for(weight)) is None
