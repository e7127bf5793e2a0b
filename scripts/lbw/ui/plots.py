"""XYZ plot and Effective Block Analyzer: what is to be varied. lbw_plots.js draws the fields."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lbw.plots.axes import AXIS_TYPES
from lbw.request.arguments import MODES, Arguments

_AXES = {
    "x_type": "X Types", "x_values": "X Values",
    "y_type": "Y Types", "y_values": "Y Values",
    "z_type": "Z type", "z_values": "Z values",
}  # fmt: skip


def build() -> dict[str, Any]:
    """Make the components, by argument. Their labels are names in ui-config.json."""
    defaults = Arguments()
    axes = {
        name: gr.Dropdown(label=label, choices=list(AXIS_TYPES), value=getattr(defaults, name))
        if name.endswith("_type")
        else gr.Textbox(label=label, value=getattr(defaults, name), lines=1)
        for name, label in _AXES.items()
    }
    return {
        "mode": gr.Radio(label="Active", choices=list(MODES), value=MODES[0], type="index"),
        **axes,
        "analyzer_range": gr.Textbox(label="Range", value=defaults.analyzer_range),
        "analyzer_blocks": gr.Textbox(
            label="Blocks (12ALL,17ALL,20ALL,26ALL also can be used)", value=defaults.analyzer_blocks
        ),
        "difference_colour": gr.Radio(
            label="diff image color", choices=["black", "white"], value=defaults.difference_colour
        ),
        "threshold": gr.Textbox(label="difference threshold", value=f"{defaults.threshold:g}"),
        "seed_count": gr.Number(label="number of seed", value=defaults.seed_count, precision=0),
        "swap_xy": gr.Checkbox(label="change X-Y", value=False),
    }
