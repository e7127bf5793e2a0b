"""Which parameter of a model a name in a LoRA file means."""

from __future__ import annotations

import re

from torch import nn

RESNET_PARTS = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}
OUTSIDE_BLOCKS = {
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
}
RE_TEXT_LAYER = re.compile(r"(clip_[lg])\.transformer\.text_model\.(encoder\.layers\.\d+\.(self_attn|mlp)\..+)\.weight")
RE_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)|middle_block\.(\d)\.(.+)")


def diffusers_name(path: str) -> str | None:
    """The name that diffusers has for a layer of the U-Net; None if it has none."""
    if path in OUTSIDE_BLOCKS:
        return OUTSIDE_BLOCKS[path]
    m = RE_BLOCK.fullmatch(path)
    if m is None:
        return None
    if m[5] is not None:
        number, part = int(m[5]), m[6]
        return f"mid_block.attentions.0.{part}" if number == 1 else _resnet("mid_block", number // 2, part)
    going_down, number, place, part = m[1] == "input_blocks", int(m[2]), int(m[3]), m[4]
    block, index = divmod(number - 1 if going_down else number, 3)
    name = f"{'down' if going_down else 'up'}_blocks.{block}"
    if part == "op":
        return f"{name}.downsamplers.0.conv"
    if part == "conv":
        return f"{name}.upsamplers.0.conv"
    return f"{name}.attentions.{index}.{part}" if place else _resnet(name, index, part)


def _resnet(block: str, index: int, part: str) -> str:
    return f"{block}.resnets.{index}.{RESNET_PARTS.get(part, part)}"


def unet_names(model: nn.Module) -> dict[str, str]:
    """{name in a file: parameter}: after the model's own modules, and after those of diffusers."""
    found = {}
    for key, _parameter in model.named_parameters():
        path, _, parameter = key.removeprefix("diffusion_model.").rpartition(".")
        if parameter != "weight":
            continue
        found[f"diffusion_model.{path}"] = key
        for name in (path, diffusers_name(path)):
            if name is not None:
                found[f"lora_unet_{name.replace('.', '_')}"] = key
    return found


def clip_names(model: nn.Module) -> dict[str, str]:
    """{name in a file: parameter} of the text encoders, of which a second one is called te2."""
    found = {}
    for key, _parameter in model.named_parameters():
        m = RE_TEXT_LAYER.fullmatch(key)
        if m is None:
            continue
        prefixes = ("te2",) if m[1] == "clip_g" and hasattr(model, "clip_l") else ("te", "te1")
        found.update({f"lora_{prefix}_text_model_{m[2].replace('.', '_')}": key for prefix in prefixes})
    return found
