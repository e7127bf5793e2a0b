"""The solver's steps of the Forge family's samplers, as recorded on the real hosts.

`tests/data/forge_samplers.json` has {host: {sampler: [solver step of each model evaluation]}} for 8 steps. They were
recorded with a model of one operation, without LoRAs, on a CPU, in each host at its own settings. A step is told there
not by what the adapter goes by, but by the sampler's reports to the host: one comes after the first evaluation of each
step or, of samplers whose code says so, after the last. Solvers that choose their steps themselves are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOSTS: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parents[1] / "data" / "forge_samplers.json").read_text(encoding="utf-8")
)


def rows_of(samplers: Any) -> dict[str, list[int]]:
    """{sampler: steps} of the recorded host whose samplers are most like those of the host's module ``samplers``."""
    here = set(samplers.all_samplers_map)
    return max(HOSTS.values(), key=lambda rows: len(here & rows.keys()) / len(here | rows.keys()))
