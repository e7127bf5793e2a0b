"""What the host loads of this extension: it patches the layers and registers tag, settings, and API."""
from __future__ import annotations

import re

import gradio as gr
import lora  # noqa: F401  (extensions import it by this name)
from fastapi import FastAPI

import extra_networks_lora
import lora_patches
import network
import networks
from modules import extra_networks, script_callbacks, shared

re_lora = re.compile("<lora:([^:]+):")


def unload() -> None:
    networks.originals.undo()


def before_ui() -> None:
    answers = networks.extra_network_lora = extra_networks_lora.ExtraNetworkLora()
    extra_networks.register_extra_network(answers)
    extra_networks.register_extra_network_alias(answers, "lyco")


def create_lora_json(obj: network.NetworkOnDisk) -> dict:
    return {"name": obj.name, "alias": obj.alias, "path": obj.filename, "metadata": obj.metadata}


async def list_loras() -> list[dict]:
    return list(map(create_lora_json, networks.available_networks.values()))


async def look_for_loras() -> None:
    networks.list_available_networks()


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
        file = networks.available_network_hash_lookup.get(hashes.get(m.group(1), ""))
        return m.group(0) if file is None else f"<lora:{file.get_alias()}:"

    params["Prompt"] = re_lora.sub(local_name, params["Prompt"])


networks.originals = lora_patches.LoraPatches()

script_callbacks.on_model_loaded(networks.assign_network_names_to_compvis_modules)
script_callbacks.on_script_unloaded(unload)
script_callbacks.on_before_ui(before_ui)
script_callbacks.on_infotext_pasted(infotext_pasted)
script_callbacks.on_app_started(api_networks)

OptionInfo = shared.OptionInfo
shared.options_templates.update(shared.options_section(("extra_networks", "Extra Networks"), {
    "sd_lora": OptionInfo(
        "None", "A network for every prompt", gr.Dropdown,
        lambda: {"choices": ["None", *networks.available_networks]}, refresh=networks.list_available_networks,
    ),
    "lora_preferred_name": OptionInfo(
        "Alias from file", "Name of a Lora in a prompt", gr.Radio, {"choices": ["Alias from file", "Filename"]}
    ),
    "lora_add_hashes_to_infotext": OptionInfo(True, "Lora hashes in the infotext"),
    "lora_in_memory_limit": OptionInfo(0, "Lora networks kept in memory", gr.Number, {"precision": 0}),
    "lora_not_found_warning_console": OptionInfo(False, "Missing Lora: warn in the console"),
    "lora_not_found_gradio_warning": OptionInfo(False, "Missing Lora: warn on the page"),
}))
shared.options_templates.update(shared.options_section(("compatibility", "Compatibility"), {
    "lora_functional": OptionInfo(False, "Lora: add to each layer's output, and leave the weights alone"),
}))
shared.opts.onchange("lora_in_memory_limit", networks.purge_networks_from_memory)
