"""What programs other than WebUIs make of a LoRA file in kohya's format: the change of each layer, by their own code.

A reader is given a file and a model, merges the one into the other in float64 as its library does, and tells by how
much each layer changed. Of kohya's own scripts, which are no package, the arithmetic is written down once more.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.host.foreign_files import dotted_names, in_diffusers

PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


class UnreadError(ValueError):
    """A reader would pass over something that is in a file."""


@dataclass(frozen=True)
class Part:
    """A layer of a model."""

    component: str
    """Its component in a pipeline of diffusers: unet, text_encoder or text_encoder_2."""
    path: str
    """Where it is in that component."""
    layer: nn.Module
    """A copy in float64: a Linear, Conv2d, LayerNorm or GroupNorm."""


Model = Mapping[str, Part]
"""{what kohya's files call a layer: the layer}"""

Change = tuple[Tensor, Tensor | None]
"""(what is added to a layer's weight, what is added to its bias), in float64; None where the bias stays."""

Reader = Callable[[Path, Model], dict[str, Change]]
"""(file, model) -> {layer: its change at strength 1}, of the layers that the reader found in the file. It raises
:class:`UnreadError`, or whatever its library does, for a file that it cannot read as a whole."""


def kohya_names(webui: Any) -> dict[str, str]:
    """{what the host calls a layer, or a part of a joint attention: its name in a file that kohya's scripts wrote}.

    Their own U-Net of SD1 has the names of diffusers' modules, that of SDXL those of the model's first publication.
    """
    return {host: name for name, (host, _component, _path) in _places(webui).items()}


def _places(webui: Any) -> dict[str, tuple[str, str, str]]:
    """{kohya's name: (the host's name, component, path in it)}"""
    is_sdxl = getattr(webui.shared.sd_model, "is_sdxl", False)
    paths, found = dotted_names(webui), {}
    for name, layer in webui.layers().items():
        if name not in paths or not isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm
                                               | nn.MultiheadAttention):  # fmt: skip
            continue
        joint = isinstance(layer, nn.MultiheadAttention)
        for end in ("q_proj", "k_proj", "v_proj", "out_proj") if joint else ("",):
            component, path = in_diffusers(name, paths[name])
            host = f"{name}_{end}" if joint else name
            path = f"{path}.{end}" if joint else path
            found[_kohya_name(component, path, paths[name], is_sdxl)] = (host, component, path)
    return found


def _kohya_name(component: str, path: str, host_path: str, is_sdxl: bool) -> str:
    prefix = "lora_te1" if is_sdxl and component == "text_encoder" else PREFIXES[component]
    inside = host_path.removeprefix("diffusion_model.") if is_sdxl and component == "unet" else path
    return f"{prefix}_{inside.replace('.', '_')}"


def model_of(webui: Any) -> Model:
    """The model in use, in copies of its layers."""
    layers = webui.layers()
    found = {}
    for name, (host, component, path) in _places(webui).items():
        layer = layers[host] if host in layers else _joint_part(layers, host)
        found[name] = Part(component, path, copy.deepcopy(_plain(layer)).double().requires_grad_(False))
    return found


def _joint_part(layers: Mapping[str, Any], host: str) -> nn.Linear:
    """The q, k, v or output projection of an attention that has the first three in one tensor."""
    owner, _, part = host.removesuffix("_proj").rpartition("_")
    joint = layers[owner]
    if part == "out":
        return _linear(joint.out_proj.weight, joint.out_proj.bias)
    index = "qkv".index(part)
    return _linear(joint.in_proj_weight.chunk(3)[index], joint.in_proj_bias.chunk(3)[index])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight.data = weight.detach().clone()
    if bias is not None:
        made.bias.data = bias.detach().clone()
    return made


def _plain(layer: nn.Module) -> nn.Module:
    """The layer without what a host has hung on it."""
    if isinstance(layer, nn.Linear):
        return _linear(layer.weight, layer.bias)
    if isinstance(layer, nn.Conv2d):
        sizes = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
        made: nn.Module = nn.Conv2d(layer.in_channels, layer.out_channels, bias=layer.bias is not None, **sizes)
    elif isinstance(layer, nn.GroupNorm):
        made = nn.GroupNorm(layer.num_groups, layer.num_channels)
    else:
        assert isinstance(layer, nn.LayerNorm)
        made = nn.LayerNorm(layer.normalized_shape)
    made.load_state_dict({name: value.cpu() for name, value in layer.state_dict().items()}, assign=True)
    return made


def layer_names(path: Path) -> set[str]:
    """The layers for which a file has something."""
    return {key.partition(".")[0] for key in load_file(path)}


def _changes(before: Model, after: Mapping[str, nn.Module]) -> dict[str, Change]:
    found = {}
    for name, layer in after.items():
        old = before[name].layer
        bias = None
        if layer.bias is not None:
            start = torch.zeros_like(layer.bias) if old.bias is None else old.bias
            moved = layer.bias.detach().double() - start.double()
            bias = moved if moved.any() else None
        found[name] = (layer.weight.detach().double() - old.weight, bias)
    return found


# kohya's scripts


def kohya(path: Path, model: Model) -> dict[str, Change]:
    """W + alpha / rank * up * down, for linear layers and convolutions; what else is in a file is not for them."""
    tensors = {key: value.double() for key, value in load_file(path).items()}
    known = (".lora_up.weight", ".lora_down.weight", ".alpha")
    if unread := [key for key in tensors if not key.endswith(known)]:
        raise UnreadError(f"kohya: {unread[:3]}")
    found = {}
    for name in layer_names(path):
        up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
        rank = down.shape[0]
        scale = float(tensors.get(f"{name}.alpha", torch.tensor(rank))) / rank
        # the kernel of two convolutions in a row is the first one's, mixed by the second one
        delta = up @ down if down.dim() == 2 else F.conv2d(down.transpose(0, 1), up).transpose(0, 1)
        if delta.shape != model[name].layer.weight.shape:
            raise UnreadError(f"kohya: {name} is of shape {tuple(delta.shape)}")
        found[name] = (scale * delta, None)
    return found


# LyCORIS


def lycoris(path: Path, model: Model) -> dict[str, Change]:
    """As kohya's scripts load a file with LyCORIS for its network module, and merge it."""
    from lycoris.kohya import create_network_from_weights

    components = {part.component for part in model.values()}
    roots = {component: nn.Module() for component in components}
    # Its rotations are in float32, and are not taken to weights of another type.
    dtype = torch.float32 if any(".oft_" in key for key in load_file(path)) else torch.float64
    copies = {name: copy.deepcopy(part.layer).to(dtype) for name, part in model.items()}
    is_sdxl = "text_encoder_2" in components
    for name, layer in copies.items():
        component = model[name].component
        prefix = "lora_te1" if is_sdxl and component == "text_encoder" else PREFIXES[component]
        roots[component].add_module(name.removeprefix(f"{prefix}_"), layer)
    encoders: Any = roots["text_encoder"]
    if is_sdxl:
        encoders = [roots["text_encoder"], roots["text_encoder_2"]]
    with _quiet("LyCORIS", "lycoris"), torch.no_grad():
        network, tensors = create_network_from_weights(1.0, str(path), None, encoders, roots["unet"])
        modules = {each.lora_name: each for each in network.unet_loras + network.text_encoder_loras}
        read = {f"{name}.{part}" for name, each in modules.items() for part in type(each).weight_list}
        if unread := tensors.keys() - read:
            raise UnreadError(f"LyCORIS: {sorted(unread)[:3]}")
        network.merge_to(encoders, roots["unet"], tensors, dtype, "cpu")
    return _changes(model, {name: copies[name] for name in modules})


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """What libraries log of each file is none of a test's output."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


# diffusers, which reads by PEFT


def diffusers(path: Path, model: Model) -> dict[str, Change]:
    """As ``pipeline.load_lora_weights`` and ``fuse_lora`` of SD1 or SDXL."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(key.endswith(".dora_scale") for key in load_file(path)):
        raise UnreadError("diffusers: it leaves out dora_scale, with a warning")
    components = pipeline_components(model)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8)
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    rest = {"vae": vae, "scheduler": scheduler, "tokenizer": None, "feature_extractor": None}
    if "text_encoder_2" in components:
        pipeline = StableDiffusionXLPipeline(**components, **rest, tokenizer_2=None, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline(**components, **rest, safety_checker=None, requires_safety_checker=False)
    with _quiet("diffusers", "transformers"):
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
        for module in components.values():
            module.double()
        pipeline.fuse_lora(components=[*components])
    merged = {}
    for name, part in model.items():
        layer = components[part.component].get_submodule(part.path)
        if isinstance(layer, BaseTunerLayer):
            merged[name] = layer.get_base_layer()
    if unread := layer_names(path) - merged.keys():
        raise UnreadError(f"diffusers: {sorted(unread)[:3]}")
    return _changes(model, merged)


def pipeline_components(model: Model) -> dict[str, Any]:
    """{component: a model of diffusers or transformers with the layers' sizes and weights, in float64}.

    Raises:
        AssertionError: a layer of ``model`` is not where diffusers has it, or of another shape.
    """
    shapes = {(part.component, part.path): part.layer.weight.shape for part in model.values()}
    names = sorted({component for component, _path in shapes})
    made = {}
    for component in names:
        own = {path: shape for (owner, path), shape in shapes.items() if owner == component}
        made[component] = (_unet(model, own) if component == "unet" else _text_encoder(component, own)).double()
    for name, part in model.items():
        layer = made[part.component].get_submodule(part.path)
        assert layer.weight.shape == part.layer.weight.shape, name
        layer.weight.data.copy_(part.layer.weight)
        if part.layer.bias is not None:
            layer.bias.data.copy_(part.layer.bias)
    return {name: module.requires_grad_(False) for name, module in made.items()}


def _unet(model: Model, shapes: Mapping[str, torch.Size]) -> Any:
    from diffusers import UNet2DConditionModel

    def count(pattern: str) -> int:
        return len({match[1] for path in shapes if (match := re.match(pattern, path))})

    levels = range(count(r"down_blocks\.(\d+)\."))
    depths = [count(rf"down_blocks\.{i}\.attentions\.0\.transformer_blocks\.(\d+)\.") for i in levels]
    wide = next(shape for path, shape in shapes.items() if path.endswith("attn2.to_k"))
    options: dict[str, Any] = {}
    if "add_embedding.linear_1" in shapes:
        width = shapes["add_embedding.linear_1"][1]
        options = {"addition_embed_type": "text_time", "addition_time_embed_dim": 16,
                   "projection_class_embeddings_input_dim": width}  # fmt: skip
    return UNet2DConditionModel(
        block_out_channels=[shapes[f"down_blocks.{i}.resnets.0.conv1"][0] for i in levels],
        down_block_types=["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        up_block_types=["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        transformer_layers_per_block=[depth or 1 for depth in depths],
        cross_attention_dim=wide[1],
        use_linear_projection=len(shapes["mid_block.attentions.0.proj_in"]) == 2,
        norm_num_groups=next(part.layer.num_groups for part in model.values() if part.path == "conv_norm_out"),
        attention_head_dim=4,
        **options,
    )


def _text_encoder(component: str, shapes: Mapping[str, torch.Size]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    inner, width = shapes["text_model.encoder.layers.0.mlp.fc1"]
    layers = {match[1] for path in shapes if (match := re.match(r"text_model\.encoder\.layers\.(\d+)\.", path))}
    config = CLIPTextConfig(
        vocab_size=16, hidden_size=width, intermediate_size=inner, projection_dim=width,
        num_hidden_layers=len(layers), num_attention_heads=4, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if component == "text_encoder_2" else CLIPTextModel)(config)


READERS: dict[str, Reader] = {"kohya": kohya, "LyCORIS": lycoris, "diffusers": diffusers}
