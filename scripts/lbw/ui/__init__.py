"""The panel: one file a section. The order of what it returns is that of the table in :mod:`lbw.request.arguments`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lbw.request.arguments import ARGUMENTS, TITLE
from lbw.request.preview import Backend
from lbw.ui import (
    bake,
    curve,
    elemental,
    insert,
    live,
    make_weights,
    own_default,
    plots,
    presets_text,
    schedule,
    strengths,
)
from lbw.ui.tab import Tab, on_page_load
from modules.ui_components import InputAccordion


def build(
    is_img2img: bool,
    *,
    presets_file: Path,
    rule_sets_file: Path,
    backend: Backend,
    separate_checkbox: bool = False,
) -> dict[str, Any]:
    """Make the panel of one tab.

    Args:
        backend: what the sections ask of the host.
        separate_checkbox: whether "Active" is a checkbox inside a plain accordion, and not in the accordion's title.

    Returns:
        {name of an argument: its component}, in the order of the arguments.
    """
    tab = Tab("img2img" if is_img2img else "txt2img", asked=gr.Textbox(value="", visible=False))
    components: dict[str, Any] = {"pasted": gr.Textbox(value="", visible=False, elem_id=tab.id("lbw_pasted"))}
    outer = (
        gr.Accordion(TITLE, open=False, elem_classes=["lbw-accordion"])
        if separate_checkbox
        else InputAccordion(True, label=TITLE, elem_id=tab.id("lbw_active"))
    )
    with outer, gr.Column(elem_id=tab.id("lbw_panel"), elem_classes=["lbw-panel"], variant="compact"):
        components["active"] = (
            gr.Checkbox(value=True, label="Active", elem_id=tab.id("lbw_active")) if separate_checkbox else outer
        )
        # Sections that belong together stand together; lbw_panel.js puts the headings between them.
        insert.build(tab)
        own_default.build(tab, backend)
        default_preset = insert.build_default_preset(tab)
        curve.build(tab)
        components["schedule_picture"], connect_schedule = schedule.build(tab, backend)
        live.build(tab)
        presets = presets_text.build(tab, presets_file, default_preset)
        make_weights.build(tab, presets)
        rule_sets, print_changes = elemental.build(tab, rule_sets_file, backend.layer_names)
        connect_schedule(presets.area, rule_sets.area, default_preset)
        components |= plots.build(tab)
        strengths.build(tab, backend)
        bake.build(tab)
        components["debug"] = gr.Checkbox(value=False, label="Debug", elem_id=tab.id("lbw_debug"))
    on_page_load(lambda: [presets.read(), rule_sets.read()], [presets.area, rule_sets.area])
    components |= {
        "default_preset": default_preset,
        "presets": presets.area,
        "elements": rule_sets.area,
        "print_changes": print_changes,
    }
    return {argument.name: components[argument.name] for argument in ARGUMENTS}
