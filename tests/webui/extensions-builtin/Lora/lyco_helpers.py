"""Products of the narrow tensors that network files hold."""
from __future__ import annotations

from collections.abc import Sequence

import torch


def rebuild_conventional(
    up: torch.Tensor, down: torch.Tensor, shape: Sequence[int], dyn_dim: int | None = None
) -> torch.Tensor:
    """up @ down, of which only the first `dyn_dim` ranks count if that is given."""
    return (up.flatten(1)[:, :dyn_dim] @ down.flatten(1)[:dyn_dim]).reshape(tuple(shape))


def rebuild_cp_decomposition(up: torch.Tensor, down: torch.Tensor, mid: torch.Tensor) -> torch.Tensor:
    """A convolution's weight from an output factor, an input factor, and a small kernel between them.

    As in the host, the first axis of `mid` goes with the rows of `up.T`: up is (out, rank), down is (rank, in).
    """
    return torch.einsum("nmhw,in,mj->ijhw", mid, up.flatten(1), down.flatten(1))


def make_weight_cp(core: torch.Tensor, out_factor: torch.Tensor, in_factor: torch.Tensor) -> torch.Tensor:
    """LoHa's convolution factor from its core tensor; `out_factor` is (rank, out), `in_factor` (rank, in)."""
    return torch.einsum("aihw,ao->oihw", torch.einsum("abhw,bi->aihw", core, in_factor), out_factor)
