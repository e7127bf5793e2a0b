"""DoRA: lengths of output or of input channels, and norms of either, by each of the ways in which it is computed."""

from __future__ import annotations

import pytest
import torch

from lbw.engine.deltas import UnsupportedPartError, decompose
from lbw.engine.deltas.kinds import LowRank

SHAPES = [(6, 5), (6, 6), (6, 4, 3, 3)]


def parts(shape: tuple[int, ...], lengths: str) -> tuple[torch.Tensor, LowRank, torch.Tensor]:
    torch.manual_seed(2)
    weight, size = torch.randn(shape, dtype=torch.float64), torch.Size(shape)
    inner = LowRank(torch.randn(size[0], 2).double(), torch.randn(2, size[1:].numel()).double(), 0.5)
    ones = [1] * (len(shape) - 2)
    kinds = {"outputs": (size[0], 1, *ones), "inputs": (1, size[1], *ones), "PEFT's": (size[0],)}
    return weight, inner, torch.rand(kinds[lengths], dtype=torch.float64) + 0.5


def expected(weight: torch.Tensor, inner: LowRank, lengths: torch.Tensor, *, of_outputs: bool) -> torch.Tensor:
    moved = weight + inner.compute(weight)
    rows = moved.flatten(1) if of_outputs else moved.transpose(0, 1).flatten(1)
    norms = rows.norm(dim=1).reshape((-1, 1) if of_outputs else (1, -1))
    gains = lengths.flatten().reshape((-1, 1) if len(lengths) == len(weight) else (1, -1)) / norms
    return moved * gains.expand(weight.shape[:2]).reshape(*weight.shape[:2], *[1] * (weight.dim() - 2)) - weight


@pytest.mark.parametrize("of_outputs", [False, True])
@pytest.mark.parametrize("lengths", ["outputs", "inputs"])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_ways_agree(shape: tuple[int, ...], lengths: str, of_outputs: bool):
    weight, inner, values = parts(shape, lengths)
    wanted = expected(weight, inner, values, of_outputs=of_outputs)
    delta = decompose(inner, values, weight.shape, of_outputs=of_outputs)
    assert torch.allclose(delta.compute(weight), wanted)
    half = delta.onto(weight, 0.5, torch.float64, weight)
    assert half is not None and torch.allclose(half, weight + 0.5 * wanted)
    rows, columns, moved = delta.gains(weight, weight)
    gained = weight * (rows[:, None] * columns).reshape(weight.shape) - weight + moved.compute(weight)
    assert torch.allclose(gained, wanted, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_lengths_in_one_dimension_are_of_output_channels(shape: tuple[int, ...]):
    """As PEFT keeps them; the host cannot apply them, or takes them for those of input channels."""
    weight, inner, lengths = parts(shape, "PEFT's")
    delta = decompose(inner, lengths, weight.shape)
    assert delta.has_gains
    assert torch.allclose(delta.compute(weight), expected(weight, inner, lengths, of_outputs=True))


@pytest.mark.parametrize("count", [1, 4, 7])
def test_another_number_of_lengths_does_not_fit(count: int):
    weight, inner, _lengths = parts((6, 5), "outputs")
    with pytest.raises(UnsupportedPartError, match="the shape is"):
        decompose(inner, torch.ones(count), weight.shape)
