"""The picture of what the Effective Block Analyzer found: a bar for each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lbw.pictures import Theme, new_figure, plain, style


def draw(percents: Mapping[str, Sequence[float]], title: str, theme: Theme = Theme.LIGHT) -> Figure:
    """Bars of percentages: the mean of all seeds, with a dot for each seed where there are several.

    Args:
        percents: {block: the percentage that each seed gave}.
    """
    rows = range(len(percents))
    means = [float(np.mean(values)) for values in percents.values()]
    colours = theme.colours
    figure = new_figure(7, 1.2 + 0.26 * len(percents), theme)
    axes = figure.add_subplot()
    axes.barh(rows, means, color=colours.lines[0], height=0.7)
    for row, mean, values in zip(rows, means, percents.values(), strict=True):
        if len(values) > 1:
            axes.plot(values, [row] * len(values), "o", color=colours.lines[1], markersize=3)
        axes.annotate(
            f"{mean:.2f} %", (max(values), row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8,
            color=colours.text,
        )
    axes.set_yticks(rows, [plain(label, 30) for label in percents])
    axes.invert_yaxis()
    axes.margins(x=0.14, y=0.01)
    axes.set_xlim(left=0)
    axes.set_xlabel("of the image differs (%)", fontsize=9)
    axes.set_title(plain(title, 90), fontsize=10, loc="left", color=colours.text)
    axes.spines[["top", "right"]].set_visible(False)
    style(axes, theme)
    return figure
