"""The Settings tab, with every option of the host and of the extensions, and the quick settings at the top."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr

from modules import script_callbacks, scripts, shared, ui_common
from modules.call_queue import wrap_gradio_call_no_job
from modules.shared import opts
from modules.ui_components import DropdownMulti, FormRow
from modules.ui_gradio_extensions import reload_javascript

_COMPONENT_FOR: dict[type, Callable[..., Any]] = {
    str: gr.Textbox, int: gr.Number, float: gr.Number, bool: gr.Checkbox, type(None): gr.Textbox,
    list: lambda **kwargs: DropdownMulti(**{"choices": kwargs["value"], **kwargs}),
}


def _component_args(key: str) -> dict[str, Any]:
    args = opts.data_labels[key].component_args
    return (args() if callable(args) else args) or {}


def get_value_for_setting(key: str) -> dict:
    """The update that shows an option's value, and new choices; what only a constructor takes is left out."""
    component = opts.data_labels[key].component or _COMPONENT_FOR[type(opts.data_labels[key].default)]
    updatable = inspect.signature(component.update).parameters if isinstance(component, type) else {}
    args = {name: value for name, value in _component_args(key).items() if name in updatable}
    return gr.update(value=getattr(opts, key), **args)


def create_setting_component(key: str, is_quicksettings: bool = False):
    """The component for an option: its own, or the one for the type of its default."""
    info = opts.data_labels[key]
    make = info.component or _COMPONENT_FOR[type(info.default)]

    def create():
        return make(
            label=info.label, value=opts.data.get(key, info.default), elem_id=f"setting_{key}", **_component_args(key))

    if info.refresh is None:
        return create()
    if is_quicksettings:
        component = create()
        ui_common.create_refresh_button(component, info.refresh, lambda: _component_args(key), f"refresh_{key}")
        return component
    with FormRow():
        component = create()
        ui_common.create_refresh_button(component, info.refresh, lambda: _component_args(key), f"refresh_{key}")
    return component


class UiSettings:
    """Components by option; options without one (hidden, or in the quick settings) send a stand-in's value."""

    def __init__(self):
        self.components: list = []
        self.component_dict: dict[str, Any] = {}
        self.quicksettings: list[str] = []

    def register_settings(self) -> None:
        script_callbacks.ui_settings_callback()

    def run_settings(self, *args) -> tuple[str, str]:
        """Take over everything on the page; all values are checked before the first is set."""
        given = [
            (key, value) for key, value, component in zip(opts.data_labels, args, self.components, strict=True)
            if component is not self.dummy_component
        ]
        for key, value in given:
            expected = opts.data_labels[key].default
            if not opts.same_type(value, expected):
                raise ValueError(f"setting {key} should be {type(expected).__name__}, got {value!r}")
        changed = [key for key, value in given if (value or getattr(opts, key)) and opts.set(key, value)]
        opts.save(shared.config_filename)
        return opts.dumpjson(), f"{len(changed)} settings changed{': ' if changed else ''}{', '.join(changed)}."

    def run_settings_single(self, value: Any, key: str) -> tuple[dict, str]:
        if not opts.same_type(value, opts.data_labels[key].default):
            shown = gr.update(visible=True)
        elif value is not None and opts.set(key, value):
            opts.save(shared.config_filename)
            shown = get_value_for_setting(key)
        else:
            shown = gr.update(value=getattr(opts, key))
        return shown, opts.dumpjson()

    def create_ui(self, loadsave, dummy_component) -> None:
        self.dummy_component = dummy_component
        shared.settings_components = self.component_dict
        self.quicksettings = [key for key in opts.quicksettings_list if key in opts.data_labels]
        opts.reorder()

        with gr.Blocks(analytics_enabled=False) as self.interface:
            with gr.Row():
                with gr.Column(scale=6):
                    self.submit = gr.Button(value="Apply settings", variant="primary", elem_id="settings_submit")
                with gr.Column():
                    reload_ui = gr.Button(value="Reload UI", variant="primary", elem_id="settings_restart_gradio")
            self.result = gr.HTML(elem_id="settings_result")
            with gr.Tabs(elem_id="settings"):
                self._create_pages()
                with gr.TabItem("Defaults", id="defaults", elem_id="settings_tab_defaults"):
                    loadsave.create_ui()
                with gr.TabItem("Actions", id="actions", elem_id="settings_tab_actions"):
                    reload_bodies = gr.Button(
                        value="Read the code of scripts anew, without their panels",
                        elem_id="settings_reload_script_bodies")
            self.text_settings = gr.Textbox(elem_id="settings_json", value=lambda: opts.dumpjson(), visible=False)
            reload_ui.click(
                fn=shared.state.request_restart, _js="restart_reload", inputs=[], outputs=[], queue=False)
            reload_bodies.click(fn=_reload_script_bodies, inputs=[], outputs=[])

    def _create_pages(self) -> None:
        """One page for each run of options of the same section."""
        page: list[str] = []
        section = None
        for key, info in opts.data_labels.items():
            if info.section != section:
                self._create_page(section, page)
                section, page = info.section, []
            page.append(key)
        self._create_page(section, page)

    def _create_page(self, section: tuple | None, keys: list[str]) -> None:
        hidden = section is None or section[0] is None
        if hidden:
            self.components += [self.dummy_component] * len(keys)
            return
        identifier, title = section
        with gr.TabItem(title, elem_id=f"settings_{identifier}"), gr.Column(elem_id=f"column_settings_{identifier}"):
            for key in keys:
                if key in self.quicksettings:
                    self.components.append(self.dummy_component)
                    continue
                self.component_dict[key] = create_setting_component(key)
                self.components.append(self.component_dict[key])
                info = opts.data_labels[key]
                if info.comment_before or info.comment_after:
                    gr.HTML(info.comment_before + info.comment_after, elem_classes=["settings-comment"])

    def add_quicksettings(self) -> None:
        with gr.Row(elem_id="quicksettings", variant="compact"):
            for key in self.quicksettings:
                self.component_dict[key] = create_setting_component(key, is_quicksettings=True)

    def add_functionality(self, demo: gr.Blocks) -> None:
        """Connect the components, once all of them are on the page."""
        self.submit.click(
            fn=wrap_gradio_call_no_job(self.run_settings, extra_outputs=[gr.update()]), inputs=self.components,
            outputs=[self.text_settings, self.result])
        for key in self.quicksettings:
            component = self.component_dict[key]
            for event in _events_of(component):
                event(
                    fn=lambda value, key=key: self.run_settings_single(value, key), inputs=[component],
                    outputs=[component, self.text_settings])
        shown = list(self.component_dict)
        demo.load(
            fn=lambda: [get_value_for_setting(key) for key in shown], inputs=[],
            outputs=[self.component_dict[key] for key in shown], queue=False)


def _events_of(component) -> list:
    """When a user is done changing a component."""
    if isinstance(component, gr.Textbox):
        return [component.submit, component.blur]
    if hasattr(component, "release"):
        return [component.release]
    return [component.input if isinstance(component, gr.Dropdown) else component.change]


def _reload_script_bodies() -> None:
    scripts.reload_script_body_only()
    reload_javascript()
