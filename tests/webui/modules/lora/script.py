"""What the built-in LoRA extensions of all families put into the page and the API."""
from __future__ import annotations

import re

import gradio as gr
from fastapi import FastAPI

from modules import shared
from modules.lora import files, lists

re_lora = re.compile("<lora:([^:]+):")


def create_lora_json(obj: files.NetworkOnDisk) -> dict:
    return {"name": obj.name, "alias": obj.alias, "path": obj.filename, "metadata": obj.metadata}


async def list_loras() -> list[dict]:
    return list(map(create_lora_json, lists.available_networks.values()))


async def look_for_loras() -> None:
    lists.list_available_networks()


def api_networks(_: gr.Blocks | None, app: FastAPI) -> None:
    app.add_api_route("/sdapi/v1/loras", list_loras, methods=["GET"])
    app.add_api_route("/sdapi/v1/refresh-loras", look_for_loras, methods=["POST"])


def infotext_pasted(infotext: str, params: dict) -> None:
    """Rename networks in a pasted prompt to what files of the same hash are called here."""
    text = params.get("Lora hashes")
    if not text:
        return
    pairs = (item.split(":", 1) for item in text.split(",") if ":" in item)
    hashes = {name.strip(): value.strip() for name, value in pairs}

    def local_name(m: re.Match) -> str:
        file = lists.available_network_hash_lookup.get(hashes.get(m.group(1), ""))
        return m.group(0) if file is None else f"<lora:{file.get_alias()}:"

    params["Prompt"] = re_lora.sub(local_name, params["Prompt"])


def add_settings() -> None:
    option = shared.OptionInfo
    shared.options_templates.update(shared.options_section(("extra_networks", "Extra Networks"), {
        "sd_lora": option(
            "None", "A network for every prompt", gr.Dropdown,
            lambda: {"choices": ["None", *lists.available_networks]}, refresh=lists.list_available_networks,
        ),
        "lora_preferred_name": option(
            "Alias from file", "Name of a Lora in a prompt", gr.Radio, {"choices": ["Alias from file", "Filename"]}
        ),
        "lora_add_hashes_to_infotext": option(True, "Lora hashes in the infotext"),
        "lora_in_memory_limit": option(0, "Lora networks kept in memory", gr.Number, {"precision": 0}),
        "lora_not_found_warning_console": option(False, "Missing Lora: warn in the console"),
        "lora_not_found_gradio_warning": option(False, "Missing Lora: warn on the page"),
    }))
