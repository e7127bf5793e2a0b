"""Plots: the images of a request's cells, made one after the other inside the generation that asked for them.

Each cell is a whole generation of the host's own, of a copy of the processing object whose tags say what the cell has.
The generation that asked for the plot makes no image itself: it hands out theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any

from PIL import Image

from lbw import infotext
from lbw.api import MODES, Arguments
from lbw.blocks import family_of_layers
from lbw.hosts.a1111.model import host
from lbw.hosts.a1111.preset_files import library, recalled, rule_set_text
from lbw.hosts.a1111.settings import NAME, WARNINGS
from lbw.plots.axes import Axis, Change, Meaning, read_axes
from lbw.plots.tags import INVERSE, VARIED, TagChange, has_mark, rewritten
from lbw.plots.vectors import changed, complement, ones
from modules import images, processing, shared
from modules.shared import opts, state

logger = logging.getLogger("lbw")

_PLOT = "lora_block_weight_plot"
"""The attribute of the host's processing object that holds its plot."""


@dataclass(frozen=True)
class Cell:
    """What tells a cell's generation from another's. ``elements`` is the argument of this name."""

    prompts: tuple[str, ...]
    hr_prompt: str
    seed: Any
    elements: str


@dataclass
class Made:
    """A cell's images with their infotexts, and the one picture that stands for them in a grid."""

    picture: Image.Image
    images: list[Image.Image]
    infotexts: list[str]
    prompt: str
    seed: int


@dataclass
class Plot:
    """What came of a request for a plot. One that has no ``cells`` could not be made.

    ``messages`` are about the plot, ``cell_warnings`` those of its cells' generations, which have told them.
    """

    saves_grids: bool
    messages: list[str] = field(default_factory=list)
    cell_warnings: dict[str, None] = field(default_factory=dict)
    cells: list[Made | None] = field(default_factory=list)
    grids: list[Image.Image] = field(default_factory=list)
    summary: str = ""


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
    plot = Plot(saves_grids=opts.grid_save and not p.do_not_save_grid)
    setattr(p, _PLOT, plot)
    if p.script_args[0]:
        plot.messages.append(f"no {mode}, because a script is chosen in the Script menu")
    elif getattr(p, "txt2img_upscale", False):
        plot.messages.append(f"no {mode}, because one image is to be upscaled")
    elif mode != "XYZ plot":
        plot.messages.append(f"mode {mode} is not available yet; one image is made")
    else:
        _Maker(p, arguments, place, plot).make()
    if plot.cells:
        p.do_not_save_grid = True
        p.extra_generation_params[infotext.PLOT] = infotext.plot(arguments)
        for message in plot.messages:
            logger.warning("%s: %s", NAME, message)
            p.comment(f"{NAME}: {message}")


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
        if opts.enable_pnginfo:
            grid.info["parameters"] = text
        if plot.saves_grids:
            images.save_image(
                grid, p.outpath_grids, "lbw_grid", info=text, extension=opts.grid_format, prompt=p.all_prompts[0],
                seed=p.all_seeds[0], grid=True, p=processed,
            )
    processed.images = [*plot.grids, *(image for cell in made for image in cell.images)]
    processed.infotexts = [text] * max(len(plot.grids), 1) + [text for cell in made for text in cell.infotexts]
    processed.index_of_first_image = len(plot.grids)
    processed.all_prompts = [cell.prompt for cell in made] or processed.all_prompts
    processed.all_seeds = [cell.seed for cell in made] or processed.all_seeds
    processed.comments += f"{NAME}: {plot.summary}\n"
    return list(dict.fromkeys([*plot.messages, *plot.cell_warnings]))


class _Maker:
    """Makes one plot."""

    def __init__(self, p: Any, arguments: Arguments, place: slice, plot: Plot) -> None:
        processing.fix_seed(p)
        self._p = _with_styles_written_out(p)
        self._arguments = arguments
        self._place = place
        self._plot = plot
        self._library = recalled(library(arguments), arguments, lambda _message: None)
        self._family = family_of_layers(host.layers())
        self._prompts = self._p.prompt if isinstance(self._p.prompt, list) else [self._p.prompt]
        self._hr_prompt = getattr(self._p, "hr_prompt", "")

    def make(self) -> None:
        arguments, plot = self._arguments, self._plot
        given = {
            "X": (arguments.x_type, arguments.x_values),
            "Y": (arguments.y_type, arguments.y_values),
            "Z": (arguments.z_type, arguments.z_values),
        }
        if not any(map(has_mark, [*self._prompts, self._hr_prompt])):
            if any(kind != "none" for kind, _values in given.values()):
                plot.messages.append(f"no plot, because no LoRA tag has lbw={VARIED}; one image is made")
            return
        meaning = Meaning(self._library, self._family, lambda: int(processing.get_fixed_seed(-1)))
        x, y, z = read_axes(given, meaning, plot.messages.append)
        changes = [
            first.change & second.change & third.change
            for third in z.points for second in y.points for first in x.points
        ]
        if not self._fits(len(changes)):
            return
        plot.cells = self._make_cells([self._cell(change) for change in changes])
        plot.grids = draw_grids(x, y, z, plot.cells)

    def _fits(self, count: int) -> bool:
        megapixels = round(count * self._p.width * self._p.height / 1e6)
        if megapixels < opts.img_max_size_mp:
            return True
        self._plot.messages.append(
            f"no plot, because {count} images would be {megapixels} megapixels; expected less than "
            f"{opts.img_max_size_mp}, which is a setting of the host; one image is made"
        )
        return False

    def _cell(self, change: Change) -> Cell:
        vector = changed(self._library.presets.get(VARIED, ones(self._family)), change)
        tags = TagChange(
            weights=lambda own: vector if own == VARIED else None,
            strength=change.strength, start=change.start, stop=change.stop,
        )
        inverse = TagChange(weights=lambda own: complement(vector) if own == INVERSE else None)
        elements = self._arguments.elements
        if change.rules is not None:
            rules = ",".join(filter(None, (self._library.rule_sets.get(VARIED), change.rules)))
            elements = f"{elements or rule_set_text()}\n\n{VARIED}:{rules}\n"
        return Cell(
            prompts=tuple(rewritten(text, tags, inverse) for text in self._prompts),
            hr_prompt=rewritten(self._hr_prompt, tags, inverse),
            seed=self._p.seed if change.seed is None else change.seed,
            elements=elements,
        )

    def _make_cells(self, cells: Sequence[Cell]) -> list[Made | None]:
        """The images of the cells, of which equal ones are made once; None for one that was not finished."""
        different = dict.fromkeys(cells)
        state.job_count = len(different) * self._p.n_iter
        made: dict[Cell, Made | None] = {}
        for number, cell in enumerate(different, 1):
            if state.interrupted or state.stopping_generation:
                break
            state.job = f"{number} out of {len(different)}"
            made[cell] = self._make_cell(cell)
        finished = sum(one is not None for one in made.values())
        same = len(cells) - len(different)
        self._plot.summary = (
            f"{MODES[self._arguments.mode]}: {finished} of {len(different)} cells"
            + (f"; {same} equal to another of them" if same else "")
        )
        return [made.get(cell) for cell in cells]

    def _make_cell(self, cell: Cell) -> Made | None:
        p = self._copy(cell)
        try:
            with closing(p):
                processed = processing.process_images(p)
        except Exception as error:  # the host's own plot goes on with its next cell, too
            logger.exception("LoRA Block Weight: a cell of a plot failed")
            self._plot.messages.append(f"a cell of the plot failed: {type(error).__name__}: {error}")
            return None
        self._plot.cell_warnings |= dict.fromkeys(processed.extra_generation_params.get(WARNINGS, []))
        if state.interrupted or state.skipped or not processed.images:
            return None
        first = processed.index_of_first_image
        pictures = processed.images[first:]
        return Made(
            picture=processed.images[0] if first or len(pictures) == 1 else images.image_grid(pictures, p.batch_size),
            images=pictures,
            infotexts=processed.infotexts[first:],
            prompt=cell.prompts[0],
            seed=processed.seed,
        )

    def _copy(self, cell: Cell) -> Any:
        """The processing object of a cell: an ordinary request, whose tags and arguments say all that it needs."""
        p = copy(self._p)
        p.prompt = list(cell.prompts) if isinstance(self._p.prompt, list) else cell.prompts[0]
        if cell.hr_prompt:
            p.hr_prompt = cell.hr_prompt
        p.seed = cell.seed
        p.extra_generation_params = dict(p.extra_generation_params)
        p.override_settings = dict(p.override_settings)
        arguments = replace(self._arguments, mode=0, elements=cell.elements)
        values = list(p.script_args)
        values[self._place] = [getattr(arguments, item.name) for item in fields(arguments)]
        p.script_args = tuple(values)
        return p


def _with_styles_written_out(p: Any) -> Any:
    """A copy of a processing object with the texts of its styles in its prompts: a style may hold a tag, too."""
    p = copy(p)
    forget(p)
    styles = shared.prompt_styles
    for name, apply in (
        ("prompt", styles.apply_styles_to_prompt),
        ("negative_prompt", styles.apply_negative_styles_to_prompt),
        ("hr_prompt", styles.apply_styles_to_prompt),
        ("hr_negative_prompt", styles.apply_negative_styles_to_prompt),
    ):
        text = getattr(p, name, "")
        if isinstance(text, list):
            setattr(p, name, [apply(one, p.styles) for one in text])
        elif text or not name.startswith("hr_"):  # an empty one of the hires pass means the other, with its styles
            setattr(p, name, apply(text, p.styles))
    p.styles = []
    return p


def draw_grids(x: Axis, y: Axis, z: Axis, cells: Sequence[Made | None]) -> list[Image.Image]:
    """A grid for each point of z; none where no cell was made. A cell that is missing stays empty."""
    if not any(cells):
        return []
    pictures = [cell.picture for cell in cells if cell is not None]
    width, height = max(image.width for image in pictures), max(image.height for image in pictures)
    empty = Image.new("RGB", (width, height), opts.grid_background_color)
    size = len(x.points) * len(y.points)
    grids = []
    for number, point in enumerate(z.points):
        plane = cells[number * size : (number + 1) * size]
        grid = images.image_grid([empty if cell is None else cell.picture for cell in plane], rows=len(y.points))
        labels = [point.label for point in x.points], [point.label for point in y.points]
        grid = with_labels(grid, width, height, *labels)
        if point.label:
            grid = with_labels(grid, grid.width, grid.height, [point.label], [""])
        grids.append(grid)
    return grids


def with_labels(
    grid: Image.Image, width: int, height: int, columns: Sequence[str], rows: Sequence[str]
) -> Image.Image:
    """A grid of cells of one size with a text above each column, and one beside each row."""
    above, beside = ([[images.GridAnnotation(text)] for text in texts] for texts in (columns, rows))
    return images.draw_grid_annotations(grid, width, height, above, beside)
