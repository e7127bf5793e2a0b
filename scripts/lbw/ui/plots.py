"""XYZ plot and Effective Block Analyzer: what is to be varied. The mode says which of them is made."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lbw.api import MODES, Arguments
from lbw.plots.axes import AXIS_TYPES
from lbw.plots.tags import INVERSE, VARIED
from lbw.ui.tab import Tab, on_click_in_browser
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
    f"<p>The plot varies the LoRA tags with <code>lbw={VARIED}</code>; <code>lbw={INVERSE}</code> gets 1 minus their "
    "weights. Values stand between commas.</p>"
)
_VALUES = (
    "<p><b>Block ID</b> IN05-OUT05, BASE M00, NOT IN05-OUT05 &middot; <b>values</b> 0,0.5,1, for those blocks &middot; "
    "<b>Original Weights</b> presets to begin with, two axes add up &middot; <b>elements</b> rules or their names, for "
    f"<code>lbwe={VARIED}</code> &middot; <b>seed</b> -1 is a random one &middot; <b>start</b>, <b>stop</b> 5, 50% "
    "&middot; <b>strength</b> instead of the tag's</p>"
)
_ANALYZER = "<p>Changes the weight of one block at a time, and measures how much of the image differs.</p>"


def build(tab: Tab) -> dict[str, Any]:
    """Make the section; returns its components by argument."""
    defaults = Arguments()
    components: dict[str, Any] = {}
    with gr.Accordion("XYZ plot", open=False, elem_id=tab.id("lbw_plots")):
        with FormRow(variant="compact", elem_classes=["lbw-add"]):
            components["mode"] = gr.Radio(
                label="Active", choices=list(MODES), value=MODES[0], type="index", elem_id=tab.id("lbw_mode")
            )
            put = gr.Button(f"Put :lbw={VARIED} into the tag", size="sm", elem_id=tab.id("lbw_put_varied"))
        gr.HTML(_HOW, elem_classes=["lbw-hint"])
        with gr.Column(elem_id=tab.id("lbw_axes")) as axes:
            components |= _axes(tab, defaults)
        with gr.Column(visible=False, elem_id=tab.id("lbw_analyzer")) as analyzer:
            components |= _analyzer(tab, defaults)
    on_click_in_browser(put, f"() => {{ loraBlockWeight.put('{tab.name}', 'lbw', ['{VARIED}']); return []; }}")
    components["mode"].change(
        lambda mode: [gr.update(visible=mode != 2), gr.update(visible=mode == 2)],
        [components["mode"]], [axes, analyzer], queue=False, show_progress=False,
    )
    return components


def _axes(tab: Tab, defaults: Arguments) -> dict[str, Any]:
    components: dict[str, Any] = {}
    for axis in "xyz":
        with FormRow(variant="compact"):
            label, elem_id = _AXES[f"{axis}_type"]
            value = getattr(defaults, f"{axis}_type")
            components[f"{axis}_type"] = gr.Dropdown(
                label=label, choices=list(AXIS_TYPES), value=value, elem_id=tab.id(elem_id), scale=1, min_width=140
            )
            label, elem_id = _AXES[f"{axis}_values"]
            value = getattr(defaults, f"{axis}_values")
            components[f"{axis}_values"] = gr.Textbox(
                label=label, value=value, lines=1, elem_id=tab.id(elem_id), scale=4, min_width=200
            )
    gr.HTML(_VALUES, elem_classes=["lbw-hint"])
    return components


def _analyzer(tab: Tab, defaults: Arguments) -> dict[str, Any]:
    components: dict[str, Any] = {}
    gr.HTML(_ANALYZER, elem_classes=["lbw-hint"])
    with FormRow(variant="compact"):
        components["analyzer_range"] = gr.Textbox(
            label="Range", value=defaults.analyzer_range, info="of the block, of all others",
            elem_id=tab.id("lbw_exmen"), scale=1, min_width=140,
        )
        components["analyzer_blocks"] = gr.Textbox(
            label="Blocks (12ALL,17ALL,20ALL,26ALL also can be used)", value=defaults.analyzer_blocks,
            info="as in Block ID; 61ALL for Flux", elem_id=tab.id("lbw_eymen"), scale=4, min_width=200,
        )
    with FormRow(variant="compact"):
        components["difference_colour"] = gr.Radio(
            label="diff image color", choices=["black", "white"], value=defaults.difference_colour
        )
        components["threshold"] = gr.Textbox(
            label="difference threshold", value=f"{defaults.threshold:g}", info="0 to 255; more counts as different",
            elem_id=tab.id("diff_thr"), min_width=140,
        )
        components["seed_count"] = gr.Number(
            label="number of seed", value=defaults.seed_count, precision=0, min_width=140
        )
        components["swap_xy"] = gr.Checkbox(label="change X-Y", value=False, elem_id=tab.id("lbw_changexy"))
    return components
