"""The host's folders under the names that extensions import, and the host's root on `sys.path`."""
from __future__ import annotations

import sys

from modules.paths_internal import (  # noqa: F401
    cwd,
    data_path,
    default_output_dir,
    extensions_builtin_dir,
    extensions_dir,
    models_path,
    modules_path,
    script_path,
)

if script_path not in sys.path:
    sys.path.insert(0, script_path)
