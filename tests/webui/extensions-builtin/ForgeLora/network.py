"""Network files, and networks in use: those have no parts here, which are the patches of `forge_objects`."""
from modules.lora.files import Network, NetworkOnDisk, SdVersion  # noqa: F401
