"""Writes demo checkpoints and demo LoRA files into the data folder, the same bytes each time.

Usage: python make_demo.py [--data-dir DIR] [--force] [--rarer] [--trained]

With --trained, those of SD1 are the ones that have learned something, from tests/demo_model.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator

import torch
from torch import nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from kohya_names import TEXT_LINEAR, UNET_CONV, UNET_LINEAR, diffusers_name
from network_bytes import serialize

from modules import paths
from modules.models import MODEL_CLASSES

# How strongly a random part of the network speaks, against 1 for passing its input on at the same size.
RESIDUAL_GAIN = 0.5
EPS_NOISE_GAIN = 0.05
COARSE_GAIN = {"sd1": 0.16, "inpainting": 0.16, "edit": 0.16, "sd2": 0.16, "sdxl": 0.04, "refiner": 0.04}
FINE_SHARE = 0.15
RESIDUAL_ENDS = ("out_layers.3", "to_out.0", "ff.net.2", "proj_out", "fc2", "attn.out_proj", "c_proj")

# One latent channel each for brightness, red-green, blue-yellow, and a little of everything: (latent, RGB).
LATENT_TO_RGB = torch.tensor([[0.5, 0.5, 0.5], [0.45, -0.4, 0.0], [-0.15, -0.15, 0.5], [0.15, 0.1, 0.1]])

RANK, ALPHA = 4, 2.0
LORA_GAIN = 0.2

MID_LAYER = "input_blocks.4.0.in_layers.2"


def seeded(*names: str) -> torch.Generator:
    """Random numbers that depend on what they are for, and not on the order in which things are made."""
    return torch.Generator().manual_seed(zlib.crc32("/".join(names).encode()))


def random_tensor(generator: torch.Generator, shape: tuple[int, ...], gain: float = 1.0) -> torch.Tensor:
    """Values that keep the size of what is multiplied by them (times `gain`)."""
    fan_in = math.prod(shape[1:]) or 1
    return torch.randn(shape, generator=generator) * (gain / fan_in**0.5)


def make_weight(name: str, shape: tuple[int, ...], norm: bool, seed: str) -> torch.Tensor:
    """One tensor of a model. No layer is silent: also those that training would start at zero speak."""
    generator = seeded(seed, name)
    if norm:
        noise = 0.1 * torch.randn(shape, generator=generator)
        return noise + (1.0 if name.endswith("weight") else 0.1)
    if name.endswith("bias"):
        return 0.05 * torch.randn(shape, generator=generator)
    if "embedding" in name:
        return 0.5 * torch.randn(shape, generator=generator) + 0.1
    layer = name.removesuffix(".weight").removesuffix("_weight")
    return random_tensor(generator, shape, RESIDUAL_GAIN if layer.endswith(RESIDUAL_ENDS) else 1.0)


def favour_coarse_features(unet: dict[str, torch.Tensor]) -> None:
    """Let the blocks going up listen more to the coarser block below than to the finer one across.

    With both alike, pictures would be nothing but fine grain.
    """
    below = unet["middle_block.2.out_layers.3.weight"].shape[0]
    number = 0
    while f"output_blocks.{number}.0.in_layers.2.weight" in unet:
        block = f"output_blocks.{number}.0"
        for part in ("in_layers.2", "skip_connection"):
            unet[f"{block}.{part}.weight"][:, below:] *= FINE_SHARE
        below = unet[f"{block}.out_layers.3.weight"].shape[0]
        number += 1


def pass_latents_through(unet: dict[str, torch.Tensor], coarse_gain: float, latent_channels: int = 4) -> None:
    """Make the U-Net predict its own normalised input, and let its random features only disturb that.

    An untrained network's noise prediction has nothing to do with the input, and sampling would run away. Here each
    latent channel x travels as the pair (x, -x) by the shortest way through the U-Net, from the first to the last
    block. As silu(x) - silu(-x) = x, the last convolution finds it unharmed.
    """
    signs = torch.stack([torch.eye(latent_channels), -torch.eye(latent_channels)], dim=1).flatten(0, 1)
    pairs = 2 * latent_channels
    first = unet["input_blocks.0.0.weight"]
    first[:pairs] = 0
    first[:pairs, :latent_channels, 1, 1] = signs
    unet["input_blocks.0.0.bias"][:pairs] = 0

    last_block = f"output_blocks.{max(int(key.split('.')[1]) for key in unet if key.startswith('output_blocks.'))}"
    skip = unet[f"{last_block}.0.skip_connection.weight"]
    from_below = skip.shape[1] - first.shape[0]
    skip[:pairs] *= coarse_gain
    skip[:pairs, from_below : from_below + pairs, 0, 0] = torch.eye(pairs)
    unet[f"{last_block}.0.skip_connection.bias"][:pairs] = 0
    for name in (f"{last_block}.0.out_layers.3", f"{last_block}.1.proj_out"):
        if f"{name}.weight" in unet:
            unet[f"{name}.weight"][:pairs] *= EPS_NOISE_GAIN
            unet[f"{name}.bias"][:pairs] *= EPS_NOISE_GAIN

    unet["out.0.weight"][:pairs] = 1
    unet["out.0.bias"][:pairs] = 0
    out = unet["out.2.weight"]
    out *= EPS_NOISE_GAIN
    out[:, :pairs] = 0
    out[:, :pairs, 1, 1] = signs.T
    unet["out.2.bias"].zero_()


def map_latents_to_colours(vae: dict[str, torch.Tensor], scale_factor: float) -> None:
    """Let encoder and decoder carry colours, so that img2img starts from the image it is given."""
    for name, tensor in vae.items():
        tensor *= 0.15 if "conv2" in name else 0.3
    for name in ("quant_conv", "post_quant_conv"):
        weight = vae[f"{name}.weight"]
        weight.copy_(torch.eye(weight.shape[0])[:, :, None, None])
        vae[f"{name}.bias"].zero_()
    for name, matrix in (
        ("encoder.conv_in", torch.eye(3)),
        ("encoder.conv_out", torch.linalg.pinv(LATENT_TO_RGB).T / scale_factor),
        ("decoder.conv_in", LATENT_TO_RGB.T * scale_factor),
        ("decoder.conv_out", torch.eye(3)),
    ):
        weight, bias = vae[f"{name}.weight"], vae[f"{name}.bias"]
        rows, columns = matrix.shape
        bias[:rows] = 0
        weight[:rows] = 0 if name.startswith("encoder") else 0.1 * weight[:rows]
        weight[:rows, :columns, 1, 1] = matrix
    vae["encoder.conv_out.weight"][4:] = 0
    vae["encoder.conv_out.bias"][4:] = -30.0  # the logarithm of the variance


def make_checkpoint(kind: str, seed: str) -> dict[str, torch.Tensor]:
    """A whole model's weights, in float16 as checkpoints usually are."""
    model = MODEL_CLASSES[kind]()
    norms = {name for name, module in model.named_modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))}
    state_dict = {
        name: make_weight(name, tuple(value.shape), name.rpartition(".")[0] in norms, seed)
        for name, value in model.state_dict().items()
    }
    if kind in COARSE_GAIN:
        unet = without_prefix(state_dict, "model.diffusion_model.")
        favour_coarse_features(unet)
        pass_latents_through(unet, COARSE_GAIN[kind])
        map_latents_to_colours(without_prefix(state_dict, "first_stage_model."), model.scale_factor)
    return {name: value.half() for name, value in state_dict.items()}


def without_prefix(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors (not copies) under a prefix."""
    return {name[len(prefix):]: value for name, value in state_dict.items() if name.startswith(prefix)}


def lora_layers(kind: str, with_convolutions: bool) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name in the file, name in the model, weight shape) of each layer that a demo LoRA changes."""
    model = MODEL_CLASSES[kind]()
    unet = model.model.diffusion_model
    for name, layer in unet.named_modules():
        if UNET_LINEAR.search(name) or (with_convolutions and UNET_CONV.search(name) and isinstance(layer, nn.Conv2d)):
            key = diffusers_name(name) if kind == "sd1" else "lora_unet_" + name.replace(".", "_")
            yield key, name, tuple(layer.weight.shape)
    prefix = "lora_te" if kind == "sd1" else "lora_te1"
    encoder = model.cond_stage_model if kind == "sd1" else model.conditioner.embedders[0]
    for name, layer in encoder.transformer.named_modules():
        if TEXT_LINEAR.search(name):
            yield f"{prefix}_{name.replace('.', '_')}", name, tuple(layer.weight.shape)
    if kind == "sdxl":
        yield from open_clip_layers(model.conditioner.embedders[1].model.transformer)


def open_clip_layers(transformer: nn.Module) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """SDXL's second text encoder; trainers name it after CLIP's modules, with q, k and v apart."""
    for i, block in enumerate(transformer.resblocks):
        prefix = f"lora_te2_text_model_encoder_layers_{i}"
        shape = tuple(block.attn.out_proj.weight.shape)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{prefix}_self_attn_{part}", f"resblocks.{i}.attn.{part}", shape
        yield f"{prefix}_mlp_fc1", f"resblocks.{i}.mlp.c_fc", tuple(block.mlp.c_fc.weight.shape)
        yield f"{prefix}_mlp_fc2", f"resblocks.{i}.mlp.c_proj", tuple(block.mlp.c_proj.weight.shape)


def lora_tensors(key: str, name: str, shape: tuple[int, ...], seed: str) -> dict[str, torch.Tensor]:
    """The tensors of one layer; one convolution is in the three-part form, with `lora_mid`."""
    generator = seeded(seed, key)
    kernel = shape[2:]
    pointwise = (1,) * len(kernel)
    gain = LORA_GAIN * RANK / ALPHA * (RESIDUAL_GAIN if name.endswith(RESIDUAL_ENDS) else 1.0)
    tensors = {"lora_up.weight": random_tensor(generator, (shape[0], RANK, *pointwise), gain)}
    if name.endswith(MID_LAYER):
        tensors["lora_mid.weight"] = random_tensor(generator, (RANK, RANK, *kernel))
        kernel = pointwise
    tensors["lora_down.weight"] = random_tensor(generator, (RANK, shape[1], *kernel))
    tensors["alpha"] = torch.tensor(ALPHA)
    return {f"{key}.{part}": (value if part == "alpha" else value.half()) for part, value in tensors.items()}


def make_lora(kind: str, name: str, with_convolutions: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A LoRA's tensors and metadata."""
    tensors: dict[str, torch.Tensor] = {}
    for key, layer_name, shape in lora_layers(kind, with_convolutions):
        tensors.update(lora_tensors(key, layer_name, shape, seed=name))
    metadata = {
        "ss_output_name": name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(ALPHA),
        "ss_base_model_version": "sdxl_base_v1-0" if kind == "sdxl" else "sd_v1",
        "ss_v2": "False",
    }
    return tensors, metadata


def write(filename: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    write_bytes(filename, serialize(tensors, metadata))


def write_bytes(filename: str, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    os.makedirs(os.path.dirname(filename), exist_ok=True)
    temporary = f"{filename}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, filename)


CHECKPOINTS = {"demo-sd1": "sd1", "other-sd1": "sd1", "demo-sdxl": "sdxl"}
RARER_CHECKPOINTS = {
    "demo-inpainting": "inpainting", "demo-edit": "edit", "demo-sd2": "sd2", "demo-refiner": "refiner",
    "demo-sd3": "sd3",
}
TRAINED = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "demo_model", "models")
TRAINED_SIDE = 256
"""Height and width that the trained model's pictures had."""
LORAS = {
    "demo": {"kind": "sd1"},
    "demo2": {"kind": "sd1"},
    "demo_locon": {"kind": "sd1", "with_convolutions": True},
    "demo_sdxl": {"kind": "sdxl"},
}


def copy_trained(data: str) -> None:
    """Copy the trained model and its LoRAs where they are not there yet, and have the page start at their size then.

    Raises:
        SystemExit: a file is not the one that was trained.
    """
    with open(os.path.join(TRAINED, "SHA256SUMS")) as file:
        sums = {name: digest for digest, name in (line.split() for line in file)}
    targets = {name: os.path.join(data, "models", name) for name in sums}
    missing = [name for name, path in targets.items() if not os.path.exists(path) or hash_of(path) != sums[name]]
    for name in missing:
        source = os.path.join(TRAINED, name)
        if not os.path.exists(source) or hash_of(source) != sums[name]:
            raise SystemExit(f"{source} is not what SHA256SUMS names, {sums[name]}; git checkout brings it back")
        with open(source, "rb") as file:
            write_bytes(targets[name], file.read())
        print(targets[name])
    if missing:
        filename = os.path.join(data, "ui-config.json")
        settings = {}
        if os.path.exists(filename):
            with open(filename) as file:
                settings = json.load(file)
        sides = {f"{tab}/{side}/value": TRAINED_SIDE for tab in ("txt2img", "img2img") for side in ("Width", "Height")}
        write_bytes(filename, json.dumps(settings | sides, indent=4).encode())


def hash_of(filename: str) -> str:
    with open(filename, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def main(argv: list[str] | None = None) -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=paths.data_path, help="folder for models (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="write also files that exist")
    parser.add_argument("--rarer", action="store_true", help="write also checkpoints of the rarer kinds of model")
    parser.add_argument("--trained", action="store_true", help="SD1 and its LoRAs from tests/demo_model")
    args = parser.parse_args(argv)
    if args.trained and args.force:
        parser.error("--force writes random files over those of --trained: one of them is expected")
    if args.trained:
        copy_trained(args.data_dir)
    models = os.path.join(args.data_dir, "models")
    for name, kind in (CHECKPOINTS | (RARER_CHECKPOINTS if args.rarer else {})).items():
        filename = os.path.join(models, "Stable-diffusion", f"{name}.safetensors")
        if args.force or not os.path.exists(filename):
            write(filename, make_checkpoint(kind, seed=name), {"modelspec.title": name})
            print(filename)
    for name, options in LORAS.items():
        filename = os.path.join(models, "Lora", f"{name}.safetensors")
        if args.force or not os.path.exists(filename):
            write(filename, *make_lora(name=name, **options))
            print(filename)


if __name__ == "__main__":
    main()
