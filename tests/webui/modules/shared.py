"""Objects that the whole host shares: settings, command line, progress, and the loaded model."""

from __future__ import annotations

import os
import sys
import types

from modules.shared_cmd_options import cmd_opts, parser  # noqa: F401  (part of this module's interface)

from modules import options, paths, shared_options, styles  # isort: skip  (some of these read `cmd_opts` from here)

OptionInfo = options.OptionInfo
OptionHTML = options.OptionHTML
options_section = options.options_section

options_templates = shared_options.options_templates
restricted_opts = shared_options.restricted_opts
opts = options.Options(options_templates, restricted_opts)
config_filename = os.path.join(paths.data_path, "config.json")
hide_dirs = {"visible": not cmd_opts.hide_ui_dir_config}

models_path = paths.models_path
script_path = paths.script_path
data_path = paths.data_path

demo = None
batch_cond_uncond = True
parallel_processing_allowed = True
xformers_available = False
weight_load_location = None
prompt_styles = styles.StyleDatabase([])
settings_components: dict = {}
tab_names: list[str] = []
face_restorers: list = []
sd_upscalers: list = []
hypernetworks: dict = {}
loaded_hypernetworks: list = []

latent_upscale_default_mode = "Latent"
latent_upscale_modes = {
    "Latent": {"mode": "bilinear", "antialias": False},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic", "antialias": False},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest", "antialias": False},
    "Latent (nearest-exact)": {"mode": "nearest-exact", "antialias": False},
}


class _SharedModule(types.ModuleType):
    """Makes `shared.sd_model` load the model when it is first read, and `shared.device` follow `devices.device`."""

    @property
    def device(self):
        from modules import devices

        return devices.device

    @property
    def sd_model(self):
        from modules import sd_models

        return sd_models.model_data.get_sd_model()

    @sd_model.setter
    def sd_model(self, value) -> None:
        from modules import sd_models

        sd_models.model_data.set_sd_model(value)


sys.modules[__name__].__class__ = _SharedModule

# Last, as both modules read this one.
from modules import shared_state, shared_total_tqdm  # noqa: E402

state = shared_state.State()
total_tqdm = shared_total_tqdm.TotalTQDM()
