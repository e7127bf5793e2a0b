"""The rows that write into the prompt's LoRA tags, and the status. Both are done in the browser, by lbw_prompt.js and
lbw_panel.js."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lbw.ui.tab import Tab, on_click_in_browser
from modules.ui_components import FormRow, ToolButton

_SYMBOL = "\u21b5"
_WHERE = "into the LoRA tag at the cursor, or into all LoRA tags if the cursor is in none"


@dataclass(frozen=True)
class InsertRow:
    """The dropdowns, whose choices other sections renew."""

    preset: Any
    rule_set: Any
    default_preset: Any


def build(tab: Tab) -> InsertRow:
    with FormRow(variant="compact", elem_id=tab.id("lbw_insert"), elem_classes=["lbw-insert"]):
        preset = _dropdown(tab, "Preset", "lbw_insert_preset")
        _button(tab, "lbw", f"Put :lbw=PRESET {_WHERE}", [preset])
        rule_set = _dropdown(tab, "Element rules", "lbw_insert_rules")
        _button(tab, "lbwe", f"Put :lbwe=RULES {_WHERE}", [rule_set])
    with FormRow(variant="compact", elem_id=tab.id("lbw_defaults"), elem_classes=["lbw-insert"]):
        start = _step(tab, "Start", "lbw_insert_start")
        stop = _step(tab, "Stop", "lbw_insert_stop")
        _button(tab, "steps", f"Put :start= and :stop= {_WHERE}", [start, stop])
        default_preset = gr.Dropdown(
            label="Default preset",
            choices=[""],
            value="",
            allow_custom_value=True,
            interactive=True,
            elem_id=tab.id("lbw_default_preset"),
            tooltip="For every LoRA tag of this tab that has no lbw= of its own; empty: none",
            scale=4,
            min_width=140,
        )
    # The browser fills both lines: what was put into the prompt, and what the last generation of this tab did.
    gr.HTML(
        elem_id=tab.id("lbw_status"),
        value='<div class="lbw-said" role="status"></div><div class="lbw-status" role="status"></div>',
    )
    return InsertRow(preset, rule_set, default_preset)


def _dropdown(tab: Tab, label: str, elem_id: str) -> Any:
    dropdown = gr.Dropdown(label=label, choices=[""], value="", elem_id=tab.id(elem_id), scale=4, min_width=140)
    dropdown.do_not_save_to_config = True
    return dropdown


def _step(tab: Tab, label: str, elem_id: str) -> Any:
    step = gr.Textbox(
        label=label, value="", placeholder="step", lines=1, max_lines=1, elem_id=tab.id(elem_id), scale=1, min_width=90
    )
    step.do_not_save_to_config = True
    return step


def _button(tab: Tab, key: str, tooltip: str, inputs: list[Any]) -> None:
    button = ToolButton(_SYMBOL, elem_id=tab.id(f"lbw_put_{key}"), tooltip=tooltip)
    on_click_in_browser(
        button, f"(...values) => {{ loraBlockWeight.put('{tab.name}', '{key}', values); return []; }}", inputs
    )
