"""Pristine weights that are recovered from the patched ones: every bit, for deltas of every size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lbw.engine import lean
from tests.unit.lean_reference import encode

FORMATS = [torch.float16, torch.bfloat16]


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int16)


def special_values(dtype: torch.dtype) -> Tensor:
    """All 16-bit patterns that are numbers, and those that are none."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def decode(weight: Tensor, delta: Tensor, code: lean.Code) -> Tensor:
    return lean.decode((weight.float() - delta).to(weight.dtype), code)


def recovered(base: Tensor, delta: Tensor, spread: Tensor) -> tuple[Tensor, lean.Code]:
    """``base`` after it was patched with ``delta`` and recovered."""
    code = encode(base, spread, torch.zeros_like(spread))
    patched = (base.float() + delta).to(base.dtype)
    return decode(patched, delta, code), code


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("size", [0.0, 1e-7, 1e-4, 0.01, 1.0, 100.0, 70000.0])
def test_every_16_bit_number_is_recovered_from_deltas_of_every_size(dtype: torch.dtype, size: float):
    base = special_values(dtype).view(256, 256)
    torch.manual_seed(1)
    for delta in (torch.full((256, 256), size), -torch.full((256, 256), size), torch.randn(256, 256) * size):
        found, _ = recovered(base, delta, delta.abs())
        assert bits(found).equal(bits(base))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", [(64, 128), (1, 1), (65, 129), (130, 30)])
def test_smaller_deltas_than_the_code_was_made_for_are_as_good(dtype: torch.dtype, shape: tuple[int, int]):
    torch.manual_seed(2)
    base, largest = (torch.randn(shape) * 0.02).to(dtype), torch.randn(shape) * 0.01
    code = encode(base, largest.abs(), torch.zeros(shape))
    for strength in (1.0, -1.0, 0.3, 0.0):
        patched = (base.float() + strength * largest).to(dtype)
        assert bits(decode(patched, strength * largest, code)).equal(bits(base))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-(2**15), 2**15 - 1),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from(FORMATS),
)
def test_any_weight_with_any_delta_is_recovered(pattern: int, delta: float, dtype: torch.dtype):
    base = torch.tensor([[pattern]], dtype=torch.int16).view(dtype)
    change = torch.tensor([[delta]])
    found, _ = recovered(base, change, change.abs())
    assert bits(found).equal(bits(base))


def test_the_computed_delta_may_differ_from_time_to_time_by_the_error_that_was_allowed_for():
    torch.manual_seed(3)
    base, delta = (torch.randn(512, 512) * 0.02).half(), torch.randn(512, 512) * 0.01
    error = torch.full_like(delta, 1e-6)
    code = encode(base, delta.abs(), error)
    patched = (base.float() + delta + 1e-6 * torch.randn_like(delta).clamp(-1, 1)).half()
    again = delta + 1e-6 * torch.randn_like(delta).clamp(-1, 1)
    assert bits(decode(patched, again, code)).equal(bits(base))


@pytest.mark.parametrize(("size", "most"), [(0.04, 0.25), (0.01, 0.17)])
def test_the_code_of_a_usual_lora_takes_less_than_a_quarter_of_the_weights(size: float, most: float):
    """``size`` is the delta's size relative to the weight's."""
    torch.manual_seed(4)
    base, delta = (torch.randn(1024, 1024) * 0.02).half(), torch.randn(1024, 1024) * 0.02 * size
    code = encode(base, delta.abs(), torch.zeros_like(delta))
    assert code.codes.nbytes + code.escapes.nbytes < most * base.nbytes
