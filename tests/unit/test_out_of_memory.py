"""The GPU's memory runs out at every place where ours asks for some, once each: the weights are right all the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lbw
from lbw.engine.base_weights import Policy
from lbw.plan.plan import Coefficients
from tests.unit.test_engine import Bed, bed_at, name_of

PLACES = [
    *[("cpu", torch.float16, "grouped", policy) for policy in (Policy.GPU, Policy.LEAN, Policy.RAM)],
    *[("cuda", torch.float16, way, policy) for way in ("grouped", "single") for policy in (Policy.GPU, Policy.LEAN)],
]


OURS = str(Path(lbw.__file__).parent)
ON_THE_CPU = {
    ("pinned_memory.py", "__init__"), ("pinned_memory.py", "_page_locked"), ("uploads.py", "__init__"),
    ("uploads.py", "_padding"), ("factors.py", "__init__"), ("factors.py", "wild"), ("factors.py", "_infinity"),
    ("pieces.py", "pieces_of"), ("kinds.py", "low_rank"), ("lora.py", "build"), ("parts.py", "delta_of"),
    ("faults.py", "_is_finite"),
}  # fmt: skip
"""Files and functions of ours that make tensors on the CPU only."""


class FailsOnce(TorchDispatchMode):
    """Has one operation that makes a tensor, of all that are done inside, fail for lack of memory.

    Args:
        number: of the operation; it is too large where ``failed`` is False afterwards.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number
        self.failed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.failed and _makes_a_tensor(func) and not _is_for_the_cpu():
            self.failed = self._left == 0
            self._left -= 1
            if self.failed:
                raise torch.cuda.OutOfMemoryError("injected")
        return func(*args, **(kwargs or {}))


def _makes_a_tensor(func: Any) -> bool:
    returns = func._schema.returns
    return any(each.alias_info is None and "Tensor" in str(each.type) for each in returns)


def _is_for_the_cpu() -> bool:
    """Whether what is being made is on the CPU where the device is a GPU, too."""
    frame = sys._getframe(2)
    while not frame.f_code.co_filename.startswith(OURS):
        if frame.f_back is None:
            return True
        frame = frame.f_back
    return (Path(frame.f_code.co_filename).name, frame.f_code.co_name) in ON_THE_CPU


@pytest.fixture(params=PLACES, ids=name_of)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, torch.dtype, str, Policy]]:
    yield request.param


def generations(bed: Bed) -> Iterator[tuple[float, ...]]:
    """Two generations, step by step; the weights are left at what is told."""
    for _ in range(2):
        bed.engine.bind(bed, bed.layers, bed.networks)
        bed.engine.begin_pass(Coefficients.of(bed.all(1.0, 1.0, 1.0)))
        for values in [(0.0, 0.0, 0.0), (1.0, 0.5, -0.7), (0.3, 0.0, 0.2)]:
            bed.update(bed.all(*values))
            yield values
        bed.engine.settle()


def test_weights_are_right_wherever_memory_runs_out(place: tuple[str, torch.dtype, str, Policy]):
    # Thread by thread, each attempt takes a second: every third place has to do.
    stride = 3 if place[0] == "cpu" and place[3] is not Policy.GPU else 1
    number, has_failed = 0, True
    while has_failed:
        for bed in bed_at(place):
            for name in [*bed.layers][1:-1]:
                del bed.layers[name], bed.base[name]
            mode = FailsOnce(number)
            steps = generations(bed)
            while True:
                with mode:
                    values = next(steps, None)
                if values is None:
                    break
                assert bed.worst_ulp(bed.all(*values)) <= (1 if any(values) else 0), number
            if place[2] == "grouped":
                assert bed.is_pristine(), number
            bed.engine.release()
            assert bed.is_pristine(), number
            assert bed.engine.held == 0
            has_failed = mode.failed
        number += stride
    assert number >= 40
