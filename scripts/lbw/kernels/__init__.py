"""The in-place update of weights: one file for each way to run it."""

from types import ModuleType

grouped: ModuleType | None
"""The kernel that updates many weights in one launch; None where its compiler is missing (Windows, some CPUs)."""
try:
    from lbw.kernels import triton as grouped
except ImportError:
    grouped = None
