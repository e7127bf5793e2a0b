"""The extensions of this host: the built-in ones, the project it belongs to, and those in the data folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass

from modules import errors, family, paths, shared

# Three folders up: modules -> webui -> tests -> the project, which is the extension under test.
PROJECT_ROOT = os.path.dirname(os.path.dirname(paths.script_path))

ScriptFile = namedtuple("ScriptFile", ["basedir", "filename", "path"])

extensions: list[Extension] = []
extension_paths: dict[str, Extension] = {}
loaded_extensions: dict[str, Extension] = {}


@dataclass
class Extension:
    name: str
    path: str
    enabled: bool = True
    is_builtin: bool = False
    remote: str | None = None
    branch: str | None = None
    commit_hash: str = ""
    version: str = ""
    commit_date: int | None = None
    status: str = ""

    @property
    def canonical_name(self) -> str:
        return self.name.lower().strip()

    def read_info_from_repo(self) -> None:
        """Fill in where the extension came from; this host installs nothing, so there is nothing to find out."""

    def list_files(self, subdir: str, extension: str) -> list[ScriptFile]:
        """Files directly in one subfolder whose name ends in `extension`; deeper folders are not looked into."""
        folder = os.path.join(self.path, subdir)
        if not os.path.isdir(folder):
            return []
        found = [ScriptFile(self.path, name, os.path.join(folder, name)) for name in sorted(os.listdir(folder))]
        return [f for f in found if os.path.splitext(f.path)[1].lower() == extension and os.path.isfile(f.path)]


def active() -> list[Extension]:
    """Extensions that run, after the two settings and the two switches by which a user turns them off."""
    choice = shared.opts.disable_all_extensions
    if shared.cmd_opts.disable_all_extensions or choice == "all":
        return []
    builtin_only = shared.cmd_opts.disable_extra_extensions or choice == "extra"
    return [ext for ext in extensions if ext.enabled and (ext.is_builtin or not builtin_only)]


def _folders() -> list[tuple[str, bool]]:
    """(path, is built in) of every extension folder, in loading order."""
    found = []
    for parent, is_builtin in ((paths.extensions_builtin_dir, True), (paths.extensions_dir, False)):
        names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        others = {*family.LORA_EXTENSIONS} - {family.current.lora_extension} if is_builtin else ()
        found += [(os.path.join(parent, name), is_builtin) for name in names if name not in others]
        if is_builtin:
            found.append((PROJECT_ROOT, False))
    return [(path, is_builtin) for path, is_builtin in found if os.path.isdir(path)]


def list_extensions() -> None:
    """Look for extensions anew; one whose name is taken already is reported and left out."""
    extensions.clear()
    extension_paths.clear()
    loaded_extensions.clear()
    for path, is_builtin in _folders():
        name = os.path.basename(path)
        ext = Extension(name, path, name not in shared.opts.disabled_extensions, is_builtin)
        twin = loaded_extensions.get(ext.canonical_name)
        if twin is not None:
            errors.report(f"two extensions are called {ext.canonical_name}: {twin.path} is used, {path} is not")
            continue
        extensions.append(ext)
        extension_paths[path] = ext
        loaded_extensions[ext.canonical_name] = ext


def find_extension(filename: str) -> Extension | None:
    """The extension that a file belongs to, which is the innermost where one lies within another."""
    folder = os.path.dirname(os.path.realpath(filename))
    while folder not in extension_paths:
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return extension_paths[folder]


def run_installers() -> None:
    """Run each enabled extension's install.py in its own process; one that fails is reported, and the start goes on."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(
        part for part in (paths.script_path, os.environ.get("PYTHONPATH", "")) if part)}
    for ext in active():
        installer = os.path.join(ext.path, "install.py")
        if ext.is_builtin or not os.path.isfile(installer):
            continue
        result = subprocess.run([sys.executable, installer], env=env, capture_output=True, text=True)
        if result.stdout.strip():
            print(result.stdout.strip())
        if result.returncode != 0:
            errors.report(f"install.py of {ext.name} failed with code {result.returncode}:\n{result.stderr.strip()}")
