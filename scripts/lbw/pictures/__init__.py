"""Pictures by matplotlib. Figures are made without pyplot, whose state all threads share."""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import Enum
from functools import cache

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lbw.tags.limits import shortened

DOTS_PER_INCH = 110

_FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Yu Gothic", "Microsoft YaHei",
    "Malgun Gothic", "Hiragino Sans", "PingFang SC", "WenQuanYi Zen Hei", "IPAexGothic",
)
"""What names of networks are written with, where it is installed: the first that has a character draws it."""


@dataclass(frozen=True)
class Colours:
    background: str
    text: str
    grid: str
    lines: tuple[str, ...]


class Theme(str, Enum):
    """The page's theme."""

    LIGHT = "light"
    DARK = "dark"

    @property
    def colours(self) -> Colours:
        return _COLOURS[self]


_COLOURS = {
    Theme.LIGHT: Colours(
        "#ffffff", "#1f2937", "#d1d5db", ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#be185d", "#4d7c0f")
    ),
    Theme.DARK: Colours(
        "#0b0f19", "#f3f4f6", "#374151", ("#fb923c", "#60a5fa", "#4ade80", "#c084fc", "#22d3ee", "#f472b6", "#a3e635")
    ),
}


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure; sizes in inches."""
    colour = theme.colours.background
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=colour, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, theme: Theme) -> None:
    """Give axes the theme's colours."""
    colours = theme.colours
    axes.set_facecolor(colours.background)
    axes.tick_params(colors=colours.text, labelsize=8)
    axes.spines[:].set_color(colours.grid)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(colours.text)


@cache
def fonts() -> list[str]:
    """Those of the fonts that are installed; the first comes with matplotlib."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in installed]


@cache
def _characters() -> frozenset[int]:
    paths = [font_manager.findfont(name) for name in fonts()]
    return frozenset(code for path in paths for code in font_manager.get_font(path).get_charmap())


def plain(text: str, length: int = 60) -> str:
    """A text from outside as matplotlib can show it: cut, with ? for what no font has, and without formulas."""
    shown = (letter if ord(letter) in _characters() else "?" for letter in shortened(text, length))
    return "".join(shown).replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def image(figure: Figure) -> Image.Image:
    """The figure as an image among others."""
    with Image.open(io.BytesIO(png(figure))) as drawn:
        return drawn.convert("RGB")
