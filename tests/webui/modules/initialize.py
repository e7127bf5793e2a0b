"""Starts the host, in the order that extensions can rely on, up to where a page or an API can be served."""

from __future__ import annotations

import os

from modules import family, shared_cmd_options
from modules.shared_cmd_options import cmd_opts


def initialize(argv: list[str] | None = None) -> None:
    """Parse the command line, load settings and scripts, and load the model.

    Args:
        argv: the arguments without the program's name; none by default.

    Raises:
        ValueError: `--data-dir` names another folder than the one that was fixed when `modules.paths` was imported, or
            the family is another one than this process has been a host of.
    """
    shared_cmd_options.parse(argv or [])
    if cmd_opts.data_dir is not None:
        _use_data_folder(cmd_opts.data_dir)
    _prepare_shared()
    family.choose(cmd_opts.family)
    from modules import extensions, sd_models, sd_vae, shared

    family.current.install()
    for option in ("sd_model_checkpoint", "fp8_storage"):
        shared.opts.onchange(option, lambda: _queued(sd_models.reload_model_weights), call=False)
    shared.opts.onchange("sd_vae", lambda: _queued(sd_vae.reload_vae_weights), call=False)
    extensions.list_extensions()
    if not cmd_opts.skip_install:
        extensions.run_installers()
    initialize_rest()


def _use_data_folder(folder: str) -> None:
    os.environ["WEBUI_DATA"] = folder
    from modules.paths import data_path

    if os.path.abspath(folder) != data_path:
        raise ValueError(f"--data-dir {folder}: this process already uses {data_path}; set WEBUI_DATA before it starts")


def _prepare_shared() -> None:
    """Fix the folders, and load the settings into `shared.opts`."""
    from modules import devices, paths, rng, shared, styles, upscaler  # noqa: F401  (rng completes devices)

    os.makedirs(paths.data_path, exist_ok=True)
    devices.setup()
    cmd_opts.ui_settings_file = cmd_opts.ui_settings_file or os.path.join(paths.data_path, "config.json")
    cmd_opts.ui_config_file = cmd_opts.ui_config_file or os.path.join(paths.data_path, "ui-config.json")
    cmd_opts.embeddings_dir = cmd_opts.embeddings_dir or os.path.join(paths.data_path, "embeddings")
    cmd_opts.lora_dir = cmd_opts.lora_dir or os.path.join(paths.models_path, "Lora")
    cmd_opts.styles_file = cmd_opts.styles_file or [os.path.join(paths.data_path, "styles.csv")]
    shared.config_filename = cmd_opts.ui_settings_file
    shared.opts.load(shared.config_filename)
    shared.prompt_styles = styles.StyleDatabase(cmd_opts.styles_file)
    shared.sd_upscalers = upscaler.upscalers


def _queued(func) -> None:
    """Run when no generation does: a changed checkpoint must not pull the model away from under one."""
    from modules.call_queue import wrap_queued_call

    wrap_queued_call(func)()


def initialize_rest(*, reload_script_modules: bool = False) -> None:
    """The part of the start that Reload UI repeats: extensions, checkpoints, scripts, model, extra networks.

    `reload_script_modules` is of the host's interface: the page's own modules never change here. A model that is
    loaded stays, and the hooks for a loaded model are not called for it again, as on the real host.
    """
    from modules import extensions, extra_networks, localization, scripts, sd_models, sd_samplers, sd_vae, shared

    sd_samplers.set_samplers()
    extensions.list_extensions()
    localization.list_localizations()
    sd_models.list_models()
    sd_vae.refresh_vae_list()
    scripts.load_scripts()
    if not cmd_opts.skip_load_model_at_start and not cmd_opts.ui_debug_mode:
        shared.sd_model  # noqa: B018  (reading it loads the model, unless it stayed loaded)
    extra_networks.initialize()
    extra_networks.register_default_extra_networks()


def create_script_runners() -> None:
    """Build all panels on a page that nobody is shown, for a host without one: scripts learn their arguments here."""
    import gradio as gr

    from modules import script_callbacks, scripts

    script_callbacks.before_ui_callback()
    for runner, is_img2img in ((scripts.scripts_txt2img, False), (scripts.scripts_img2img, True)):
        with gr.Blocks():
            runner.initialize_scripts(is_img2img)
            runner.prepare_ui()
            for section in dict.fromkeys(script.section for script in runner.alwayson_scripts if script.section):
                runner.setup_ui_for_section(section)
            runner.setup_ui()


def default_script_args(runner) -> list:
    """The values of all panels as they are shown at first, for `p.script_args`; no script chosen in the menu."""
    return [0, *(getattr(component, "value", None) for component in runner.inputs[1:])]
