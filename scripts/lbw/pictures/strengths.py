"""The picture of a network file's strengths: a bar for each block, and below it the block's elements."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lbw.engine.strengths import Label, Strengths
from lbw.pictures import Theme, fonts, new_figure, plain, style

_ROW, _COLUMN = 0.205, 0.42
"""Of the cells, in inches."""


def name_of(label: Label) -> str:
    """How a block or an element is called in pictures and tables."""
    return "other" if label is None else label


def percent(share: float) -> str:
    """A share as percent, of two digits that count: 0.0123 -> ``1.2``."""
    value = 100 * share
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}" if value >= 0.01 else "0"


def draw(strengths: Strengths, theme: Theme = Theme.LIGHT) -> Figure:
    """Bars and heat map share their y axis, the model's blocks. Where the network changes nothing there is no cell."""
    blocks, elements, cells = strengths.by_block(), list(strengths.by_element()), strengths.by_cell()
    grid = np.full((len(blocks), max(len(elements), 1)), np.nan)
    for row, block in enumerate(blocks):
        for column, element in enumerate(elements):
            if (block, element) in cells:
                grid[row, column] = 100 * cells[block, element].strength
    colours = theme.colours
    widths = (2.2, _COLUMN * grid.shape[1])
    figure = new_figure(sum(widths) + 1.5, _ROW * len(blocks) + 1.1, theme)
    ((bars, heat),) = figure.subplots(1, 2, sharey=True, squeeze=False, gridspec_kw={"width_ratios": widths})
    name, total = plain(strengths.name, 40), strengths.total
    figure.suptitle(
        f"{name}: {percent(total.strength)} % of the weights that it changes, in {total.layers} layers",
        fontsize=9.5, color=colours.text, fontfamily=fonts(),
    )

    shown = heat.imshow(np.ma.masked_invalid(grid), aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    middle = np.nanmax(grid, initial=0.0) / 2
    for row, column in np.argwhere(~np.isnan(grid)):
        value = grid[row, column]
        colour = "black" if value > middle else "white"
        heat.text(column, row, percent(value / 100), ha="center", va="center", fontsize=7.5, color=colour)
    heat.set_xticks(range(len(elements)), [name_of(element) for element in elements], rotation=60, ha="left")
    heat.xaxis.tick_top()
    heat.tick_params(labelleft=False, length=0)

    bars.barh(range(len(blocks)), [100 * norms.strength for norms in blocks.values()], color=colours.lines[0])
    bars.set_yticks(range(len(blocks)), [name_of(block) for block in blocks])
    bars.set_xlabel("% of the weights", fontsize=8)
    bars.grid(axis="x", color=colours.grid, linewidth=0.5)
    bars.set_axisbelow(True)
    for axes in (bars, heat):
        style(axes, theme)
    bar = figure.colorbar(shown, ax=heat, pad=0.02, aspect=40)
    bar.ax.tick_params(colors=colours.text, labelsize=7)
    bar.ax.spines[:].set_color(colours.grid)
    return figure
