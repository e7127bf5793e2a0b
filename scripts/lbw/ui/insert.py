"""The row that writes into the prompt's LoRA tags, and the status. Both are made in the browser, by lbw_insert.js and
lbw_panel.js. And the preset for tags without one of their own."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lbw.ui.tab import Tab


def build(tab: Tab) -> None:
    """Make the top of the panel."""
    # The two lines of the status: what was put into the prompt, and what the last generation of this tab did.
    gr.HTML(
        elem_id=tab.id("lbw_status"),
        value='<div class="lbw-make lbw-insert"></div>'
        '<div class="lbw-said" role="status"></div><div class="lbw-status" role="status"></div>',
    )


def build_default_preset(tab: Tab) -> Any:
    """Make the dropdown of the argument ``default_preset``."""
    return gr.Dropdown(
        label="Default preset",
        choices=[""],
        value="",
        allow_custom_value=True,
        interactive=True,
        elem_id=tab.id("lbw_default_preset"),
        tooltip="For every LoRA tag of this tab that has no lbw= of its own; empty: none",
    )
