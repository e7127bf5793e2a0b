"""Curve: a strength or block weights over the pass, drawn by hand. All of it is done in the browser, by
lbw_curve_editor.js."""

from __future__ import annotations

import gradio as gr

from lbw.ui.tab import Tab


def build(tab: Tab) -> None:
    with gr.Accordion("Curve", open=False, elem_id=tab.id("lbw_curve")):
        gr.HTML(elem_id=tab.id("lbw_curve_editor"), value='<div class="lbw-make"></div>')
