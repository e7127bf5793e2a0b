"""The host-free half can be imported where there is no torch, no gradio and no host."""

import subprocess
import sys
from pathlib import Path

MODULES = [
    "request.arguments",
    "bake.hashes",
    "bake.metadata",
    "bake.new_file",
    "tags.blocks",
    "plan.courses",
    "files.head",
    "files.origin",
    "tags.elements",
    "plan.hits",
    "request.infotext",
    "plan.keyframes",
    "files.foreign_names",
    "tags.library",
    "tags.limits",
    "plan.plan",
    "tags.presets",
    "request.preview",
    "tags.prompt",
    "tags.saving",
    "tags.schedule",
    "engine.strengths",
    "tags.weights",
]
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_no_module_of_the_host_free_half_imports_torch_gradio_or_a_host():
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        f"for name in {MODULES!r}: __import__('lbw.' + name)\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'gradio', 'modules', 'networks', 'numpy'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
