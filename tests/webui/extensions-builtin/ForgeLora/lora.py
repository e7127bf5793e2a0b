"""The module's name before LyCORIS networks came."""
from modules.lora.old_names import *  # noqa: F403
