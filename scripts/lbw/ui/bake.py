"""Bake: tags of a prompt as one network file. All of it is done in the browser, by lbw_bake.js, which asks
:mod:`lbw.request.bake_routes`."""

from __future__ import annotations

import gradio as gr

from lbw.ui.tab import Tab


def build(tab: Tab) -> None:
    with gr.Accordion("Bake", open=False, elem_id=tab.id("lbw_bake")):
        gr.HTML(elem_id=tab.id("lbw_bake_form"), value='<div class="lbw-make lbw-bake"></div>')
