"""Where things are. Safe to import before anything else is set up."""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

cwd = os.getcwd()
modules_path = os.path.dirname(os.path.realpath(__file__))
script_path = os.path.dirname(modules_path)


def normalized_filepath(filepath: str) -> str:
    """An absolute path as text; `type=` of the command line's path arguments."""
    return str(Path(filepath).absolute())


def _parse_early_arguments() -> argparse.Namespace:
    """Read the arguments that other arguments' defaults depend on."""
    default = os.environ.get("WEBUI_DATA") or os.path.join(script_path, "data")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data-dir", type=normalized_filepath, default=normalized_filepath(default))
    parser.add_argument("--models-dir", type=normalized_filepath, default=None)
    return parser.parse_known_args(sys.argv[1:])[0]


cmd_opts_pre = _parse_early_arguments()

data_path = cmd_opts_pre.data_dir
models_path = cmd_opts_pre.models_dir or os.path.join(data_path, "models")
extensions_dir = os.path.join(data_path, "extensions")
extensions_builtin_dir = os.path.join(script_path, "extensions-builtin")
default_output_dir = os.path.join(data_path, "outputs")
