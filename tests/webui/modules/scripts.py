"""Finds script files, executes them, and keeps the two runners, one for each tab."""

from __future__ import annotations

import inspect
import os
import sys
from collections import namedtuple

from modules import errors, extensions, paths, script_callbacks, script_loading
from modules.extensions import ScriptFile
from modules.script_runner import ScriptRunner
from modules.script_types import (  # noqa: F401  (extensions import these from here)
    AlwaysVisible,
    MaskBlendArgs,
    OnComponent,
    PostprocessBatchListArgs,
    PostprocessImageArgs,
    PostProcessMaskOverlayArgs,
    PostSampleArgs,
    Script,
    ScriptBuiltinUI,
)

ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])

scripts_data: list[ScriptClassData] = []
postprocessing_scripts_data: list[ScriptClassData] = []
current_basedir = paths.script_path

scripts_txt2img: ScriptRunner | None = None
scripts_img2img: ScriptRunner | None = None
scripts_current: ScriptRunner | None = None


def basedir() -> str:
    """Folder of the extension whose script is being loaded; the host's own at any other time."""
    return current_basedir


def list_scripts(scriptdirname: str, extension: str, *, include_extensions: bool = True) -> list[ScriptFile]:
    """The host's own files of a kind, then those of each active extension. Sub-folders are not looked into."""
    own = extensions.Extension("webui", paths.script_path, is_builtin=True).list_files(scriptdirname, extension)
    if not include_extensions:
        return own
    return own + [file for ext in extensions.active() for file in ext.list_files(scriptdirname, extension)]


def list_files_with_name(filename: str) -> list[str]:
    """Paths of the files of this name that lie directly in the host's or an active extension's folder."""
    folders = [paths.script_path, *(ext.path for ext in extensions.active())]
    return [path for path in (os.path.join(folder, filename) for folder in folders) if os.path.isfile(path)]


def _load_script(file: ScriptFile) -> None:
    """Execute one file, with its extension's folder first on sys.path meanwhile, and note the scripts in it."""
    global current_basedir
    path_before = sys.path
    try:
        if file.basedir != paths.script_path:
            sys.path = [file.basedir, *sys.path]
        current_basedir = file.basedir
        module = script_loading.load_module(file.path)
        # Imported base classes count too, as on the real host: they cannot be told from a script's own classes.
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Script):
                scripts_data.append(ScriptClassData(value, file.path, file.basedir, module))
    except Exception:
        errors.report(f"script {file.filename} could not be loaded", exc_info=True)
    finally:
        sys.path = path_before
        current_basedir = paths.script_path


def load_scripts() -> None:
    """Execute every script file anew, forgetting all hooks and scripts there were, and make new runners."""
    global scripts_txt2img, scripts_img2img
    scripts_data.clear()
    postprocessing_scripts_data.clear()
    script_callbacks.clear_callbacks()
    for file in list_scripts("scripts", ".py") + list_scripts("modules/processing_scripts", ".py",
                                                              include_extensions=False):
        _load_script(file)
    scripts_txt2img = ScriptRunner()
    scripts_img2img = ScriptRunner()


def reload_script_body_only() -> None:
    """Execute the files of the scripts in use anew, keeping panel and hooks as they are."""
    cache: dict = {}
    scripts_txt2img.reload_sources(cache)
    scripts_img2img.reload_sources(cache)


reload_scripts = load_scripts
