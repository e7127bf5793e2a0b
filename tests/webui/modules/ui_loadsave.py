"""ui-config.json: the values that the page's components start with, which a user may change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from modules import errors
from modules.ui_components import InputAccordion, ToolButton

_FIELDS: dict[type, tuple[str, ...]] = {
    gr.Slider: ("value", "minimum", "maximum", "step"),
    gr.Radio: ("value",),
    gr.Checkbox: ("value",),
    gr.Textbox: ("value",),
    gr.Number: ("value",),
    gr.Dropdown: ("value",),
}
_HIDEABLE = (*_FIELDS, ToolButton, gr.Button)


def radio_choices(component) -> list:
    """The values of a component's choices, which gradio keeps as values or as (label, value) pairs."""
    return [choice[0] if isinstance(choice, tuple) else choice for choice in getattr(component, "choices", None) or []]


class UiLoadsave:
    """Collects the page's components by path, and gives each the value that the file has for it.

    Paths are `tab/label/field`, with `customscript/FILE.py/` before them for components of scripts.
    """

    def __init__(self, filename: str):
        self.filename = filename
        self.ui_settings: dict[str, Any] = {}
        self.component_mapping: dict[str, Any] = {}
        self.finalized_ui = self.error_loading = False
        # Components of the page "Defaults", which `create_ui` makes.
        self.ui_defaults_review = self.ui_defaults_apply = self.ui_defaults_view = None
        try:
            self.ui_settings = self.read_from_file()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.error_loading = True
            errors.display(error, f"reading {filename}")

    def add_component(self, path: str, component) -> None:
        assert not self.finalized_ui
        kind = type(component)  # not isinstance: a subclass has a meaning of its own
        if kind in _HIDEABLE and component.visible:
            self._apply(path, component, "visible")
        if kind is gr.Dropdown:
            self._apply(path, component, "value", _fits_dropdown(component), getattr(component, "init_field", None))
        elif kind is gr.Radio:
            self._apply(path, component, "value", lambda value: value in radio_choices(component))
        elif kind is InputAccordion:
            self._add_accordion(path, component)
        else:
            for field in _FIELDS.get(kind, ()):
                self._apply(path, component, field)

    def _add_accordion(self, path: str, component: InputAccordion) -> None:
        if hasattr(component, "custom_script_source"):
            component.accordion.custom_script_source = component.custom_script_source
        if component.accordion.visible:
            self._apply(path, component.accordion, "visible")
        self._apply(path, component, "value")
        component.accordion.open = component.value

    def _apply(
        self, path: str, component, field: str, fits: Callable[[Any], bool] | None = None,
        after: Callable[[Any], None] | None = None,
    ) -> None:
        """Take a field's value from the file, or note the component's own as the default."""
        if getattr(component, "do_not_save_to_config", False):
            return
        source = getattr(component, "custom_script_source", None)
        key = f"{path}/{field}" if source is None else f"customscript/{source}/{path}/{field}"

        saved = self.ui_settings.get(key)
        if saved is None:
            self.ui_settings[key] = getattr(component, field)
        elif fits is None or fits(saved):
            try:
                value = _in_type_of(component, field, saved)
            except ValueError:
                return
            setattr(component, field, value)
            if after is not None:
                after(value)
        if field == "value":
            self.component_mapping.setdefault(key, component)

    def add_block(self, block, path: str = "") -> None:
        """Add everything inside a block."""
        if hasattr(block, "children"):
            for child in block.children:
                self.add_block(child, path)
        elif block.label is not None:
            self.add_component(f"{path}/{block.label}", block)
        elif isinstance(block, gr.Button) and block.value is not None:
            self.add_component(f"{path}/{block.value}", block)

    def read_from_file(self) -> dict[str, Any]:
        with open(self.filename, encoding="utf8") as file:
            return json.load(file)

    def write_to_file(self, current_ui_settings: dict[str, Any]) -> None:
        with open(self.filename, "w", encoding="utf8") as file:
            json.dump(current_ui_settings, file, indent=4, ensure_ascii=False)

    def dump_defaults(self) -> None:
        """Write what is known, but never over a file that could not be read."""
        if not (self.error_loading and os.path.exists(self.filename)):
            self.write_to_file(self.ui_settings)

    def iter_changes(self, current: dict[str, Any], values: tuple) -> Iterator[tuple[str, Any, Any]]:
        """Path, value in the file and value on the page, where the two differ."""
        for (path, component), new in zip(self.component_mapping.items(), values, strict=True):
            choices = radio_choices(component)
            if choices and isinstance(new, int) and getattr(component, "type", None) == "index":
                new = choices[new]
            old = current.get(path)
            if new != old and not (old is None and new == "") and new != []:
                yield path, old, new

    def ui_view(self, *values) -> str:
        rows = [
            f"<tr><td>{path}</td><td>{old}</td><td>{new}</td></tr>"
            for path, old, new in self.iter_changes(self.read_from_file(), values)
        ]
        head = "<tr><th>Path</th><th>Old value</th><th>New value</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{''.join(rows) or '<tr><td>No changes</td></tr>'}</tbody></table>"

    def ui_apply(self, *values) -> str:
        settings = self.read_from_file()
        changes = {path: new for path, _, new in self.iter_changes(settings, values)}
        if not changes:
            return "No changes."
        self.write_to_file({**settings, **changes})
        return f"Wrote {len(changes)} changes."

    def create_ui(self) -> None:
        gr.HTML("Set the other tabs as they should be after the next Reload UI, look at the changes, then apply them.")
        with gr.Row():
            self.ui_defaults_view = gr.Button(value="View changes", elem_id="ui_defaults_view", variant="secondary")
            self.ui_defaults_apply = gr.Button(value="Apply", elem_id="ui_defaults_apply", variant="primary")
        self.ui_defaults_review = gr.HTML("")

    def setup_ui(self) -> None:
        """Connect the buttons of `create_ui`; nothing can be added from then on."""
        assert not self.finalized_ui
        self.finalized_ui = True
        components = list(self.component_mapping.values())
        self.ui_defaults_view.click(fn=self.ui_view, inputs=components, outputs=[self.ui_defaults_review])
        self.ui_defaults_apply.click(fn=self.ui_apply, inputs=components, outputs=[self.ui_defaults_review])


def _fits_dropdown(component) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        choices = radio_choices(component)
        return all(item in choices for item in value) if component.multiselect else value in choices

    return fits


def _in_type_of(component, field: str, saved: Any) -> Any:
    """Gradio breaks on a textbox with a number, or a number field with text, in it."""
    if field == "value" and isinstance(component, gr.Textbox):
        return str(saved)
    if field == "value" and isinstance(component, gr.Number):
        return float(saved)
    return saved
