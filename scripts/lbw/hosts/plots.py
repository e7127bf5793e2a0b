"""Plots: a generation that asks for one makes no image itself, but hands out those of the plot's cells."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from PIL import Image

from lbw.hosts import comments
from lbw.hosts.cells import CellMaker, Made
from lbw.hosts.grids import draw_grids, draw_table, keep, saves_grids
from lbw.hosts.settings import NAME
from lbw.pictures import effects, image
from lbw.plots.analyzer import Inquiry, difference, preset, read_inquiry
from lbw.plots.axes import Change, Meaning, read_axes
from lbw.request import infotext
from lbw.request.arguments import MODES, Arguments
from lbw.tags.library import VARIED
from lbw.tags.limits import LONGEST_MESSAGE, MOST_MESSAGES, shortened
from lbw.tags.weights import shown
from modules import processing

logger = logging.getLogger("lbw")

ANALYSIS = "LBW analysis"
"""The key of the analyzer's figures in ``info["extra_generation_params"]``, as JSON."""

_PLOT = "lora_block_weight_plot"
"""The attribute of the host's processing object that holds its plot."""


@dataclass
class Plot:
    """What came of a request for a plot. One that has no ``cells`` could not be made.

    ``messages`` are about the plot, ``cell_warnings`` those of its cells' generations, which have told them.
    ``grids`` are the pictures that show the plot, ``told`` the lines below it, ``found`` its figures.
    """

    saves_grids: bool
    messages: list[str] = field(default_factory=list)
    cell_warnings: list[str] = field(default_factory=list)
    cells: list[Made | None] = field(default_factory=list)
    grids: list[Image.Image] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    def warn(self, message: str) -> None:
        if len(self.messages) < MOST_MESSAGES:
            self.messages.append(shortened(message, LONGEST_MESSAGE))


def plot_of(p: Any) -> Plot | None:
    """The plot of a generation that asked for one."""
    return vars(p).get(_PLOT)


def is_made(p: Any) -> bool:
    """Whether the cells of a generation's plot have been made, so that it makes no image itself."""
    plot = plot_of(p)
    return plot is not None and bool(plot.cells)


def forget(p: Any) -> None:
    """A copy of a processing object carries the original's plot."""
    vars(p).pop(_PLOT, None)


def make(p: Any, arguments: Arguments, place: slice) -> None:
    """Make the cells of the plot that a generation asks for, if it does.

    Args:
        place: where in the host's list of all scripts' arguments ours are.
    """
    forget(p)
    if not arguments.active or arguments.mode == 0:
        return
    mode = MODES[arguments.mode]
    plot = Plot(saves_grids=saves_grids(p))
    if p.script_args[0]:
        plot.warn(f"no {mode}, because a script is chosen in the Script menu")
    elif not _can_leave_batches_out():
        plot.warn(f"no {mode}, because this WebUI cannot leave out the image itself, as it can since 1.7")
    elif getattr(p, "txt2img_upscale", False):
        plot.warn(f"no {mode}, because one image is to be upscaled")
    else:
        processing.fix_seed(p)
        maker = CellMaker(p, arguments, place, plot.warn)
        if maker.has_marked_tag():
            (_plot_axes, _analyze)[arguments.mode - 1](plot, maker, arguments)
            plot.told.append(f"{mode}: {maker.summary}")
            plot.cell_warnings = list(maker.warnings)
        elif arguments.mode != 1 or any(kind != "none" for kind, _values in _axes(arguments).values()):
            plot.warn(f"no {mode}, because no LoRA tag has lbw={VARIED}; one image is made")
    setattr(p, _PLOT, plot)
    if plot.cells:
        p.do_not_save_grid = True
        p.extra_generation_params[infotext.PLOT] = infotext.plot(arguments)
        for message in plot.messages:
            logger.warning("%s: %s", NAME, message)
            comments.tell(p, message)


def _can_leave_batches_out() -> bool:
    """Whether the host can be done with a generation without an image: it fails where it finds no infotext."""
    return "if not infotexts" in inspect.getsource(processing.process_images_inner)


def leave_batch_out(p: Any, prompts: list[str]) -> None:
    """The host is about to begin a batch: a generation whose plot has been made has nothing left to make."""
    if is_made(p):
        prompts.clear()


def hand_out(p: Any, processed: Any) -> list[str]:
    """Put a plot's grids, and the images of its cells behind them, into the result of the generation.

    Returns:
        What was said of the plot, and of its cells.
    """
    plot: Plot = vars(p)[_PLOT]
    made = [cell for cell in plot.cells if cell is not None]
    text = processed.infotexts[0]
    for grid in plot.grids:
        keep(p, processed, grid, "lbw_grid", is_saved=plot.saves_grids)
    processed.images = [*plot.grids, *(image for cell in made for image in cell.images)]
    processed.infotexts = [text] * max(len(plot.grids), 1) + [text for cell in made for text in cell.infotexts]
    processed.index_of_first_image = len(plot.grids)
    processed.all_prompts = [cell.prompt for cell in made] or processed.all_prompts
    processed.all_seeds = [cell.seed for cell in made] or processed.all_seeds
    processed.comments += "".join(f"{NAME}: {line}\n" for line in plot.told)
    if plot.found:
        found = {ANALYSIS: json.dumps(plot.found)}
        processed.extra_generation_params = {**processed.extra_generation_params, **found}
    return list(dict.fromkeys([*plot.messages, *plot.cell_warnings]))


def _axes(arguments: Arguments) -> dict[str, tuple[str, str]]:
    return {axis: (getattr(arguments, f"{axis}_type"), getattr(arguments, f"{axis}_values")) for axis in "xyz"}


def _meaning(maker: CellMaker) -> Meaning:
    return Meaning(maker.library, maker.family, draw=lambda: int(processing.get_fixed_seed(-1)))


def _plot_axes(plot: Plot, maker: CellMaker, arguments: Arguments) -> None:
    """Make an XYZ plot."""
    x, y, z = read_axes(_axes(arguments), _meaning(maker), plot.warn)
    if maker.is_within_limit(len(x.points) * len(y.points) * len(z.points)):
        plot.cells = maker.make([
            first.change & second.change & third.change
            for third, second, first in product(z.points, y.points, x.points)
        ])
        plot.grids = draw_grids(x, y, z, plot.cells)


def _analyze(plot: Plot, maker: CellMaker, arguments: Arguments) -> None:
    """Make the sheets of the Effective Block Analyzer, one for each seed, and the chart of them all."""
    inquiry = read_inquiry(
        arguments.analyzer_range, arguments.analyzer_blocks, _meaning(maker), plot.warn
    )
    if not inquiry.points:
        plot.warn("no analysis, because there is no block to examine; one image is made")
        return
    seeds = [Change(seed=int(maker.seed) + number) for number in range(arguments.seed_count)]
    changes = [inquiry.original(), *map(inquiry.examined, inquiry.points)]
    if not maker.is_within_limit(3 * len(inquiry.points) * len(seeds)):
        return
    plot.cells = maker.make([change & seed for seed in seeds for change in changes])
    percents: dict[str, list[float]] = {}
    for number, seed in enumerate(seeds):
        original, *examined = plot.cells[number * len(changes) : (number + 1) * len(changes)]
        if original is None or not any(examined):
            continue
        title = f"seed: {seed.seed}" if len(seeds) > 1 else ""
        plot.grids.append(_draw_sheet(inquiry, original, examined, arguments, title, percents))
    if not percents:
        return
    means = {label: sum(values) / len(values) for label, values in percents.items()}
    heading = f"weight {shown(inquiry.weight)} in one block, {shown(inquiry.other_weight)} in all others"
    plot.grids.append(image(effects.draw(percents, heading)))
    line = preset(inquiry, means)
    plot.told.append(line or "no block made a difference; try a range further apart, or a lower threshold")
    plot.found = {"percent": percents, "preset": line}


def _draw_sheet(
    inquiry: Inquiry, original: Made, examined: Sequence[Made | None], arguments: Arguments, title: str,
    percents: dict[str, list[float]],
) -> Image.Image:
    """Difference, image and original for each block that was examined, whose percentage goes into ``percents``."""
    rows: list[list[Image.Image | None]] = []
    labels = []
    for point, cell in zip(inquiry.points, examined, strict=True):
        if cell is None:
            continue
        picture, percent = difference(
            cell.picture, original.picture, arguments.threshold, arguments.difference_colour
        )
        percents.setdefault(point.label, []).append(percent)
        rows.append([picture, cell.picture, original.picture])
        labels.append(f"{point.label}\nDiff: {percent:.1f} %")
    columns = ["diff", shown(inquiry.weight), "source"]
    if arguments.swap_xy:
        turned = [row[column] for column in (2, 1, 0) for row in rows]
        return draw_table(turned, labels, columns[::-1], title)
    return draw_table([picture for row in rows for picture in row], columns, labels, title)
