"""XYZ plot and Effective Block Analyzer: what is to be varied. The mode says which of them is made."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lbw.plots.axes import AXIS_TYPES
from lbw.request.arguments import MODES, Arguments
from lbw.tags.library import INVERSE, VARIED
from lbw.ui.tab import Tab
from modules.ui_components import FormRow

_AXES = {
    "x_type": ("X Types", "lbw_xtype"),
    "x_values": ("X Values", "lbw_xmen"),
    "y_type": ("Y Types", "lbw_ytype"),
    "y_values": ("Y Values", "lbw_ymen"),
    "z_type": ("Z type", "lbw_ztype"),
    "z_values": ("Z values", "lbw_zmen"),
}
_HOW = (
    f"The plot varies the LoRA tags with lbw={VARIED}; lbw={INVERSE} gets 1 minus their weights. "
    "Values stand between commas."
)
_VALUES = {
    "Block ID": "IN05-OUT05, BASE M00, NOT IN05-OUT05",
    "values": "0,0.5,1, for those blocks",
    "Original Weights": "presets to begin with, two axes add up",
    "elements": f"rules or their names, for lbwe={VARIED}",
    "seed": "-1 is a random one",
    "start": "5, 50%",
    "stop": "5, 50%",
    "strength": "instead of the tag's",
}
"""What the values of an axis are, by its type. A text that is one by itself is one that the host can translate."""
_ANALYZER = "Changes the weight of one block at a time, and measures how much of the image differs."


def build(tab: Tab) -> dict[str, Any]:
    """Make the section; returns its components by argument. The style sheet hides the part that the mode is not for."""
    defaults = Arguments()
    components: dict[str, Any] = {}
    values = " &middot; ".join(f'<b translate="no">{name}</b> <span>{text}</span>' for name, text in _VALUES.items())
    with gr.Accordion("XYZ plot", open=False, elem_id=tab.id("lbw_plots"), elem_classes=["lbw-plots"]):
        components["mode"] = gr.Radio(
            # The name that ui-config.json has for it, and which says nothing to who reads it here.
            label="Active", show_label=False, info="What a generation makes",
            choices=list(MODES), value=MODES[0], type="index", elem_id=tab.id("lbw_mode"),
            elem_classes=["lbw-mode"],
        )
        with FormRow(variant="compact", elem_classes=["lbw-fields", "lbw-axes"]):
            components |= _axes(tab, defaults)
        with FormRow(variant="compact", elem_classes=["lbw-fields", "lbw-analyzer"]):
            components |= _analyzer(tab, defaults)
        gr.HTML(
            f'<p class="lbw-axes">{values}</p><p class="lbw-analyzer">{_ANALYZER}</p><p>{_HOW}</p>'
            f'<button type="button" class="lbw-button" id="{tab.id("lbw_put_varied")}" data-key="lbw" '
            f'data-name="{VARIED}">Put :lbw={VARIED} into the tag</button>',
            elem_classes=["lbw-hint"],
        )
    return components


def _axes(tab: Tab, defaults: Arguments) -> dict[str, Any]:
    components: dict[str, Any] = {}
    for axis in "xyz":
        label, elem_id = _AXES[f"{axis}_type"]
        value = getattr(defaults, f"{axis}_type")
        components[f"{axis}_type"] = gr.Dropdown(
            label=label, choices=list(AXIS_TYPES), value=value, elem_id=tab.id(elem_id)
        )
        label, elem_id = _AXES[f"{axis}_values"]
        value = getattr(defaults, f"{axis}_values")
        components[f"{axis}_values"] = gr.Textbox(label=label, value=value, lines=1, elem_id=tab.id(elem_id))
    return components


def _analyzer(tab: Tab, defaults: Arguments) -> dict[str, Any]:
    return {
        "analyzer_range": gr.Textbox(
            label="Range", value=defaults.analyzer_range, info="of the block, of all others",
            elem_id=tab.id("lbw_exmen"),
        ),
        "analyzer_blocks": gr.Textbox(
            label="Blocks (12ALL,17ALL,20ALL,26ALL also can be used)", value=defaults.analyzer_blocks,
            info="as in Block ID; 61ALL for Flux", elem_id=tab.id("lbw_eymen"),
        ),
        "difference_colour": gr.Radio(
            label="diff image color", choices=["black", "white"], value=defaults.difference_colour
        ),
        "threshold": gr.Textbox(
            label="difference threshold", value=f"{defaults.threshold:g}", info="0 to 255; more counts as different",
            elem_id=tab.id("diff_thr"),
        ),
        "seed_count": gr.Number(label="number of seed", value=defaults.seed_count, precision=0),
        "swap_xy": gr.Checkbox(label="change X-Y", value=False, elem_id=tab.id("lbw_changexy")),
    }
