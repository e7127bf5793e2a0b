"""The preset for tags without one of their own."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lbw.ui.tab import Tab


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
