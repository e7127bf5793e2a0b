"""Weights setting: the presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lbw.tags.presets import DEFAULT_PRESETS, ORIGINAL_PRESETS, parse_joined_presets
from lbw.tags.weights import blocks_on
from lbw.ui.tab import Tab
from lbw.ui.text_file import TextFile
from modules.ui_components import FormRow


def build(tab: Tab, path: Path, default_preset: Any) -> TextFile:
    """Make the section; the dropdown offers the presets' names."""
    file = TextFile(
        tab, "lbw", "lbw", path, DEFAULT_PRESETS, parse_joined_presets,
        describe=_in_words, earlier_default=ORIGINAL_PRESETS, by_name=[default_preset],
    )
    with gr.Accordion("Weights setting", open=False, elem_id=tab.id("lbw_weights_setting")):
        with FormRow(variant="compact"):
            file.build_buttons()
        info = "One a line, NAME: and values, or blocks by name. In a prompt: <lora:name:1:lbw=NAME>"
        file.build_text("Presets", info, "lbw_ratiospreset", "lbw_ratios")
    return file


def _in_words(preset: str) -> str:
    """What a preset turns on, by the last of its lines."""
    *others, last = preset.splitlines()
    return blocks_on(last) + (f"; {len(others)} more line{'s' * (len(others) > 1)}" if others else "")
