"""Cells of a plot: each is a whole generation of the host's own, of a copy of the plot's processing object.

The copy is an ordinary request, whose tags and arguments say all that it needs: so its infotext makes the image again,
and generations that an extension makes inside it have the same weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from lbw.hosts.request import library_of, put, with_varied_rules
from lbw.hosts.serving import adapter
from lbw.hosts.settings import WARNINGS
from lbw.plots.axes import Change
from lbw.plots.tags import TagChange, has_mark, rewritten
from lbw.plots.vectors import changed, complement, varied_base
from lbw.request.arguments import Arguments
from lbw.tags.families import family_of_layers
from lbw.tags.library import INVERSE, VARIED
from lbw.tags.limits import MOST_CELLS
from lbw.tags.prompt import Warn
from lbw.tags.weights import Vector
from modules import images, processing, shared
from modules.shared import opts, state

logger = logging.getLogger("lbw")


@dataclass(frozen=True)
class Cell:
    """What tells a cell's generation from another's. ``rules`` are those of the rule set ``XYZ``; None: as it is."""

    prompts: tuple[str, ...]
    hr_prompt: str
    seed: Any
    rules: str | None


@dataclass
class Made:
    """A cell's images with their infotexts, and the one picture that stands for them in a grid."""

    picture: Image.Image
    images: list[Image.Image]
    infotexts: list[str]
    prompt: str
    seed: int


class CellMaker:
    """Makes the cells of one plot. ``warnings`` are what their generations told the user, ``summary`` how many it made.

    Args:
        p: the processing object that asks for the plot.
        arguments: those of its request.
        place: where in the host's list of all scripts' arguments ours are.
        warn: gets one message for each cell that failed, or for a plot that cannot be made.
    """

    def __init__(self, p: Any, arguments: Arguments, place: slice, warn: Warn) -> None:
        self._p = with_styles_written_out(p)
        self._arguments = arguments
        self._place = place
        self._warn = warn
        self._prompts = self._p.prompt if isinstance(self._p.prompt, list) else [self._p.prompt]
        self._hr_prompt = getattr(self._p, "hr_prompt", "")
        self.library = library_of(arguments)
        self.family = family_of_layers(adapter.layers())
        self.warnings: dict[str, None] = {}
        self.summary = ""

    @property
    def seed(self) -> Any:
        return self._p.seed

    def has_marked_tag(self) -> bool:
        """Whether there is anything that the plot can vary."""
        return any(map(has_mark, [*self._prompts, self._hr_prompt]))

    def is_within_limit(self, count: int) -> bool:
        """Whether a plot of so many images is made, and the host would make a grid of them; if not, it is said."""
        if count > MOST_CELLS:
            self._warn(f"no plot of {count} images; expected at most {MOST_CELLS}; one image is made")
            return False
        megapixels = round(count * self._p.width * self._p.height / 1e6)
        if megapixels < opts.img_max_size_mp:
            return True
        self._warn(
            f"no plot, because {count} images would be {megapixels} megapixels; expected less than "
            f"{opts.img_max_size_mp}, which is a setting of the host; one image is made"
        )
        return False

    def make(self, changes: Sequence[Change]) -> list[Made | None]:
        """The cells that have these changes, of which equal ones are made once; None for one that was not finished."""
        base = varied_base(self.library, self.family, self._warn)
        cells = [self._cell(base, change) for change in changes]
        different = dict.fromkeys(cells)
        state.job_count = len(different) * self._p.n_iter
        made: dict[Cell, Made | None] = {}
        for number, cell in enumerate(different, 1):
            if state.interrupted or getattr(state, "stopping_generation", False):
                break
            state.job = f"{number} out of {len(different)}"
            made[cell] = self._make_cell(cell)
        finished = sum(one is not None for one in made.values())
        same = len(cells) - len(different)
        self.summary = f"{finished} of {len(different)} cells"
        if same:
            self.summary += f"; {same} equal to another of them"
        return [made.get(cell) for cell in cells]

    def _cell(self, base: Vector, change: Change) -> Cell:
        vector = changed(base, change)
        tags = TagChange(
            weights=lambda own: vector.text if own == VARIED else None,
            strength=change.strength, start=change.start, stop=change.stop,
        )
        inverse = TagChange(weights=lambda own: complement(vector).text if own == INVERSE else None)
        rules = change.rules
        if rules is not None:
            rules = ",".join(filter(None, (self.library.rule_sets.get(VARIED), rules)))
        return Cell(
            prompts=tuple(rewritten(text, tags, inverse) for text in self._prompts),
            hr_prompt=rewritten(self._hr_prompt, tags, inverse),
            seed=self.seed if change.seed is None else change.seed,
            rules=rules,
        )

    def _make_cell(self, cell: Cell) -> Made | None:
        p = self._copy(cell)
        try:
            with closing(p):
                processed = processing.process_images(p)
        except Exception as error:  # the host's own plot goes on with its next cell, too
            logger.exception("LoRA Block Weight: a cell of a plot failed")
            self._warn(f"a cell of the plot failed: {type(error).__name__}: {error}")
            return None
        self.warnings |= dict.fromkeys(processed.extra_generation_params.get(WARNINGS, []))
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
        p = copy(self._p)
        p.prompt = list(cell.prompts) if isinstance(self._p.prompt, list) else cell.prompts[0]
        if cell.hr_prompt:
            p.hr_prompt = cell.hr_prompt
        p.seed = cell.seed
        p.extra_generation_params = dict(p.extra_generation_params)
        p.override_settings = dict(p.override_settings)
        arguments = replace(self._arguments, mode=0, schedule_picture=False)
        put(p, arguments if cell.rules is None else with_varied_rules(arguments, cell.rules), self._place)
        return p


def with_styles_written_out(p: Any) -> Any:
    """A copy of a processing object with the texts of its styles in its prompts: a style may hold a tag, too."""
    p = copy(p)
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
