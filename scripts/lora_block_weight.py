"""The entry: what the host loads. Hooks and callbacks are here, the program is in ``lbw``."""

import logging
import os
import sys

import gradio as gr

from modules import extensions, script_callbacks, scripts

_FOLDER = os.path.dirname(os.path.realpath(__file__))
if _FOLDER not in sys.path:
    sys.path.append(_FOLDER)

from lbw.hosts.adapter import UnservedHostError  # noqa: E402  the folder has to be on sys.path first
from lbw.request.arguments import PLOT_ARGUMENT_NAMES, TITLE  # noqa: E402

logger = logging.getLogger("lbw")


def _original_extension() -> str | None:
    """The folder of another active extension with a script of this name: the original, or a second copy of this."""
    for extension in extensions.active():
        script = os.path.realpath(os.path.join(extension.path, "scripts", os.path.basename(__file__)))
        if os.path.exists(script) and script != os.path.realpath(__file__):
            return str(extension.path)
    return None


def _missing_adapter() -> str | None:
    """Why no adapter serves this host, if none does."""
    try:
        from lbw.hosts import serving  # it raises where none does

        serving.require()
    except UnservedHostError as error:
        return str(error)
    return None


_original = _original_extension()
_obstacle = f"{_original} does the same; disable one of the two" if _original else _missing_adapter()
if _obstacle:
    logger.warning("LoRA Block Weight: off, because %s", _obstacle)
else:
    from lbw import ui
    from lbw.hosts import hooks
    from lbw.request import infotext


class Off(scripts.Script):
    """The extension where no adapter serves the host: its panel says so."""

    def title(self):
        return TITLE

    def show(self, is_img2img):
        return scripts.AlwaysVisible if _obstacle and not _original else False

    def ui(self, is_img2img):
        with gr.Accordion(TITLE, open=False):
            gr.Markdown(f"Off, because {_obstacle}.")
        return []


class LoraBlockWeight(scripts.Script):
    """Block weights and step schedules for LoRA tags."""

    def title(self):
        return TITLE

    def show(self, is_img2img):
        return False if _obstacle else scripts.AlwaysVisible

    def ui(self, is_img2img):
        panel = ui.build(
            is_img2img,
            presets_file=hooks.PRESETS_FILE,
            rule_sets_file=hooks.RULE_SETS_FILE,
            separate_checkbox=hooks.setting("old_active_check_lbw"),
        )
        components = panel.components
        hooks.note_defaults(components)
        self.infotext_fields = [
            (components["active"], infotext.pasted_active),
            (components["default_preset"], infotext.pasted_default_preset),
            (components["pasted"], infotext.pasted),
            *((components[name], infotext.pasted_plot(name)) for name in PLOT_ARGUMENT_NAMES),
            (panel.changes, lambda _pasted: panel.changed()),
        ]
        return list(components.values())

    def before_process(self, p, *_):
        hooks.before_process(p, slice(self.args_from, self.args_to))

    def process(self, p, *values):
        hooks.begin(p, values)

    def before_process_batch(self, p, *_, prompts, **__):
        hooks.leave_batch_out(p, prompts)

    def after_extra_networks_activate(self, p, *_, extra_network_data, **__):
        hooks.networks_activated(p, extra_network_data)

    def process_before_every_sampling(self, p, *_, **__):
        hooks.before_sampling(p)

    def post_sample(self, p, *_):
        hooks.batch_sampled(p)

    def postprocess_batch(self, p, *_, **__):
        hooks.batch_made(p)

    def postprocess(self, p, processed, *_):
        hooks.finish(p, processed)


def app_started(demo, app):
    """The host has its routes. Without a page, there are none for it."""
    if demo is not None:
        ui.routes.add(app, hooks.PRESETS_FILE, hooks.RULE_SETS_FILE, hooks.Backend())
    hooks.app_started(demo, app)


if not _obstacle:
    hooks.add_settings()  # here, because without a page on_ui_settings is not called, and requests set what is known
    hooks.add_translations()
    hooks.add_axes()  # here, because without a page the scripts' panels are built before before_ui is called
    script_callbacks.on_before_ui(hooks.add_axes)
    script_callbacks.on_ui_settings(hooks.add_settings)
    script_callbacks.on_cfg_denoiser(hooks.before_evaluation)
    script_callbacks.on_model_loaded(hooks.model_loaded)
    script_callbacks.on_script_unloaded(hooks.unload)
    script_callbacks.on_app_started(app_started)
    script_callbacks.on_infotext_pasted(infotext.follow_renames)
