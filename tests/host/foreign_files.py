"""LoRA files of the model in use in the names of other trainers, written by the libraries that these trainers use.

The libraries are given a model whose modules are named as those of diffusers and transformers, and of the shapes of the
host's. Its names come from the host's modules, by rules that are written down once more here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.host.lora_files import attention_layers, conv_layers

RANK, ALPHA = 4, 2.0

_RESNET = {"in_layers.0": "norm1", "in_layers.2": "conv1", "out_layers.0": "norm2", "out_layers.3": "conv2",
           "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"}  # fmt: skip
_UNET_ENDS = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
              "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
              "out.0": "conv_norm_out", "out.2": "conv_out"}  # fmt: skip
_OPEN_CLIP_PARTS = {".attn": ".self_attn", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", ".ln_1": ".layer_norm1",
                    ".ln_2": ".layer_norm2", "model.ln_final": "text_model.final_layer_norm"}  # fmt: skip


def dotted_names(webui: Any) -> dict[str, str]:
    """{the host's flat name of a layer: its path in the host's modules}."""
    model = webui.shared.sd_model
    if webui.is_forge:
        unet = model.forge_objects_original.unet.model
        return {name.replace(".", "_"): name for name, _module in unet.named_modules()}
    if getattr(model, "is_sdxl", False):
        embedders = enumerate(model.conditioner.embedders)
        roots = {f"{i}_": each.wrapped for i, each in embedders if hasattr(each, "wrapped")}
    else:
        roots = {"": getattr(model.cond_stage_model, "wrapped", model.cond_stage_model)}
    found = {}
    for start, root in (*roots.items(), ("", model.model)):
        found |= {start + name.replace(".", "_"): name for name, _module in root.named_modules()}
    return found


def in_diffusers(name: str, path: str) -> tuple[str, str]:
    """(component of a pipeline, path in it) of the layer that the host calls ``name``, at ``path``."""
    if not path.startswith("diffusion_model."):
        second = name.startswith("1_")
        path = re.sub(r"^(model\.)?transformer\.resblocks", "text_model.encoder.layers", path)
        path = path.removeprefix("transformer.")
        for theirs, ours in _OPEN_CLIP_PARTS.items():
            path = path.replace(theirs, ours)
        return "text_encoder_2" if second else "text_encoder", path
    path = path.removeprefix("diffusion_model.")
    if path in _UNET_ENDS:
        return "unet", _UNET_ENDS[path]
    area, block, *inside = path.split(".")
    if area == "middle_block":
        kind = "attentions.0" if block == "1" else f"resnets.{int(block) // 2}"
        rest = ".".join(inside)
        return "unet", f"mid_block.{kind}.{_RESNET.get(rest, rest)}"
    place, rest = inside[0], ".".join(inside[1:])
    if not rest:
        return "unet", "conv_in"
    side = "down_blocks" if area == "input_blocks" else "up_blocks"
    level, index = divmod(int(block) - (side == "down_blocks"), 3)
    if rest in ("op", "conv"):
        return "unet", f"{side}.{level}.{'downsamplers' if rest == 'op' else 'upsamplers'}.0.conv"
    if place == "0":
        return "unet", f"{side}.{level}.resnets.{index}.{_RESNET.get(rest, rest)}"
    return "unet", f"{side}.{level}.attentions.{index}.{rest}"


class Tree(nn.Module):
    """Modules at dotted paths."""

    def __init__(self, leaves: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for path, leaf in leaves.items():
            *owners, last = path.split(".")
            at: nn.Module = self
            for owner in owners:
                if owner not in at._modules:
                    at.add_module(owner, nn.Module())
                at = at._modules[owner]
            at.add_module(last, leaf)


_OPEN_CLIP = re.compile(r"resblocks_\d+_(attn|mlp_c_(fc|proj))$")

Component = dict[str, tuple[str, nn.Module]]
"""{path in a component of a pipeline: (what the host calls a part for that layer, a copy of it in float32)}"""


def components(webui: Any) -> dict[str, Component]:
    """The layers that the files are for: every sixth of the attention, of the convolutions, and of an OpenCLIP's. Not
    those of text encoders on the Forge family, where what they are at work with is gone before the first step."""
    paths, layers = dotted_names(webui), webui.layers()
    trained = attention_layers(layers) | conv_layers(layers)
    trained |= {name: each for name, each in layers.items() if _OPEN_CLIP.search(name)}
    found: dict[str, Component] = {}
    for name, layer in [item for item in trained.items() if item[0] in paths][::6]:
        component, path = in_diffusers(name, paths[name])
        if isinstance(layer, nn.MultiheadAttention):
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                copy = copy_of(weight_of(webui, f"{name}_{part}"))
                found.setdefault(component, {})[f"{path}.{part}"] = (f"{name}_{part}", copy)
        else:
            found.setdefault(component, {})[path] = (name, copy_of(layer.weight))
    return found


def weight_of(webui: Any, key: str) -> Tensor:
    """What the host has for a part: the weight of a layer, or a third of the joint one of an attention."""
    layers, (owner, _, part) = webui.layers(), key[: -len("_proj")].rpartition("_")
    if not isinstance(layers.get(owner), nn.MultiheadAttention):
        return layers[key].weight.detach()
    if part == "out":
        return layers[owner].out_proj.weight.detach()
    return layers[owner].in_proj_weight.detach().chunk(3)["qkv".index(part)]


def copy_of(weight: Tensor) -> nn.Module:
    """A layer with a copy of a weight, in float32."""
    out, into, *kernel = weight.shape
    copy: nn.Module = nn.Linear(into, out, bias=False)
    if kernel:
        copy = nn.Conv2d(into, out, kernel[0], padding=kernel[0] // 2, bias=False)
    copy.weight.data = weight.float().cpu().clone()
    return copy.requires_grad_(False)


Written = dict[str, Tensor]
"""{what the host calls a part: what the file adds to its weight at strength 1, in float64, by the library}"""

Writer = Callable[[Any, Path], Written]
"""(webui, where the file shall be) -> what is in it."""


def randomise(parameters: Mapping[str, Tensor]) -> None:
    """Random values that float16 can hold, so that a file loses nothing; lengths stay about what they are."""
    random = torch.Generator().manual_seed(11)
    for name, parameter in parameters.items():
        noise = torch.randn(parameter.shape, generator=random)
        is_length = re.search(r"magnitude|dora_scale", name)
        parameter.data = (parameter.data * (1 + 0.2 * noise) if is_length else 0.2 * noise).half().float()


def save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path, metadata)


# PEFT


def peft_models(webui: Any, **options: Any) -> dict[str, tuple[Any, Written]]:
    """{component: (PEFT's model, what it merges)}."""
    pytest.importorskip("peft", exc_type=ImportError)
    from peft import LoraConfig, get_peft_model

    found = {}
    for component, layers in components(webui).items():
        tree = Tree({path: layer for path, (_name, layer) in layers.items()})
        config = LoraConfig(**{"r": RANK, "lora_alpha": RANK, "target_modules": [*layers], **options})
        model = get_peft_model(tree, config)
        randomise({name: value for name, value in model.named_parameters() if "lora_" in name})
        model.double()
        written = {}
        for path, (name, _layer) in layers.items():
            tuned = model.base_model.model.get_submodule(path)
            before = tuned.get_base_layer().weight.detach().clone()
            tuned.merge(safe_merge=True)
            written[name] = tuned.get_base_layer().weight.detach() - before
        found[component] = model, written
    return found


def peft(form: str, *, only: str = "", metadata: dict[str, str] | None = None, **options: Any) -> Writer:
    """A file with names of ``form``, of one component only or of all. With ``flat`` in it, underscores stand for the
    dots within the name of a layer."""

    def write(webui: Any, path: Path) -> Written:
        tensors: dict[str, Tensor] = {}
        written: Written = {}
        for component, (model, merged) in peft_models(webui, **options).items():
            from peft import get_peft_model_state_dict

            if only in ("", component):
                for name, value in get_peft_model_state_dict(model).items():
                    name = name.removeprefix("base_model.model.")
                    layer, _, tensor = name.partition(".lora_")
                    flat = f"{layer.replace('.', '_')}.lora_{tensor}"
                    tensors[form.format(component=component, name=name, flat=flat)] = value.half()
                written |= merged
        save(path, tensors, metadata)
        return written

    return write


def as_dora_scale(webui: Any, path: Path) -> Written:
    """As tools write that know kohya's names for all of it: lengths in one dimension, of a part that the host knows."""
    written = peft("lora_unet_{flat}", only="unet", use_dora=True)(webui, path)
    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith(".lora_magnitude_vector")]:
        tensors[name.replace("lora_magnitude_vector", "dora_scale")] = tensors.pop(name).flatten()
    for name in [name for name in tensors if ".lora_A" in name or ".lora_B" in name]:
        tensors[name.replace("lora_A", "lora_down").replace("lora_B", "lora_up")] = tensors.pop(name)
    save(path, tensors)
    return written


def peft_in_memory(webui: Any, path: Path) -> Written:
    """All that PEFT's model has, as ``torch`` would save it: with the adapter's name, and the model's own weights."""
    model, written = peft_models(webui)["unet"]
    save(path, {name: value.half() for name, value in model.state_dict().items()})
    return written


def pipeline_metadata(**config: Any) -> dict[str, str]:
    """What diffusers notes of PEFT's configuration since version 0.34."""
    names = ("unet", "text_encoder", "text_encoder_2")
    noted = {f"{name}.{key}": value for name in names for key, value in config.items()}
    return {"lora_adapter_metadata": json.dumps(noted)}


# LyCORIS, as SimpleTuner and others use it


def lycoris(algo: str, **options: Any) -> Writer:
    """A file of the U-Net."""

    def write(webui: Any, path: Path) -> Written:
        pytest.importorskip("lycoris")
        from lycoris import create_lycoris

        layers = components(webui)["unet"]
        tree = Tree({path: layer for path, (_name, layer) in layers.items()})
        made = create_lycoris(tree, 1.0, linear_dim=RANK, linear_alpha=ALPHA, algo=algo, **options)
        made.apply_to()
        randomise(dict(made.named_parameters()))
        tensors = {name: value.half() if value.dim() else value for name, value in made.state_dict().items()}
        made.restore()
        save(path, tensors)
        made.double()
        by_name = {f"lycoris_{path.replace('.', '_')}": found for path, found in layers.items()}
        written = {}
        for each in made.loras:
            name, layer = by_name[each.lora_name]
            weight = layer.weight.detach().double()
            # LoHa and LoKr: what forward uses; get_diff_weight of 4.1 scales it twice
            delta = each.get_weight(weight.shape) if hasattr(each, "get_weight") else each.get_diff_weight()[0]
            if options.get("dora_wd"):
                delta = each.apply_weight_decompose(weight + delta) - weight
            written[name] = delta.detach().reshape(weight.shape)
        return written

    return write


# Trainers and versions that cannot be installed here: names by their sources


@dataclass
class Factors:
    """A LoRA for one layer."""

    name: str
    up: Tensor
    down: Tensor
    alpha: float
    base: Tensor

    def delta(self) -> Tensor:
        product = self.up.double().flatten(1) @ self.down.double().flatten(1)
        return (product * (self.alpha / RANK)).reshape(self.base.shape)

    def decomposed(self, lengths: Tensor, dims: tuple[int, ...]) -> Tensor:
        """DoRA, with norms over ``dims``."""
        moved = self.base + self.delta()
        return moved * lengths.double() / torch.linalg.vector_norm(moved, dim=dims, keepdim=True) - self.base


def factors(webui: Any, alpha: float = ALPHA) -> dict[tuple[str, str], Factors]:
    """{(component, path): LoRA}."""
    found = {}
    for component, layers in components(webui).items():
        for path, (name, layer) in layers.items():
            out, into, *kernel = layer.weight.shape
            both = {"up": torch.empty(out, RANK, *[1] * len(kernel)), "down": torch.empty(RANK, into, *kernel)}
            randomise(both)
            found[component, path] = Factors(name, **both, alpha=alpha, base=layer.weight.detach().double())
    return found


Names = Callable[[str, str], tuple[str, str] | None]
"""(component, path) -> the names of up and down; None for a layer that such files do not have."""


def by_hand(names: Names) -> Writer:
    def write(webui: Any, path: Path) -> Written:
        tensors, written = {}, {}
        alpha = RANK if names("unet", "alpha") is None else ALPHA
        for (component, at), lora in factors(webui, alpha).items():
            found = names(component, at)
            if found is not None:
                tensors |= dict(zip(found, (lora.up.half(), lora.down.half()), strict=True))
                written[lora.name] = lora.delta()
                if alpha == ALPHA:
                    tensors[found[0].removesuffix(".lora_up.weight") + ".alpha"] = torch.tensor(ALPHA)
        save(path, tensors)
        return written

    return write


def processors(component: str, path: str) -> tuple[str, str] | None:
    """diffusers before 0.22: attention layers only."""
    if component == "unet":
        match = re.fullmatch(r"(.+attn[12])\.to_(q|k|v|out)(?:\.0)?", path)
        stem = match and f"unet.{match[1]}.processor.to_{match[2]}_lora"
    else:
        match = re.fullmatch(r"(.+self_attn)\.(q|k|v|out)_proj", path)
        stem = match and f"{component}.{match[1]}.to_{match[2]}_lora"
    return (f"{stem}.up.weight", f"{stem}.down.weight") if match else None


def diffusers(component: str, path: str) -> tuple[str, str] | None:
    """diffusers from 0.22 on."""
    if path == "alpha":
        return None
    middle = "lora" if component == "unet" else "lora_linear_layer"
    return f"{component}.{path}.{middle}.up.weight", f"{component}.{path}.{middle}.down.weight"


def kohya_forms(unet: str, encoders: tuple[str, str]) -> Names:
    """Dotted names with kohya's tensors."""

    def names(component: str, path: str) -> tuple[str, str]:
        start = unet if component == "unet" else encoders[component == "text_encoder_2"]
        return f"{start}.{path}.lora_up.weight", f"{start}.{path}.lora_down.weight"

    return names


def own_modules(webui: Any, path: Path) -> Written:
    """The model's own names with dots, as tools write that subtract one model from another."""
    paths = dotted_names(webui)
    tensors, written = {}, {}
    for (component, _at), lora in factors(webui).items():
        if component == "unet":
            name = paths[lora.name]
            tensors |= {f"{name}.lora_up.weight": lora.up.half(), f"{name}.lora_down.weight": lora.down.half()}
            tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
            written[lora.name] = lora.delta()
    save(path, tensors)
    return written


def onetrainer_dora(of_outputs: bool) -> Writer:
    """OneTrainer's DoRA, whose lengths are of input or of output channels, as one sets it up."""

    def write(webui: Any, path: Path) -> Written:
        tensors, written = {}, {}
        for (component, at), lora in factors(webui).items():
            if component != "unet":
                continue
            dims = tuple(dim for dim in range(lora.base.dim()) if dim != (0 if of_outputs else 1))
            lengths = {"dora_scale": torch.linalg.vector_norm(lora.base, dim=dims, keepdim=True)}
            randomise(lengths)
            name = f"lora_unet.{at}"
            tensors |= {f"{name}.lora_up.weight": lora.up.half(), f"{name}.lora_down.weight": lora.down.half()}
            tensors |= {f"{name}.alpha": torch.tensor(ALPHA), f"{name}.dora_scale": lengths["dora_scale"].half()}
            written[lora.name] = lora.decomposed(lengths["dora_scale"], dims)
        save(path, tensors)
        return written

    return write


FORMS: dict[str, Writer] = {
    "diffusers, in processors": by_hand(processors),
    "diffusers": by_hand(diffusers),
    "diffusers with PEFT": peft("{component}.{name}"),
    "diffusers with PEFT's alpha": peft(
        "{component}.{name}", lora_alpha=2 * RANK, metadata=pipeline_metadata(lora_alpha=2 * RANK, r=RANK)
    ),
    "diffusers with rsLoRA": peft(
        "{component}.{name}", use_rslora=True, metadata=pipeline_metadata(lora_alpha=RANK, r=RANK, use_rslora=True)
    ),
    "DoRA in diffusers": peft("{component}.{name}", use_dora=True),
    "PEFT": peft("base_model.model.{name}", only="unet"),
    "PEFT, of a text encoder": peft("base_model.model.{name}", only="text_encoder"),
    "DoRA of PEFT": peft("base_model.model.{name}", only="unet", use_dora=True),
    "DoRA of PEFT in kohya's names": peft("lora_unet_{flat}", only="unet", use_dora=True),
    "DoRA of PEFT as dora_scale": as_dora_scale,
    "PEFT, in memory": peft_in_memory,
    "LyCORIS": lycoris("lora"),
    "LyCORIS, LoHa": lycoris("loha"),
    "LyCORIS, LoKr": lycoris("lokr", factor=4),
    "LyCORIS, DoRA": lycoris("lora", dora_wd=True),
    "LyCORIS, DoRA of input channels": lycoris("lora", dora_wd=True, wd_on_output=False),
    "OneTrainer": by_hand(kohya_forms("lora_unet", ("lora_te1", "lora_te2"))),
    "OneTrainer, OMI": by_hand(kohya_forms("unet", ("clip_l", "clip_g"))),
    "OneTrainer, DoRA": onetrainer_dora(False),
    "OneTrainer, DoRA of output channels": onetrainer_dora(True),
    "the model's own modules": own_modules,
}
"""Whose names a file has -> what writes one."""
