"""The schedule picture: each LoRA's strength over the steps of each pass, and its blocks where they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lbw.pictures import Theme, fonts, new_figure, plain, style
from lbw.plan.courses import Course, courses
from lbw.plan.plan import Pass

_WIDTH, _LINES, _ROW, _EDGES = 6.6, 2.1, 0.15, 0.55
"""In inches: the picture, a pass's lines, a row of blocks, and what surrounds the rows."""

MOST_LINES = 14
MOST_MAPS = 4
PASSES = ("First pass", "Hires pass")


@dataclass(frozen=True)
class _Part:
    """One of the picture's plots; ``draw`` returns what stands above it."""

    title: str
    steps: int
    height: float
    draw: Callable[[Axes], str]


def draw(passes: Sequence[Pass], theme: Theme = Theme.LIGHT) -> Figure:
    """A plot of lines for each pass, and below it a map of blocks and steps for each LoRA whose blocks differ.

    What is beyond ``MOST_LINES`` and ``MOST_MAPS`` in a pass is not drawn, and the title says so.
    """
    parts: list[_Part] = []
    for title, made in zip(PASSES, passes, strict=False):
        found = courses(made)
        parts.append(_Part(title, made.steps, _LINES, partial(_draw_lines, found, theme, made.steps)))
        for course in [course for course in found if course.blocks][:MOST_MAPS]:
            height = _EDGES + _ROW * len(course.blocks)
            parts.append(_Part(title, made.steps, height, partial(_draw_map, course, theme, made.steps)))
    heights = [part.height for part in parts]
    figure = new_figure(_WIDTH, sum(heights) + 0.3, theme)
    rows = figure.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (axes,), part in zip(rows, parts, strict=True):
        heading = f"{part.title}: {part.draw(axes)}"
        axes.set_title(heading, fontsize=9, loc="left", color=theme.colours.text, fontfamily=fonts())
        axes.set_xlim(0, part.steps)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        style(axes, theme)
    rows[-1][0].set_xlabel("step", fontsize=8, color=theme.colours.text)
    return figure


def _draw_lines(found: Sequence[Course], theme: Theme, steps: int, axes: Axes) -> str:
    """The strengths of all LoRAs of a pass; where lines are one on the other, the lower ones are wider."""
    colours = theme.colours
    shown = found[:MOST_LINES]
    for number, course in enumerate(shown):
        axes.stairs(
            course.strengths, range(steps + 1), baseline=None, label=f"<lora:{plain(course.name, 30)}>",
            color=colours.lines[number % len(colours.lines)],
            linewidth=1.4 + 1.6 * (len(shown) - 1 - number) / len(shown),
        )
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.05), max(high, 1.05))
    axes.grid(color=colours.grid, linewidth=0.5)
    axes.set_axisbelow(True)
    legend = axes.legend(fontsize=7.5, facecolor=colours.background, edgecolor=colours.grid, labelcolor=colours.text)
    for text in legend.get_texts():
        text.set_fontfamily(fonts())
    left_out = [f"{len(found) - len(shown)} more LoRAs"] if len(found) > len(shown) else []
    maps = sum(bool(course.blocks) for course in found)
    left_out += [f"blocks of {maps - MOST_MAPS} more"] if maps > MOST_MAPS else []
    return "strength in the U-Net" + (f" (not drawn: {', '.join(left_out)})" if left_out else "")


def _draw_map(course: Course, theme: Theme, steps: int, axes: Axes) -> str:
    """The strengths of one LoRA in each block, with its block weights; the text encoder has one for the whole pass."""
    grid = np.array(list(course.blocks.values()))
    low, high = min(0.0, float(grid.min())), max(1.0, float(grid.max()))
    shown = axes.imshow(
        grid, aspect="auto", cmap="viridis", vmin=low, vmax=high, interpolation="nearest",
        extent=(0, steps, len(grid) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(grid)), list(course.blocks), fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    assert axes.figure is not None
    bar = axes.figure.colorbar(shown, ax=axes, pad=0.015, aspect=25)
    bar.ax.tick_params(colors=theme.colours.text, labelsize=7)
    bar.ax.spines[:].set_color(theme.colours.grid)
    return f"<lora:{plain(course.name, 40)}> in each block"
