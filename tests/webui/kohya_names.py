"""Which layers a LoRA usually changes, and what kohya's trainer calls SD1's."""
from __future__ import annotations

import re

UNET_LINEAR = re.compile(r"(attn\d\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|proj_(in|out))$")
TEXT_LINEAR = re.compile(r"(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$")
UNET_CONV = re.compile(r"(in_layers\.2|out_layers\.3|skip_connection|0\.op|\d\.conv)$")


def diffusers_name(name: str) -> str:
    """An SD1 U-Net layer's name as diffusers, and so kohya's trainer, has it."""
    area, rest = name.split(".", 1)
    block, _, layer = rest.partition(".")
    place, _, layer = layer.partition(".")
    if area == "middle_block":
        attention = block == "1"
        prefix = "mid_block_attentions_0" if attention else f"mid_block_resnets_{int(block) // 2}"
        layer = rest.partition(".")[2]
    else:
        down = area == "input_blocks"
        level, index = divmod(int(block) - down, 3)
        side = "down_blocks" if down else "up_blocks"
        if layer in ("op", "conv"):
            return f"lora_unet_{side}_{level}_{'downsamplers' if down else 'upsamplers'}_0_conv"
        attention = place == "1"
        prefix = f"{side}_{level}_{'attentions' if attention else 'resnets'}_{index}"
    parts = {"in_layers.2": "conv1", "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
    return f"lora_unet_{prefix}_{parts.get(layer, layer).replace('.', '_')}"
