"""The picture of a network file's strengths: a bar for each block, and below it the block's elements."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lbw.pictures import Theme, fonts, new_figure, plain, style
from lbw.strengths import Label, Strengths

_MOST_LABELLED_BLOCKS = 30
"""Beyond it, cells are too narrow for a number."""


def name_of(label: Label) -> str:
    """How a block or an element is called in pictures and tables."""
    return "other" if label is None else label


def percent(share: float) -> str:
    """A share as percent, of two digits that count: 0.0123 -> ``1.2``."""
    value = 100 * share
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}" if value >= 0.01 else "0"


def draw(strengths: Strengths, theme: Theme = Theme.LIGHT) -> Figure:
    """Bars and heat map share their x axis, the model's blocks. Where the network changes nothing there is no cell."""
    blocks, elements, cells = strengths.by_block(), list(strengths.by_element()), strengths.by_cell()
    rows = max(len(elements), 1)
    grid = np.full((rows, len(blocks)), np.nan)
    for column, block in enumerate(blocks):
        for row, element in enumerate(elements):
            if (block, element) in cells:
                grid[row, column] = 100 * cells[block, element].strength
    is_wide = len(blocks) > _MOST_LABELLED_BLOCKS
    colours = theme.colours
    figure = new_figure(1.6 + len(blocks) * (0.2 if is_wide else 0.36), 2.9 + 0.27 * rows, theme)
    heights = (1.9, 0.27 * rows)
    (bars,), (heat,) = figure.subplots(2, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    name, total = plain(strengths.name), strengths.total
    bars.bar(range(len(blocks)), [100 * norms.strength for norms in blocks.values()], color=colours.lines[0])
    bars.set_ylabel("% of the weights", fontsize=8)
    bars.set_title(
        f"{name}: {percent(total.strength)} % of the weights that it changes, in {total.layers} layers",
        fontsize=10, loc="left", color=colours.text, fontfamily=fonts(),
    )
    bars.grid(axis="y", color=colours.grid, linewidth=0.5)
    bars.set_axisbelow(True)
    bars.tick_params(labelbottom=False)

    shown = heat.imshow(
        np.ma.masked_invalid(grid), aspect="auto", cmap="viridis", vmin=0, interpolation="nearest"
    )
    middle = np.nanmax(grid, initial=0.0) / 2
    for row, column in np.argwhere(~np.isnan(grid)) if not is_wide else ():
        value = grid[row, column]
        heat.text(column, row, percent(value / 100), ha="center", va="center", fontsize=6.5,
                  color="black" if value > middle else "white")
    heat.set_xticks(range(len(blocks)), [name_of(block) for block in blocks], rotation=90)
    heat.set_yticks(range(len(elements)), [name_of(element) for element in elements])
    for axes in (bars, heat):
        style(axes, theme)
    bar = figure.colorbar(shown, ax=heat, pad=0.01, aspect=12)
    bar.ax.tick_params(colors=colours.text, labelsize=7)
    bar.ax.spines[:].set_color(colours.grid)
    return figure
