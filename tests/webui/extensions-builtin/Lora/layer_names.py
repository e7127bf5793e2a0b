"""Which layer of the model a name in a network file means."""
from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

RESNET_PARTS = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
OPEN_CLIP_PARTS = (("self_attn", "attn"), ("mlp_fc1", "mlp_c_fc"), ("mlp_fc2", "mlp_c_proj"))

re_x_proj = re.compile(r"(.*)_([qkv]_proj)$")


def _part(kind: str, part: str) -> str:
    return RESNET_PARTS.get(part, part) if kind == "resnets" else part


def _down(block: str, kind: str, index: str, part: str) -> str:
    number = 1 + 3 * int(block) + int(index)
    return f"diffusion_model_input_blocks_{number}_{int(kind == 'attentions')}_{_part(kind, part)}"


def _middle(kind: str, index: str, part: str) -> str:
    number = 1 if kind == "attentions" else 2 * int(index)
    return f"diffusion_model_middle_block_{number}_{_part(kind, part)}"


def _up(block: str, kind: str, index: str, part: str) -> str:
    number = 3 * int(block) + int(index)
    return f"diffusion_model_output_blocks_{number}_{int(kind == 'attentions')}_{_part(kind, part)}"


def _upsampler(block: str) -> str:
    # The first up block has no attention, so the upsampler stands one place earlier in it.
    return f"diffusion_model_output_blocks_{2 + 3 * int(block)}_{2 if int(block) else 1}_conv"


UNET_RULES: tuple[tuple[re.Pattern[str], Callable[..., str]], ...] = tuple(
    (re.compile("lora_unet_" + pattern), rule)
    for pattern, rule in (
        (r"conv_in(.*)", lambda rest: f"diffusion_model_input_blocks_0_0{rest}"),
        (r"conv_out(.*)", lambda rest: f"diffusion_model_out_2{rest}"),
        (r"time_embedding_linear_(\d+)(.*)", lambda n, rest: f"diffusion_model_time_embed_{2 * int(n) - 2}{rest}"),
        (r"down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", _down),
        (r"mid_block_(attentions|resnets)_(\d+)_(.+)", _middle),
        (r"up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", _up),
        (r"down_blocks_(\d+)_downsamplers_0_conv", lambda n: f"diffusion_model_input_blocks_{3 + 3 * int(n)}_0_op"),
        (r"up_blocks_(\d+)_upsamplers_0_conv", _upsampler),
    )
)
RE_TEXT_ENCODER = re.compile(r"lora_te(2?)_text_model_encoder_layers_(\d+)_(.+)")


def convert_diffusers_name_to_compvis(key: str, is_sd2: bool) -> str:
    """A layer's name as trainers write it (after diffusers' modules) to its name in the model's own modules.

    A name that is of no such form is given back as it is.
    """
    for pattern, rule in UNET_RULES:
        if m := pattern.match(key):
            return rule(*m.groups())
    m = RE_TEXT_ENCODER.match(key)
    if m is None:
        return key
    second, layer, part = m.groups()
    if not second and not is_sd2:
        return f"transformer_text_model_encoder_layers_{layer}_{part}"
    for clip, open_clip in OPEN_CLIP_PARTS:
        part = part.replace(clip, open_clip)
    prefix = "1_" if second else ""
    return f"{prefix}model_transformer_resblocks_{layer}_{part}"


def find_layer(name: str, layers: dict[str, nn.Module]) -> tuple[str, nn.Module | None]:
    """The layer that a file's `name` means, under which of the model's names. No such layer: None.

    A q, k or v of a MultiheadAttention gives that layer, under its name with "_q_proj" and so on behind it.
    """
    is_sd2 = "model_transformer_resblocks" in layers
    key = convert_diffusers_name_to_compvis(name, is_sd2)
    layer = layers.get(key)
    if layer is None and (m := re_x_proj.match(key)):
        layer = layers.get(m.group(1))
    if layer is not None:
        return key, layer
    for theirs, ours in (
        ("lora_unet", "diffusion_model"),
        ("lora_te1_text_model", "0_transformer_text_model"),
        ("lora_te1_text_model", "transformer_text_model"),
        ("oft_unet", "diffusion_model"),
    ):
        if theirs in name and (layer := layers.get(name.replace(theirs, ours))) is not None:
            return name.replace(theirs, ours), layer
    return key, None
