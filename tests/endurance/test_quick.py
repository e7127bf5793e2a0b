"""The quick form of each program, in a process of its own as its user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("program", ["soak", "faults", "hostile"])
def test_nothing_is_found(program: str):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.endurance.{program}", "--quick"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
