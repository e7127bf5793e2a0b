"""Grids and sheets of a plot's images, drawn by the host's own helpers, and how such pictures are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from lbw.hosts.cells import Made
from lbw.plots.axes import Axis
from modules import images
from modules.shared import opts


def draw_grids(x: Axis, y: Axis, z: Axis, cells: Sequence[Made | None]) -> list[Image.Image]:
    """A grid for each point of z; none where no cell was made. A cell that is missing stays empty."""
    columns, rows = [point.label for point in x.points], [point.label for point in y.points]
    size = len(columns) * len(rows)
    planes = [cells[start : start + size] for start in range(0, len(cells), size)]
    return [
        draw_table([None if cell is None else cell.picture for cell in plane], columns, rows, point.label)
        for point, plane in zip(z.points, planes, strict=True) if any(plane)
    ]


def draw_table(
    pictures: Sequence[Image.Image | None], columns: Sequence[str], rows: Sequence[str], title: str = ""
) -> Image.Image:
    """Pictures row by row, with texts above each column and beside each row. One that is None stays empty.

    The title is repeated above each column: the host has no other place for a text in the size of the others.
    """
    there = [picture for picture in pictures if picture is not None]
    width, height = max(picture.width for picture in there), max(picture.height for picture in there)
    empty = Image.new("RGB", (width, height), opts.grid_background_color)
    grid = images.image_grid([empty if picture is None else picture for picture in pictures], rows=len(rows))
    above = [[images.GridAnnotation(line) for line in ([title, text] if title else [text])] for text in columns]
    beside = [[images.GridAnnotation(text)] for text in rows]
    return images.draw_grid_annotations(grid, width, height, above, beside)


def saves_grids(p: Any) -> bool:
    """Whether the host would save a grid of a generation's images."""
    return bool(opts.grid_save) and not p.do_not_save_grid


def keep(p: Any, processed: Any, picture: Image.Image, name: str, *, is_saved: bool) -> None:
    """Give a picture the infotext of the result that it goes with, and save it as the host saves its grids."""
    text = processed.infotexts[0]
    if opts.enable_pnginfo:
        picture.info["parameters"] = text
    if is_saved:
        images.save_image(
            picture, p.outpath_grids, name, info=text, extension=opts.grid_format, prompt=p.all_prompts[0],
            seed=p.all_seeds[0], grid=True, p=processed,
        )
