"""Every family's models: their blocks, the layers that a LoRA can be for, and LoRA files for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lbw.tags.families import SD1

Deltas = dict[str, dict[str, Tensor]]
"""{layer name: {parameter: a network's delta at strength 1, in float64}}"""


def labels_of(model: Any) -> dict[nn.Module, str | None]:
    """{layer: its block}, by where the layer hangs in the model, whatever it is called."""
    unet = model.model.diffusion_model
    parts = {"input_blocks": SD1.labels[1:13], "output_blocks": SD1.labels[14:]}
    parts["joint_blocks"] = parts["input_blocks"] + parts["output_blocks"]
    found: dict[nn.Module, str | None] = dict.fromkeys(model.modules(), "BASE")
    found.update(dict.fromkeys(unet.modules()))
    for part, labels in parts.items():
        for block, label in zip(getattr(unet, part, ()), labels, strict=False):
            found.update(dict.fromkeys(block.modules(), label))
    found.update(dict.fromkeys(getattr(unet, "middle_block", nn.Module()).modules(), "M00"))
    return found


def parts_of(name: str, layer: nn.Module) -> dict[str, tuple[str, torch.Size]]:
    """{a part's name in the file: (the parameter that it is for, its shape)}.

    The names are those that trainers give; the host's own where it knows none of theirs, as of the refiner's and SD3's
    text encoders, and of the text side of SD3's attention.
    """
    if isinstance(layer, nn.MultiheadAttention):
        number, _, part = name.partition("resblocks_")[2].partition("_")
        prefix = {"1": "lora_te2", "m": "lora_te"}.get(name[0])
        key = f"{prefix}_text_model_encoder_layers_{number}_self_{part}" if prefix else name
        shape = layer.out_proj.weight.shape
        parts = {f"{key}_{part}_proj": ("in_proj_weight", shape) for part in "qkv"}
        return parts | {f"{key}_out_proj": ("out_proj.weight", shape)}
    shape = layer.weight.shape
    if name.endswith("x_block_attn_qkv"):
        number = name.partition("joint_blocks_")[2].partition("_")[0]
        shape = torch.Size((shape[0] // 3, shape[1]))
        return {f"transformer.transformer_blocks.{number}.attn.to_{part}": ("weight", shape) for part in "qkv"}
    if name.startswith("diffusion_model"):
        return {"lora_unet" + name.removeprefix("diffusion_model"): ("weight", shape)}
    if name.startswith(("0_transformer_text_model", "transformer_text_model")):
        return {"lora_te1_text_model" + name.partition("transformer_text_model")[2]: ("weight", shape)}
    if name.startswith(("1_model_transformer_resblocks_", "model_transformer_resblocks_")):
        prefix, _, part = name.partition("model_transformer_resblocks_")
        part = part.replace("mlp_c_fc", "mlp_fc1").replace("mlp_c_proj", "mlp_fc2")
        return {f"lora_te{'2' if prefix else ''}_text_model_encoder_layers_{part}": ("weight", shape)}
    return {name: ("weight", shape)}


def trained_layers(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Every layer of the model that a LoRA can be for."""
    inside = {f"{name}_out_proj" for name, layer in layers.items() if isinstance(layer, nn.MultiheadAttention)}
    return {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.MultiheadAttention) and name not in inside
    }


def write_family_lora(path: Path, layers: Mapping[str, nn.Module], *, seed: int = 5) -> Deltas:
    """Write a LoRA of rank 4, whose values are the same in 16 bits, to which a host may bring them."""
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    deltas: Deltas = {}
    for name, layer in layers.items():
        for key, (parameter, shape) in parts_of(name, layer).items():
            out, into, *kernel = shape
            into = 4 if into == 9 else into
            up = (torch.randn((out, 4), generator=random) * 0.02).half().float()
            down = torch.randn((4, into, *kernel), generator=random).half().float()
            tensors[f"{key}.lora_up.weight"] = up.reshape(out, 4, *[1] * len(kernel))
            tensors[f"{key}.lora_down.weight"] = down
            delta = (up.double() @ down.double().flatten(1)).reshape(out, into, *kernel)
            if into != shape[1]:
                delta = torch.cat([delta, delta.new_zeros(out, shape[1] - into, *kernel)], dim=1)
            known = deltas.setdefault(name, {})
            known[parameter] = torch.cat([known[parameter], delta]) if parameter in known else delta
    save_file(tensors, path)
    return deltas


def weights_of(layers: Mapping[str, Any], deltas: Deltas) -> dict[tuple[str, str], Tensor]:
    return {
        (name, parameter): layers[name].get_parameter(parameter).detach().clone()
        for name, parameters in deltas.items()
        for parameter in parameters
    }
