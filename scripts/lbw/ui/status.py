"""What the last generation of this tab did. The browser copies it from the tab's own result, see lbw_panel.js."""

from __future__ import annotations

import gradio as gr

from lbw.ui.tab import Tab


def build(tab: Tab) -> None:
    gr.HTML(elem_id=tab.id("lbw_status"), value='<div class="lbw-status" role="status"></div>')
