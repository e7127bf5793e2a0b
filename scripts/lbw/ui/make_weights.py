"""Make Weights: block weights by sliders. All but the buttons is drawn by lbw_make_weights.js, on first sight."""

from __future__ import annotations

import json
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from lbw.request.model_routes import family_data
from lbw.tags.families import KNOWN
from lbw.tags.named_weights import as_preset
from lbw.tags.presets import with_preset
from lbw.ui.tab import Tab, on_click
from lbw.ui.text_file import TextFile

_FIRST = ("SD1/SD2", "SDXL", "SD3", "SD3.5 large", "Flux")
"""The families that stand first; the others are in the order of their table."""


def build(tab: Tab, file: TextFile) -> None:
    families = sorted(KNOWN, key=lambda family: (*_FIRST, family.title).index(family.title))
    data = escape(json.dumps([*map(family_data, families)]))
    with gr.Accordion("Make Weights", open=False, elem_id=tab.id("lbw_make_weights")):
        add = gr.Button("Add to presets", size="sm", elem_id=tab.id("lbw_add"))
        add_and_save = gr.Button(
            "Add to presets and Save", size="sm", variant="primary", elem_id=tab.id("lbw_add_save")
        )
        said = gr.HTML(elem_id=tab.id("lbw_made_notes"), value='<div class="lbw-said" role="status"></div>')
        gr.HTML(elem_id=tab.id("lbw_sliders"), value=f'<div class="lbw-make" data-families="{data}"></div>')

    def on_add(and_save: bool, text: str, weights: str, identifier: str, loaded: str | None) -> list[Any]:
        try:
            text = with_preset(text, identifier, as_preset(weights))
        except ValueError as error:
            return [gr.update(), *[gr.update()] * len(file.saved), _said(f"Not added: {error}.")]
        version, *content = file.on_check(text, loaded)
        saved = file.on_save(text, loaded) if and_save else [version, gr.update(), *content]
        return [text, *saved, _said(f"{identifier.strip()} added to the presets.")]

    for button, and_save in ((add, False), (add_and_save, True)):
        on_click(
            button, partial(on_add, and_save),
            [file.area, tab.asked, tab.asked, file.loaded], [file.area, *file.saved, said],
            f"(text, weights, name, loaded) => [text, ...loraBlockWeight.made('{tab.name}'), loaded]",
        )


def _said(message: str) -> str:
    return f'<div class="lbw-said" role="status">{escape(message)}</div>'
