"""The panel. Gradio holds the arguments, in the order of the table in :mod:`lbw.request.arguments`; all else is drawn
by JavaScript, from lbw_panel.js on, and asks :mod:`lbw.ui.routes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import gradio as gr

from lbw.request.arguments import ARGUMENTS, TITLE
from lbw.tags.saving import version_of
from lbw.ui import plots, routes
from lbw.ui.elemental import rule_sets_in
from lbw.ui.presets_text import presets_in
from lbw.ui.tab import Tab, on_click
from lbw.ui.undrawn import undrawn
from modules.ui_components import InputAccordion

__all__ = ["Panel", "build", "routes"]

_changes = count(1)


@dataclass(frozen=True)
class Panel:
    """The panel of one tab.

    Args:
        components: {name of an argument: its component}, in the order of the arguments.
        changes: the text of a button that is nowhere to be seen. Whoever gives the components other values gives it
            another text, as :meth:`changed` makes it, so that the page looks at them again.
    """

    components: dict[str, Any]
    changes: Any

    @staticmethod
    def changed() -> str:
        return str(next(_changes))


def build(is_img2img: bool, *, presets_file: Path, rule_sets_file: Path, separate_checkbox: bool = False) -> Panel:
    """Make the panel of one tab.

    Args:
        separate_checkbox: whether "Active" is a checkbox inside a plain accordion, and not in the accordion's title.
    """
    tab = Tab("img2img" if is_img2img else "txt2img")
    presets, elements = presets_in(presets_file).read(), rule_sets_in(rule_sets_file).read()
    outer = (
        gr.Accordion(TITLE, open=False, elem_classes=["lbw-accordion"])
        if separate_checkbox
        else InputAccordion(True, label=TITLE, elem_id=tab.id("lbw_active"))
    )
    with outer, gr.Column(elem_id=tab.id("lbw_panel"), elem_classes=["lbw-panel"], variant="compact"):
        drawn = {
            "active": _active_checkbox(tab) if separate_checkbox else outer,
            # Other extensions read it here.
            "presets": gr.TextArea(
                value=presets, label="Presets", lines=8, max_lines=20, interactive=True,
                info="One a line, NAME: and values, or blocks by name. In a prompt: <lora:name:1:lbw=NAME>",
                elem_id=tab.id("lbw_ratiospreset"), elem_classes=["lbw-text"],
            ),
        }
        held = {
            "pasted": gr.Textbox(value="", visible=False),
            "default_preset": gr.Textbox(value="", label="Default preset"),
            "elements": gr.TextArea(value=elements, label="Element rules"),
            "print_changes": gr.Checkbox(value=False, label="print change"),
            "schedule_picture": gr.Checkbox(value=False, label="Add this picture to the images"),
            **plots.build(),
            "debug": gr.Checkbox(value=False, label="Debug"),
        }
        for component in held.values():
            undrawn(component)
        # What the page compares with the file when it is loaded, see lbw_panel.js.
        changes = gr.Button(version_of(elements), visible=False, elem_id=tab.id("lbw_values"))
    names = [*held]
    on_click(
        changes, [held[name] for name in names],
        f"(...values) => lbwValues.exchange('{tab.name}', {names}, values)",
    )
    components = drawn | held
    return Panel({argument.name: components[argument.name] for argument in ARGUMENTS}, changes)


def _active_checkbox(tab: Tab) -> Any:
    checkbox = gr.Checkbox(value=True, label="Active", elem_id=tab.id("lbw_active"))
    # A default is saved by its label, and the plots' mode has the same one, as with the original.
    checkbox.do_not_save_to_config = True
    return checkbox
