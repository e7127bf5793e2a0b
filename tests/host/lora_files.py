"""LoRA files in kohya's format for whatever model is loaded, and their deltas in float64."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ATTENTION_PARTS = re.compile(r"(attn[12]_to_(q|k|v|out_0)|ff_net_0_proj|ff_net_2|proj_in|proj_out)$")
TEXT_ENCODER_PARTS = re.compile(r"(self_attn_(q|k|v|out)_proj|mlp_fc[12])$")


def shape_of(layer: nn.Module) -> torch.Size:
    """The shape of the layer's weight; hosts have classes of their own for linear layers."""
    weight = getattr(layer, "weight", None)
    return weight.shape if isinstance(weight, Tensor) else torch.Size()


def attention_layers(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """What kohya's scripts train by default: the attention of the U-Net, and the text encoder."""
    return {
        name: layer
        for name, layer in layers.items()
        if (ATTENTION_PARTS.search(name) if name.startswith("diffusion_model") else TEXT_ENCODER_PARTS.search(name))
        and len(shape_of(layer)) > 1
    }


def conv_layers(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The 3x3 convolutions of the U-Net's blocks, which a LoCon trains too."""
    return {
        name: layer
        for name, layer in layers.items()
        if name.startswith("diffusion_model") and shape_of(layer)[2:] == (3, 3)
    }


def kohya_name(layer: str) -> str:
    if layer.startswith("diffusion_model"):
        return "lora_unet" + layer.removeprefix("diffusion_model")
    return "lora_te1_text_model" + layer.partition("transformer_text_model")[2]


def write_lora(
    path: Path,
    layers: Mapping[str, nn.Module],
    *,
    seed: int,
    rank: int = 4,
    alpha: float = 2.0,
    size: float = 0.3,
    mid: bool = False,
    width: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Write a LoRA for ``layers``; with ``mid``, in LyCORIS' CP form wherever the kernel is larger than 1x1.

    A ``width`` is taken for the layers' number of inputs, which makes a file for some other model.

    Returns:
        {layer name: its delta at strength 1, float64, in the weight's shape}.
    """
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    deltas = {}
    for name, layer in layers.items():
        out, into, *kernel = layer.weight.shape
        into = width or into
        scale = size * float(layer.weight.detach().double().std()) / rank**0.5
        use_mid = mid and kernel not in ([], [1, 1])
        down_shape = (rank, into, *([1, 1] if use_mid else kernel))
        down = torch.randn(down_shape, generator=random).to(dtype)
        up = (torch.randn((out, rank, *([1] * len(kernel))), generator=random) * scale).to(dtype)
        key = kohya_name(name)
        tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"] = down, up
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
        if use_mid:
            core = (torch.randn((rank, rank, *kernel), generator=random) * 0.5).to(dtype)
            tensors[f"{key}.lora_mid.weight"] = core
            delta = torch.einsum(
                "nmkl,in,mj->ijkl", core.double(), up.double().flatten(1), down.double().flatten(1)
            )
        else:
            delta = (up.double().flatten(1) @ down.double().flatten(1)).reshape(out, into, *kernel)
        deltas[name] = delta * (alpha / rank)
    save_file(tensors, path, metadata={"ss_network_dim": str(rank), "ss_output_name": path.stem})
    return deltas
