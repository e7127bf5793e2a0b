"""Starts a real WebUI in this process, without a server: WEBUI_ROOT names its folder, WEBUI_ARGS its command line
(checkpoint and so on), WEBUI_EXTENSIONS folders of further extensions, with a colon between.

It has to be run by the Python that the host is installed for. `real_server.py` starts one with its page.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
STAND_IN = PROJECT / "tests" / "webui"


def boot(root: Path, data: Path) -> None:
    """Start the host in ``root`` with our extension, and with its settings, LoRA files and extensions in ``data``."""
    link_extensions(data)
    os.chdir(root)
    sys.path[:] = [str(root), *(folder for folder in sys.path if Path(folder) != STAND_IN)]
    sys.argv = command_line(data, "--nowebui")
    late = "--skip-load-model-at-start"  # A1111 since 1.7
    sys.argv += [late] if late in (root / "modules" / "cmd_args.py").read_text() else []
    os.environ.pop("COMMANDLINE_ARGS", None)
    import launch  # noqa: F401  reads sys.argv
    import webui
    from fastapi import FastAPI

    from modules import initialize, script_callbacks, scripts, ui

    is_forge = (root / "modules_forge").is_dir()
    if not is_forge:  # which does it when it is imported
        initialize.initialize()
    app = FastAPI()
    webui.create_api(app)
    script_callbacks.before_ui_callback()
    script_callbacks.app_started_callback(None, app)
    if not scripts.scripts_txt2img.scripts:  # before 1.8 the API has them made for its first request
        ui.create_ui()
    if not is_forge:
        _load_model()


def link_extensions(data: Path) -> None:
    """Our extension, and those that WEBUI_EXTENSIONS names, where the host looks for them."""
    extensions = data / "extensions"
    extensions.mkdir(exist_ok=True)
    (extensions / "sd-webui-lora-block-weight").symlink_to(PROJECT)
    for folder in filter(None, os.environ.get("WEBUI_EXTENSIONS", "").split(":")):
        (extensions / Path(folder).name).symlink_to(folder)


def command_line(data: Path, *more: str) -> list[str]:
    """The host's program and its arguments: everything in ``data``, and last what WEBUI_ARGS says."""
    folders = ["--data-dir", str(data), "--lora-dir", str(data / "models" / "Lora")]
    given = shlex.split(os.environ.get("WEBUI_ARGS", ""))
    return ["launch.py", "--skip-prepare-environment", "--api", *folders, *more, *given]


def _load_model() -> None:
    """A1111 loads the model when it is asked for first, and finishes its start beside it."""
    from modules import devices, sd_hijack, shared

    assert shared.sd_model is not None
    if sd_hijack.current_optimizer is None:
        sd_hijack.apply_optimizations()
    devices.first_time_calculation()
