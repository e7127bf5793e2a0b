"""What the host loads of this extension: it registers tag, settings, and API."""
from __future__ import annotations

import lora  # noqa: F401  (extensions import it by this name)

import extra_networks_lora
import networks
from modules import extra_networks, family, script_callbacks
from modules.lora import script


def before_ui() -> None:
    answers = networks.extra_network_lora = extra_networks_lora.ExtraNetworkLora()
    answers.leaves_zeros_out = family.current.name == "forge-g2"
    extra_networks.register_extra_network(answers)
    if family.current.name == "forge-g3":
        extra_networks.register_extra_network_alias(answers, "lyco")


script_callbacks.on_before_ui(before_ui)
script_callbacks.on_infotext_pasted(script.infotext_pasted)
script_callbacks.on_app_started(script.api_networks)
script.add_settings()
