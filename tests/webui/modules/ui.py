"""The page: its tabs, quick settings, and what connects them."""

from __future__ import annotations

import base64
import io
import os

import gradio as gr
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

from modules import (
    gradio_extensons,  # noqa: F401  (patches gradio before the first component is made)
    script_callbacks,
    shared,
    ui_common,
    ui_extensions,
    ui_settings,
    ui_toprow,
)
from modules import infotext_utils as parameters_copypaste
from modules.infotext_utils import PasteField
from modules.paths import data_path
from modules.shared import cmd_opts, opts
from modules.ui_generation import Img2ImgTab, Txt2ImgTab
from modules.ui_gradio_extensions import reload_javascript
from modules.ui_loadsave import UiLoadsave

random_symbol = "\u2684"
reuse_symbol = "\u267b"
refresh_symbol = ui_common.refresh_symbol
paste_symbol = ui_toprow.PASTE_SYMBOL
clear_prompt_symbol = ui_toprow.CLEAR_SYMBOL
save_style_symbol = "\U0001f4be"
apply_style_symbol = "\U0001f4cb"
switch_values_symbol = "\u21c5"

plaintext_to_html = ui_common.plaintext_to_html
create_refresh_button = ui_common.create_refresh_button
create_setting_component = ui_settings.create_setting_component
create_output_panel = ui_common.create_output_panel

txt2img_paste_fields: list[PasteField] = []
img2img_paste_fields: list[PasteField] = []

# Fonts of the user's own system: gradio's default theme would ask a public server for them.
_THEME = gr.themes.Default(
    font=["Source Sans Pro", "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["IBM Plex Mono", "ui-monospace", "Consolas", "monospace"])


def gr_show(visible: bool = True) -> dict:
    return {"visible": visible, "__type__": "update"}


def create_ui() -> gr.Blocks:
    """Build the whole page, and give its components the values of ui-config.json."""
    global txt2img_paste_fields, img2img_paste_fields
    reload_javascript()
    parameters_copypaste.reset()
    settings = ui_settings.UiSettings()
    settings.register_settings()

    txt2img_tab = Txt2ImgTab()
    img2img_tab = Img2ImgTab()
    txt2img_paste_fields = parameters_copypaste.paste_fields["txt2img"]["fields"]
    img2img_paste_fields = parameters_copypaste.paste_fields["img2img"]["fields"]

    loadsave = UiLoadsave(cmd_opts.ui_config_file or os.path.join(data_path, "ui-config.json"))
    before = loadsave.ui_settings.copy()
    settings.create_ui(loadsave, txt2img_tab.dummy_component)
    interfaces = [
        (txt2img_tab.interface, "txt2img", "txt2img"),
        (img2img_tab.interface, "img2img", "img2img"),
        *script_callbacks.ui_tabs_callback(),
        (settings.interface, "Settings", "settings"),
        (ui_extensions.create_ui(), "Extensions", "extensions"),
    ]
    shared.tab_names = [label for _, label, _ in interfaces]

    with gr.Blocks(theme=_THEME, analytics_enabled=False, title="Stable Diffusion") as demo:
        settings.add_quicksettings()
        parameters_copypaste.connect_paste_params_buttons()
        _connect_send_to_img2img(txt2img_tab, img2img_tab)
        _render_tabs(interfaces, loadsave)
        settings.add_functionality(demo)

    if before != loadsave.ui_settings:
        loadsave.dump_defaults()
    demo.ui_loadsave = loadsave
    return demo


def _render_tabs(interfaces: list[tuple], loadsave: UiLoadsave) -> None:
    order = {label: index for index, label in enumerate(opts.ui_tab_order)}
    with gr.Tabs(elem_id="tabs"):
        for interface, label, identifier in sorted(interfaces, key=lambda item: order.get(item[1], len(order))):
            if label in opts.hidden_tabs:
                continue
            with gr.TabItem(label, id=identifier, elem_id=f"tab_{identifier}"):
                interface.render()
            if identifier not in ("extensions", "settings"):
                loadsave.add_block(interface, identifier)
        loadsave.setup_ui()


def _connect_send_to_img2img(txt2img_tab: Txt2ImgTab, img2img_tab: Img2ImgTab) -> None:
    prompts = ("prompt", "negative_prompt", "width", "height")
    for tab in (txt2img_tab, img2img_tab):
        button = tab.output.send_to_img2img
        button.click(
            fn=image_from_gallery, _js="extract_image_from_gallery", inputs=[tab.output.gallery],
            outputs=[img2img_tab.fields["init_img"]], show_progress=False)
        if tab is txt2img_tab:
            button.click(
                fn=lambda *values: values, inputs=[txt2img_tab.fields[name] for name in prompts],
                outputs=[img2img_tab.fields[name] for name in prompts], show_progress=False)
        button.click(fn=None, _js="switch_to_img2img", inputs=[], outputs=[], show_progress=False)


def image_from_gallery(items) -> Image.Image | None:
    """The image that the page's gallery sent: a file that gradio made, or a data URI."""
    item = items[0] if isinstance(items, list) and items else items
    if not item:
        return None
    if isinstance(item, dict) and item.get("is_file"):
        filename = os.path.abspath(item["name"])
        if not any(filename in files for files in shared.demo.temp_file_sets):
            raise PermissionError(f"{filename} is no image of this page")
        return Image.open(filename)
    data = item["data"] if isinstance(item, dict) else item
    return Image.open(io.BytesIO(base64.b64decode(data.split(",", 1)[-1])))


class QuicksettingsHint(BaseModel):
    name: str
    label: str


def setup_ui_api(app: FastAPI) -> None:
    """Addresses that the page's own scripts ask."""

    def quicksettings_hint():
        return [QuicksettingsHint(name=key, label=info.label) for key, info in opts.data_labels.items()]

    app.add_api_route(
        "/internal/quicksettings-hint", quicksettings_hint, methods=["GET"], response_model=list[QuicksettingsHint])
    app.add_api_route("/internal/ping", lambda: {}, methods=["GET"])
