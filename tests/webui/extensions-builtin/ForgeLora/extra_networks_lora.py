"""The <lora:name:strength> tag, by the name that extensions import it by."""
from modules.lora.tag import ExtraNetworkLora  # noqa: F401
