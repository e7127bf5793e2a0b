"""Which adapter serves this host: found once, when the extension is loaded, by what the host can do.

Importing this file raises :class:`lbw.hosts.adapter.UnservedHostError` where none does.
"""

from __future__ import annotations

from lbw.hosts.adapter import Adapter, UnservedHostError

_KNOWN = "AUTOMATIC1111's WebUI (1.6 or later) with its built-in Lora extension"


def _find() -> Adapter:
    try:
        import networks
    except ImportError as error:
        raise UnservedHostError(f"this WebUI has no LoRA loader that is known; expected {_KNOWN}") from error
    if hasattr(networks, "network_apply_weights"):
        from lbw.hosts.a1111.adapter import A1111  # it can be imported on its own family of hosts only

        return A1111()
    raise UnservedHostError(f"this WebUI puts LoRAs into a model in a way that is not known; expected {_KNOWN}")


adapter = _find()
