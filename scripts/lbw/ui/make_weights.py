"""Make Weights: a vector by sliders. All but the buttons is drawn by lbw_make_weights.js, on first sight."""

from __future__ import annotations

import json
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from lbw.tags.families import ORIGINAL_LAYOUTS
from lbw.tags.presets import with_preset
from lbw.ui.tab import Tab, on_click
from lbw.ui.text_file import TextFile

_LAYOUT_NAMES = {17: "17 (SD 1/2)", 26: "26 (SD 1/2, full)", 12: "12 (SDXL)", 20: "20 (SDXL, full)", 61: "61 (Flux)"}


def build(tab: Tab, file: TextFile) -> None:
    layouts = [{"name": name, "labels": ORIGINAL_LAYOUTS[length]} for length, name in _LAYOUT_NAMES.items()]
    with gr.Accordion("Make Weights", open=False, elem_id=tab.id("lbw_make_weights")):
        add = gr.Button("Add to presets", size="sm", elem_id=tab.id("lbw_add"))
        add_and_save = gr.Button(
            "Add to presets and Save", size="sm", variant="primary", elem_id=tab.id("lbw_add_save")
        )
        said = gr.HTML(elem_id=tab.id("lbw_made_notes"), value='<div class="lbw-said" role="status"></div>')
        gr.HTML(
            elem_id=tab.id("lbw_sliders"),
            value=f'<div class="lbw-make" data-layouts="{escape(json.dumps(layouts))}"></div>',
        )

    def on_add(and_save: bool, text: str, vector: str, identifier: str, loaded: str | None) -> list[Any]:
        try:
            text = with_preset(text, identifier, vector)
        except ValueError as error:
            return [gr.update(), *[gr.update()] * len(file.saved), _said(f"Not added: {error}.")]
        version, *content = file.on_check(text, loaded)
        saved = file.on_save(text, loaded) if and_save else [version, gr.update(), *content]
        return [text, *saved, _said(f"{identifier.strip()} added to the presets.")]

    for button, and_save in ((add, False), (add_and_save, True)):
        on_click(
            button, partial(on_add, and_save),
            [file.area, tab.asked, tab.asked, file.loaded], [file.area, *file.saved, said],
            f"(text, vector, name, loaded) => [text, ...loraBlockWeight.made('{tab.name}'), loaded]",
        )


def _said(message: str) -> str:
    return f'<div class="lbw-said" role="status">{escape(message)}</div>'
