"""Starts a real WebUI with its page, in a process of its own: WEBUI_PYTHON names the Python that it is installed for,
and the rest is as `real_host.py` says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
from safetensors import safe_open

from tests.host import real_host
from tests.host.lora_files import attention_layers, write_lora
from tests.server import START_LIMIT_S, Server, free_port, running_command

# In a checkpoint of SD1, what stands before the names that the hosts' layers have.
PREFIXES = ("model.", "cond_stage_model.")


@contextmanager
def running_real_server(data: Path) -> Iterator[Server]:
    """The WebUI with the LoRA files `demo` and `demo2`, whose settings, images and extensions are in ``data``."""
    root, port = Path(os.environ["WEBUI_ROOT"]), free_port()
    real_host.link_extensions(data)
    # A preview would need a model of its own, which is downloaded.
    (data / "config.json").write_text(json.dumps({"live_previews_enable": False}))
    # Gradio 4 serves what is in a folder that it was told of, and hosts tell it of the data folder alone.
    command = real_host.command_line(data, "--port", str(port), "--gradio-allowed-path", str(root))
    write_demo_loras(data / "models" / "Lora", Path(command[command.index("--ckpt") + 1]))
    command = [os.environ["WEBUI_PYTHON"], *command]
    with running_command(command, port, data, ready_line="Startup time", folder=root) as server:
        # The Forge family loads the model for the first image.
        small = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64, "save_images": False}
        requests.post(f"{server.url}/sdapi/v1/txt2img", json=small, timeout=START_LIMIT_S).raise_for_status()
        yield server


def write_demo_loras(folder: Path, checkpoint: Path) -> None:
    folder.mkdir(parents=True)
    layers = attention_layers(layers_of(checkpoint))
    for seed, name in enumerate(("demo", "demo2"), 1):
        write_lora(folder / f"{name}.safetensors", layers, seed=seed)


def layers_of(checkpoint: Path) -> dict[str, Any]:
    """{name: what has its weight}, by the names that the host has for them."""
    with safe_open(checkpoint, "pt") as file:
        return {
            key.removeprefix(prefix).removesuffix(".weight").replace(".", "_"):
                SimpleNamespace(weight=file.get_tensor(key))
            for prefix in PREFIXES
            for key in file.keys()  # noqa: SIM118  it is no dict
            if key.startswith(prefix) and key.endswith(".weight")
        }
