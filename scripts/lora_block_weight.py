"""The entry: what the host loads. Hooks and callbacks are here, the program is in ``lbw``."""

import logging
import os
import sys

import gradio as gr

from modules import extensions, script_callbacks, scripts

_FOLDER = os.path.dirname(os.path.realpath(__file__))
if _FOLDER not in sys.path:
    sys.path.append(_FOLDER)

from lbw import infotext  # noqa: E402  the folder has to be on sys.path first
from lbw.api import ARGUMENTS  # noqa: E402
from lbw.hosts import a1111  # noqa: E402
from lbw.presets import DEFAULT_PRESETS, read_or_create  # noqa: E402

logger = logging.getLogger("lbw")


def _original_extension() -> str | None:
    """The folder of another active extension with a script of this name: the original, or a second copy of this."""
    for extension in extensions.active():
        script = os.path.realpath(os.path.join(extension.path, "scripts", os.path.basename(__file__)))
        if os.path.exists(script) and script != os.path.realpath(__file__):
            return str(extension.path)
    return None


_original = _original_extension()
if _original is not None:
    logger.warning("LoRA Block Weight: off, because %s does the same; disable one of the two", _original)


def _hidden(argument):
    """A component for an argument that the panel does not show."""
    kind = {bool: gr.Checkbox, str: gr.Textbox}.get(argument.kind, gr.Number)
    return kind(value=argument.default, label=argument.name, visible=False)


class LoraBlockWeight(scripts.Script):
    """Block weights and step schedules for LoRA tags."""

    def title(self):
        return "LoRA Block Weight"

    def show(self, is_img2img):
        return scripts.AlwaysVisible if _original is None else False

    def ui(self, is_img2img):
        with gr.Accordion("LoRA Block Weight", open=False):
            active = gr.Checkbox(value=True, label="Active", interactive=True, elem_id="lbw_active")
            presets = gr.TextArea(
                value=read_or_create(a1111.PRESETS_FILE, DEFAULT_PRESETS),
                label="Weights setting",
                info="One preset a line: NAME: 12, 17, 20, 26 or 61 values. In a prompt: <lora:name:1:lbw=NAME>",
                interactive=True,
                elem_id="lbw_ratiospreset",
            )
        shown = {"presets": presets, "active": active}
        hidden = {item.name: _hidden(item) for item in ARGUMENTS if item.name not in shown}
        self.infotext_fields = [
            (active, infotext.pasted_active),
            (hidden["default_preset"], infotext.pasted_default_preset),
            (hidden["pasted"], infotext.pasted),
        ]
        return [(shown | hidden)[item.name] for item in ARGUMENTS]

    def before_process(self, p, *values):
        a1111.before_settings(p, values)

    def process(self, p, *values):
        a1111.begin(p, values)

    def after_extra_networks_activate(self, p, *_, extra_network_data, **__):
        a1111.networks_activated(p, extra_network_data)

    def process_before_every_sampling(self, p, *_, **__):
        a1111.before_sampling(p)

    def postprocess_batch(self, p, *_, **__):
        a1111.take_notes(p)

    def postprocess(self, p, processed, *_):
        a1111.finish(p, processed)


script_callbacks.on_ui_settings(a1111.add_settings)
script_callbacks.on_cfg_denoiser(a1111.before_evaluation)
script_callbacks.on_model_loaded(a1111.model_loaded)
script_callbacks.on_script_unloaded(a1111.unload)
script_callbacks.on_app_started(a1111.app_started)
script_callbacks.on_infotext_pasted(infotext.follow_renames)
