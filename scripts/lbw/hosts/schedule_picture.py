"""The schedule picture of a generation, behind its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lbw.hosts.grids import keep, saves_grids
from lbw.pictures import image
from lbw.pictures.courses import draw
from lbw.plan.plan import Pass


def append(p: Any, processed: Any, passes: Sequence[Pass]) -> None:
    """Add the picture to a result whose passes have LoRAs. It is saved where the host saves grids, and as one."""
    if not any(made.plan.requests for made in passes):
        return
    picture = image(draw(passes))
    keep(p, processed, picture, "lbw_schedule", is_saved=saves_grids(p))
    processed.images.append(picture)
    processed.infotexts.append(processed.infotexts[0])
