from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cuda_on_cpu import available


@pytest.fixture(params=["cpu", "cuda"])
def gpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """A GPU, or the CPU in its stead."""
    with available(request.param, "grouped"):
        yield request.param
