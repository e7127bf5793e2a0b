"""Which adapter serves this host: found once, when the extension is loaded, by what the host can do.

Importing this file raises :class:`lbw.hosts.adapter.UnservedHostError` where none does.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from lbw.hosts.adapter import Adapter, UnservedHostError
from modules import extensions

_KNOWN = "AUTOMATIC1111's WebUI (1.6 or later) or one of the Forge family, with its built-in LoRA extension"


def require() -> ModuleType:
    """The host's LoRA loader.

    Raises:
        UnservedHostError: there is none, or it is switched off.
    """
    try:
        import networks
    except ModuleNotFoundError as error:
        if error.name != "networks":
            raise
        raise UnservedHostError(f"this WebUI has no LoRA loader that is known; expected {_KNOWN}") from error
    file = getattr(networks, "__file__", None)  # it stays imported where its extension is switched off
    folders = {Path(each.path).resolve() for each in extensions.active()}
    if file is not None and folders.isdisjoint(Path(file).resolve().parents):
        raise UnservedHostError(f"this WebUI's LoRA loader is switched off; expected {_KNOWN}")
    return networks


def _find() -> Adapter:
    networks = require()
    if hasattr(networks, "load_lora_for_models"):
        from lbw.hosts.forge.adapter import Forge  # each can be imported on its own family of hosts only

        return Forge()
    if hasattr(networks, "network_apply_weights"):  # a name that the other family may have kept
        from lbw.hosts.a1111.adapter import A1111

        return A1111()
    raise UnservedHostError(f"this WebUI puts LoRAs into a model in a way that is not known; expected {_KNOWN}")


adapter = _find()
