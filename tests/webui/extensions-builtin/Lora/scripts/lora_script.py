"""What the host loads of this extension: it patches the layers and registers tag, settings, and API."""
from __future__ import annotations

import lora  # noqa: F401  (extensions import it by this name)

import extra_networks_lora
import lora_patches
import networks
from modules import extra_networks, script_callbacks, shared
from modules.lora import script


def unload() -> None:
    networks.originals.undo()


def before_ui() -> None:
    answers = networks.extra_network_lora = extra_networks_lora.ExtraNetworkLora()
    extra_networks.register_extra_network(answers)
    extra_networks.register_extra_network_alias(answers, "lyco")


networks.originals = lora_patches.LoraPatches()

script_callbacks.on_model_loaded(networks.assign_network_names_to_compvis_modules)
script_callbacks.on_script_unloaded(unload)
script_callbacks.on_before_ui(before_ui)
script_callbacks.on_infotext_pasted(script.infotext_pasted)
script_callbacks.on_app_started(script.api_networks)

script.add_settings()
shared.options_templates.update(shared.options_section(("compatibility", "Compatibility"), {
    "lora_functional": shared.OptionInfo(False, "Lora: add to each layer's output, and leave the weights alone"),
}))
shared.opts.onchange("lora_in_memory_limit", networks.purge_networks_from_memory)
