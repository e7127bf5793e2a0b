"""Parts of the page that more than one tab has: the output panel, refresh buttons, and text as HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from modules.ui_components import ToolButton

refresh_symbol = "\u21bb"


def plaintext_to_html(text: str, classname: str | None = None) -> str:
    content = "<br>\n".join(html.escape(line) for line in text.split("\n"))
    return f"<p class='{classname}'>{content}</p>" if classname else f"<p>{content}</p>"


def update_generation_info(generation_info: str, html_info: str, img_index: int) -> tuple[str, dict]:
    """Show the parameters of the image that was clicked."""
    try:
        infotexts = json.loads(generation_info)["infotexts"]
    except (ValueError, KeyError, TypeError):
        return html_info, gr.update()
    if not 0 <= img_index < len(infotexts):
        return html_info, gr.update()
    return plaintext_to_html(infotexts[img_index]), gr.update()


def create_refresh_button(
    refresh_component, refresh_method: Callable[[], Any], refreshed_args: Callable[[], dict] | dict | None,
    elem_id: str,
) -> ToolButton:
    """A button that looks for new choices and puts them into one component or several."""
    components = refresh_component if isinstance(refresh_component, list) else [refresh_component]
    label = next((component.label for component in components if getattr(component, "label", None)), None)

    def refresh():
        refresh_method()
        args = (refreshed_args() if callable(refreshed_args) else refreshed_args) or {}
        for component in components:
            for key, value in args.items():
                setattr(component, key, value)
        updates = [gr.update(**args) for _ in components]
        return updates if len(updates) > 1 else updates[0]

    button = ToolButton(value=refresh_symbol, elem_id=elem_id, tooltip=f"{label}: refresh" if label else "Refresh")
    button.click(fn=refresh, inputs=[], outputs=components)
    return button


@dataclass
class OutputPanel:
    """The right half of a tab: images, what is known about them, and messages."""

    gallery: gr.Gallery
    generation_info: gr.Textbox
    infotext: gr.HTML
    html_log: gr.HTML
    send_to_img2img: gr.Button

    @property
    def outputs(self) -> list:
        return [self.gallery, self.generation_info, self.infotext, self.html_log]


def create_output_panel(tabname: str, outdir: str, toprow=None) -> OutputPanel:
    """Build the panel; `outdir` is where the tab's images are saved, shown as the panel's tooltip."""
    with gr.Column(elem_id=f"{tabname}_results"), gr.Column(variant="panel", elem_id=f"{tabname}_results_panel"):
        with gr.Group(elem_id=f"{tabname}_gallery_container"):
            gallery = gr.Gallery(
                label="Output", show_label=False, elem_id=f"{tabname}_gallery", columns=4, preview=True, height=520)
        with gr.Row(elem_id=f"image_buttons_{tabname}", elem_classes="image-buttons"):
            send_to_img2img = gr.Button(
                "Send to img2img", size="sm", elem_id=f"{tabname}_send_to_img2img",
                tooltip=f"Send the image and its prompts to img2img. Images are saved in {outdir}.")
        with gr.Group():
            infotext = gr.HTML(elem_id=f"html_info_{tabname}", elem_classes="infotext")
            html_log = gr.HTML(elem_id=f"html_log_{tabname}", elem_classes="html-log")
            generation_info = gr.Textbox(visible=False, elem_id=f"generation_info_{tabname}")
            info_button = gr.Button(visible=False, elem_id=f"{tabname}_generation_info_button")
    info_button.click(
        fn=update_generation_info, _js="(info, html) => [info, html, selected_gallery_index()]",
        inputs=[generation_info, infotext, infotext], outputs=[infotext, infotext], show_progress=False)
    return OutputPanel(gallery, generation_info, infotext, html_log, send_to_img2img)
