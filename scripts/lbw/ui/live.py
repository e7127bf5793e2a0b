"""Live: the LoRAs' strengths while an image is made, and a hand on them. All of it is done in the browser, by
lbw_live.js, which asks :mod:`lbw.request.live_routes`."""

from __future__ import annotations

import gradio as gr

from lbw.ui.tab import Tab


def build(tab: Tab) -> None:
    with gr.Accordion("Live", open=False, elem_id=tab.id("lbw_live")):
        gr.HTML(elem_id=tab.id("lbw_live_loras"), value='<div class="lbw-make lbw-live"></div>')
