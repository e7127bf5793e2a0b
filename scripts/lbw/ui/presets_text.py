"""Weights setting: the presets, and Make Weights, which adds to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from lbw.presets import DEFAULT_PRESETS, parse_presets
from lbw.ui.tab import Tab
from lbw.ui.text_file import TextFile
from lbw.weights import blocks_on


def build(
    tab: Tab, path: Path, preset: Any, default_preset: Any, make_weights: Callable[[Tab, TextFile], None]
) -> Any:
    """Make both sections; returns the text box."""
    file = TextFile(
        tab, "lbw", "lbw", path, DEFAULT_PRESETS, parse_presets, blocks_on,
        by_name=[default_preset], described=[preset],
    )
    with gr.Accordion("Weights setting", open=False, elem_id=tab.id("lbw_weights_setting")):
        info = "One a line, NAME: and 12, 17, 20, 26 or 61 values. In a prompt: <lora:name:1:lbw=NAME>"
        file.build("Presets", info, "lbw_ratiospreset", "lbw_ratios")
    make_weights(tab, file)
    return file.area
