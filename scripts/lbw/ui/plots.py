"""The arguments of XYZ plot and Effective Block Analyzer: here for whoever sends them, not shown to users."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lbw.api import AXIS_TYPES, MODES, Arguments
from lbw.ui.tab import Tab

_LABELS = {
    "x_type": ("X Types", "lbw_xtype"),
    "x_values": ("X Values", "lbw_xmen"),
    "y_type": ("Y Types", "lbw_ytype"),
    "y_values": ("Y Values", "lbw_ymen"),
    "z_type": ("Z type", "lbw_ztype"),
    "z_values": ("Z values", "lbw_zmen"),
    "analyzer_range": ("Range", "lbw_exmen"),
    "analyzer_blocks": ("Blocks (12ALL,17ALL,20ALL,26ALL also can be used)", "lbw_eymen"),
    "threshold": ("difference threshold", "diff_thr"),
}


def build(tab: Tab) -> dict[str, Any]:
    defaults = Arguments()
    components: dict[str, Any] = {
        "mode": gr.Radio(label="Active", choices=list(MODES), value=MODES[0], type="index", visible=False),
        "seed_count": gr.Number(label="number of seed", value=defaults.seed_count, precision=0, visible=False),
        "difference_colour": gr.Radio(
            label="diff image color", choices=["black", "white"], value=defaults.difference_colour, visible=False
        ),
        "swap_xy": gr.Checkbox(label="change X-Y", value=False, elem_id=tab.id("lbw_changexy"), visible=False),
    }
    for name, (label, elem_id) in _LABELS.items():
        value = getattr(defaults, name)
        shared = {"label": label, "elem_id": tab.id(elem_id), "visible": False}
        if name.endswith("_type"):
            components[name] = gr.Dropdown(choices=list(AXIS_TYPES), value=value, **shared)
        else:
            components[name] = gr.Textbox(value=value if isinstance(value, str) else f"{value:g}", **shared)
    return components
