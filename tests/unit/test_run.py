"""Each test is in one part of the tests that are run."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PART = re.compile(r"^a1111 (.+)$", re.MULTILINE)


def test_each_file_of_tests_is_run_once_as_the_first_host():
    patterns = " ".join(PART.findall((ROOT / "tests" / "run.sh").read_text())).split()
    found = Counter(
        path for pattern in patterns for each in ROOT.glob(pattern)
        for path in (each.rglob("test_*.py") if each.is_dir() else [each])
    )  # fmt: skip
    assert found == Counter((ROOT / "tests").rglob("test_*.py"))
