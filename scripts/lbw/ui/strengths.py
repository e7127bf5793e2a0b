"""Strength of a LoRA: a picture of what a network file changes, block by block and element by element."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape
from typing import Any

from lbw.engine.strengths import Norms, Strengths, UnmeasurableError
from lbw.pictures import Theme, png
from lbw.pictures.strengths import draw, name_of, percent
from lbw.tags.limits import shortened


def strengths_html(name: str | None, theme: str, measure: Callable[[str], Strengths]) -> str:
    """The picture of a network's strengths, with its numbers as a table that opens; or why there is none."""
    if not name:
        return said_html("Choose a LoRA first.")
    try:
        strengths = measure(name)
    except UnmeasurableError as error:
        return said_html(f"{error}.")
    return picture_html(
        png(draw(strengths, Theme.DARK if theme == Theme.DARK.value else Theme.LIGHT)), _in_words(strengths)
    ) + said_html(shortened("; ".join(strengths.messages), 400)) + _table(strengths)


def picture_html(image: bytes, in_words: str) -> str:
    """A PNG file as an element of the page."""
    data = base64.b64encode(image).decode()
    return f'<img class="lbw-plot" src="data:image/png;base64,{data}" alt="{escape(in_words)}">'


def said_html(message: str) -> str:
    """A message, which is read out."""
    return f'<div class="lbw-said" role="status">{escape(message)}</div>'


def _no_word(value: Any) -> str:
    """The mark for names of blocks and elements, which are the same in all languages."""
    return "" if value in ("other", "all blocks", "all elements", "% of the weights") else ' translate="no"'


def _in_words(strengths: Strengths) -> str:
    blocks = sorted(strengths.by_block().items(), key=lambda item: -item[1].strength)
    strongest = ", ".join(f"{name_of(block)} {percent(norms.strength)} %" for block, norms in blocks[:5])
    return f"Strength of {shortened(strengths.name)} by block and element; the strongest blocks: {strongest}"


def _table(strengths: Strengths) -> str:
    blocks, elements, cells = strengths.by_block(), strengths.by_element(), strengths.by_cell()

    def row(kind: str, title: str, values: list[Any]) -> str:
        items = "".join(f"<{kind}{_no_word(value)}>{escape(str(value))}</{kind}>" for value in values)
        return f'<tr><th scope="row"{_no_word(title)}>{escape(title)}</th>{items}</tr>'

    rows = [
        row("td", name_of(block), [
            percent(norms.strength),
            *(percent(cells[block, element].strength) if (block, element) in cells else "" for element in elements),
        ])
        for block, norms in blocks.items()
    ]
    total: list[Norms] = [strengths.total, *elements.values()]
    rows.append(row("td", "all blocks", [percent(norms.strength) for norms in total]))
    head = row("th", "% of the weights", ["all elements", *map(name_of, elements)])
    return (
        '<details class="lbw-numbers"><summary>Numbers</summary><div class="lbw-scroll" tabindex="0" role="region" '
        f'aria-label="Numbers"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div></details>'
    )
