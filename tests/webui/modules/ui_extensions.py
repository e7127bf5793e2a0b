"""The Extensions tab: what there is, and what of it runs."""

from __future__ import annotations

import html
import json

import gradio as gr

from modules import extensions, shared


def extension_table() -> str:
    rows = []
    for extension in extensions.extensions:
        name = html.escape(extension.name)
        checked = "checked" if extension.enabled else ""
        kind = "built-in" if extension.is_builtin else html.escape(extension.path)
        rows.append(
            f"<tr><td><label><input type='checkbox' name='enable_{name}' {checked}> {name}</label></td>"
            f"<td>{kind}</td></tr>")
    return f"<table id='extensions'><tr><th>Extension</th><th>Where</th></tr>{''.join(rows)}</table>"


def apply_and_restart(disable_list: str, disable_all: str) -> None:
    """Note which extensions are off, and build the page anew."""
    if shared.cmd_opts.disable_extension_access:
        raise PermissionError("extensions cannot be changed while the host listens on a public address")
    shared.opts.disabled_extensions = [str(name) for name in json.loads(disable_list)]
    shared.opts.disable_all_extensions = disable_all
    shared.opts.save(shared.config_filename)
    shared.state.request_restart()


def create_ui() -> gr.Blocks:
    with (
        gr.Blocks(analytics_enabled=False) as interface,
        gr.Tabs(elem_id="tabs_extensions"),
        gr.TabItem("Installed", id="installed"),
    ):
        with gr.Row(elem_id="extensions_installed_top"):
            apply = gr.Button(value="Apply, then Reload UI", variant="primary", elem_id="extensions_apply")
            disable_all = gr.Radio(
                label="Disable all extensions", choices=["none", "extra", "all"],
                value=lambda: shared.opts.disable_all_extensions, elem_id="extensions_disable_all")
            disabled = gr.Textbox(visible=False, elem_id="extensions_disabled_list", container=False)
        gr.HTML(extension_table, elem_id="extensions_installed_html")
        apply.click(
            fn=apply_and_restart, _js="extensions_apply", inputs=[disabled, disable_all], outputs=[], queue=False)
    return interface
