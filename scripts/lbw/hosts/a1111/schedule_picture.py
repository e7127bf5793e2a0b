"""The schedule picture of a generation, behind its images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from lbw.pictures import png
from lbw.pictures.courses import draw
from lbw.plan import Pass
from modules import images
from modules.shared import opts


def append(p: Any, processed: Any, passes: Sequence[Pass]) -> None:
    """Add the picture to a result whose passes have LoRAs. It is saved where the host saves grids, and as one."""
    if not any(made.plan.requests for made in passes):
        return
    with Image.open(io.BytesIO(png(draw(passes)))) as drawn:
        picture = drawn.convert("RGB")
    text = processed.infotexts[0]
    if opts.enable_pnginfo:
        picture.info["parameters"] = text
    if opts.grid_save and not p.do_not_save_grid:
        images.save_image(
            picture, p.outpath_grids, "lbw_schedule", info=text, extension=opts.grid_format, prompt=p.all_prompts[0],
            seed=p.all_seeds[0], grid=True, p=processed,
        )
    processed.images.append(picture)
    processed.infotexts.append(text)
