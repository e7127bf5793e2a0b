"""The in-place update of weights: one file for each way to run it."""

from types import ModuleType

from lbw.kernels import graph

grouped: tuple[ModuleType, ...] = (graph,)
"""The kernels that update many weights at once, the fastest first. Triton is missing on Windows and on some CPUs."""
try:
    from lbw.kernels import triton
except ModuleNotFoundError as error:
    if error.name != "triton":
        raise
else:
    grouped = (triton, graph)
