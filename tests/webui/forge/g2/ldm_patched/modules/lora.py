"""Which parameters a LoRA file is for. This host has its merge elsewhere: `ModelPatcher.calculate_weight`."""

from modules_forge.files import load_lora  # noqa: F401
from modules_forge.names import clip_names as model_lora_keys_clip  # noqa: F401
from modules_forge.names import unet_names as model_lora_keys_unet  # noqa: F401
