"""A host that no adapter serves: the extension says so, and the host works as if it were not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.real_host import PROJECT

PROGRAM = """
import json, sys, types
from pathlib import Path

import gradio as gr

from tests.host.webui import STAND_IN, WebUI

sys.path.insert(0, str(STAND_IN))
from modules import script_callbacks, script_loading

load = script_loading.load_module

def load_as_a_strange_host(path):
    known = sys.modules.get("networks")
    if path.endswith("lora_block_weight.py"):
        sys.modules["networks"] = types.SimpleNamespace(**dict.fromkeys(sys.argv[2:]))
    try:
        return load(path)
    finally:
        if known is not None:
            sys.modules["networks"] = known

script_loading.load_module = load_as_a_strange_host
webui = WebUI(Path(sys.argv[1]))
result = webui.generate(prompt="a red cat <lora:none:1:lbw=OUTD:stop=2>", steps=2)
script = webui.script(webui.scripts.scripts_txt2img)
with gr.Blocks() as page:
    arguments = script.ui(False)
callbacks = [each.script for kind in script_callbacks.callback_map.values() for each in kind]
print("RESULT", json.dumps({
    "images": len(result.images),
    "infotext": result.infotexts[0],
    "comments": result.comments or "",
    "arguments": len(arguments),
    "panel": [block.value for block in page.blocks.values() if isinstance(block, gr.Markdown)],
    "titles": [each.title() for each in webui.scripts.scripts_txt2img.scripts].count(script.title()),
    "callbacks": sum("lora_block_weight" in each for each in callbacks),
}))
"""
"""Starts a stand-in whose LoRA loader is of another kind, as far as the extension can see, and makes an image."""



@pytest.mark.parametrize("names", [(), ("network_apply_weights", "load_lora_for_models")], ids=["other", "both"])
@pytest.mark.skipif("WEBUI_ROOT" in os.environ, reason="it is about a host that there is not")
def test_a_host_that_no_adapter_serves_works_as_if_the_extension_were_not_there(tmp_path: Path, names: tuple[str, ...]):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), *names],
        capture_output=True, text=True, cwd=PROJECT, check=True, env={**os.environ, "WEBUI_DATA": str(tmp_path)},
    )  # fmt: skip
    found = json.loads(run.stdout.partition("RESULT ")[2])
    said = [line for line in (run.stdout + run.stderr).splitlines() if "LoRA Block Weight:" in line]
    assert len(said) == 1 and "off, because this WebUI " in said[0] and "LoRAs" in said[0]
    assert found["panel"] == [f"Off, because {said[0].partition('off, because ')[2]}."]
    assert (found["images"], found["titles"], found["arguments"], found["callbacks"]) == (1, 1, 0, 0)
    assert "LBW" not in found["infotext"] and "LoRA Block Weight" not in found["comments"]
