"""The names that other programs have for the layers of a model, from the names that the host has for them.

Every name is flat: underscores stand for dots, which some files have and others have not. Nothing is looked up in a
list of models: a layer that the model has is renamed, as its U-Net or text encoder is renamed from one program to the
next, so that a narrow or a rare model has its names, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from lbw.tags.families import encoder_of

_DIFFUSION_MODEL = "diffusion_model"

_WRAPPERS = re.compile(r"^(?:(?:base_model_model|lycoris|lora|module|pipe|pipeline)_+)+")
"""What stands before a name in files of PEFT, of LyCORIS and of trainers that wrap a model, and says nothing of it."""

_PROCESSOR = re.compile(r"_processor(?=_to_)")
"""Before version 0.22, diffusers kept the LoRA of an attention layer in the layer's processor."""

_FIRST_ENCODER, _SECOND_ENCODER = ("CLIP_L", "CLIP_H"), ("CLIP_G",)
"""OneTrainer, too, calls SD2's text encoder as that of SD1."""

_ONLY_ENCODER = "the only text encoder"
"""In models that have one: nobody else's names tell none apart."""

_PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("model_diffusion_model_", (_DIFFUSION_MODEL,)), ("diffusion_model_", (_DIFFUSION_MODEL,)),
    ("unet_", (_DIFFUSION_MODEL,)), ("transformer_", (_DIFFUSION_MODEL,)),
    ("text_encoders_clip_l_", _FIRST_ENCODER), ("text_encoders_clip_g_", _SECOND_ENCODER),
    ("text_encoders_t5xxl_", ("T5",)),
    ("clip_l_", _FIRST_ENCODER), ("clip_g_", _SECOND_ENCODER), ("clip_h_", ("CLIP_H",)), ("t5xxl_", ("T5",)),
    ("text_encoder_3_", ("T5",)), ("te3_", ("T5",)),
    ("text_encoder_2_", _SECOND_ENCODER), ("te2_", _SECOND_ENCODER),
    ("text_encoder_1_", _FIRST_ENCODER), ("text_encoder_", _FIRST_ENCODER), ("te1_", _FIRST_ENCODER),
    ("te_", (_ONLY_ENCODER,)), ("cond_stage_model_", (_ONLY_ENCODER,)),
    ("", (_DIFFUSION_MODEL, _ONLY_ENCODER)),
)  # fmt: skip
"""(what a name begins with, which part of the model that is): of several parts the first that the model has."""

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

_RESNET = {
    "in_layers_0": "norm1", "in_layers_2": "conv1", "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2", "out_layers_3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip


def _in_block(match: re.Match[str], side: str, level: int, place: int) -> str:
    """A layer of a residual block or of an attention, which stand side by side in a block of the host's."""
    kind, rest = match["kind"], match["rest"]
    if kind == "0":
        return f"{side}_{level}_resnets_{place}_{_RESNET.get(rest, rest)}"
    return f"{side}_{level}_attentions_{place}_{rest}"


def _input(match: re.Match[str]) -> str:
    """Each level of the U-Net is two blocks and what halves the picture."""
    level, place = divmod(int(match["number"]) - 1, 3)
    if match["rest"] == "op":
        return f"down_blocks_{level}_downsamplers_0_conv"
    return _in_block(match, "down_blocks", level, place)


def _output(match: re.Match[str]) -> str:
    """Each level of the U-Net is three blocks, and in the last of them stands what doubles the picture."""
    level, place = divmod(int(match["number"]), 3)
    if match["rest"] == "conv":
        return f"up_blocks_{level}_upsamplers_0_conv"
    return _in_block(match, "up_blocks", level, place)


def _middle(match: re.Match[str]) -> str:
    if match["kind"] == "1":
        return f"mid_block_attentions_0_{match['rest']}"
    return f"mid_block_resnets_{int(match['kind']) // 2}_{_RESNET.get(match['rest'], match['rest'])}"


def _renamed(new: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match.expand(new)


_OF_UNET: tuple[Rule, ...] = (
    (re.compile(r"input_blocks_0_0"), _renamed("conv_in")),
    (re.compile(r"input_blocks_(?P<number>\d+)_(?P<kind>\d)_(?P<rest>.+)"), _input),
    (re.compile(r"middle_block_(?P<kind>\d)_(?P<rest>.+)"), _middle),
    (re.compile(r"output_blocks_(?P<number>\d+)_(?P<kind>\d)_(?P<rest>.+)"), _output),
    # OneTrainer has it in one place at all levels, though it moves up where a level has no attention.
    (re.compile(r"output_blocks_(\d+)_1_conv"), _renamed(r"output_blocks_\1_2_conv")),
    (re.compile(r"out_0"), _renamed("conv_norm_out")), (re.compile(r"out_2"), _renamed("conv_out")),
    (re.compile(r"time_embed_0"), _renamed("time_embedding_linear_1")),
    (re.compile(r"time_embed_2"), _renamed("time_embedding_linear_2")),
    (re.compile(r"label_emb_0_0"), _renamed("add_embedding_linear_1")),
    (re.compile(r"label_emb_0_2"), _renamed("add_embedding_linear_2")),
)  # fmt: skip
"""The U-Net of SD1, SD2 and SDXL, to diffusers' names."""

_OF_SD3: tuple[Rule, ...] = (
    *((re.compile(rf"joint_blocks_(\d+)_{ours}"), _renamed(rf"transformer_blocks_\1_{theirs}"))
      for ours, theirs in (
        (r"x_block_attn_qkv_([qkv])_proj", r"attn_to_\2"), ("x_block_attn_proj", "attn_to_out_0"),
        (r"context_block_attn_qkv_([qkv])_proj", r"attn_add_\2_proj"), ("context_block_attn_proj", "attn_to_add_out"),
        ("x_block_mlp_fc1", "ff_net_0_proj"), ("x_block_mlp_fc2", "ff_net_2"),
        ("context_block_mlp_fc1", "ff_context_net_0_proj"), ("context_block_mlp_fc2", "ff_context_net_2"),
        ("x_block_adaLN_modulation_1", "norm1_linear"),
    )),
    (re.compile("x_embedder_proj"), _renamed("pos_embed_proj")),
    (re.compile("t_embedder_mlp_0"), _renamed("time_text_embed_timestep_embedder_linear_1")),
    (re.compile("t_embedder_mlp_2"), _renamed("time_text_embed_timestep_embedder_linear_2")),
    (re.compile("y_embedder_mlp_0"), _renamed("time_text_embed_text_embedder_linear_1")),
    (re.compile("y_embedder_mlp_2"), _renamed("time_text_embed_text_embedder_linear_2")),
    (re.compile("final_layer_linear"), _renamed("proj_out")),
)  # fmt: skip
"""The transformer of SD3, to diffusers' names; without the modulation of its last layers, whose rows diffusers has in
another order."""

_OF_OPEN_CLIP: tuple[Rule, ...] = (
    *((re.compile(rf"transformer_resblocks_(\d+)_{ours}"), _renamed(rf"text_model_encoder_layers_\1_{theirs}"))
      for ours, theirs in (
        (r"attn_(q|k|v|out)_proj", r"self_attn_\2_proj"), ("mlp_c_fc", "mlp_fc1"), ("mlp_c_proj", "mlp_fc2"),
        ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
    )),
    (re.compile("ln_final"), _renamed("text_model_final_layer_norm")),
)  # fmt: skip
"""OpenCLIP's text encoder, to the names of transformers."""

_OLD_PROJECTION = re.compile(r"self_attn_(q|k|v|out)_proj$")
"""Before version 0.17, diffusers named the projections of text encoders as those of the U-Net."""


def _matches(rules: Iterable[Rule], path: str) -> Iterator[str]:
    for pattern, rename in rules:
        match = pattern.fullmatch(path)
        if match is not None:
            yield rename(match)


def _paths_in_model(path: str) -> Iterator[str]:
    """What a layer of the U-Net, or of SD3's transformer, is called within it."""
    yield path
    for renamed in _matches((*_OF_UNET, *_OF_SD3), path):
        yield renamed
        if renamed.endswith("_to_out_0"):
            yield renamed.removesuffix("_0")
    if path.endswith("_to_out_0"):
        yield path.removesuffix("_0")


def _paths_in_encoder(name: str) -> Iterator[str]:
    """What a layer of a text encoder is called within it. What stands before its first module is the host's."""
    path = re.sub(r"^(?:\d+_|clip_[lgh]_|t5xxl_)?(?:model_|transformer_)?(?=transformer_|text_|ln_|encoder_)", "", name)
    for each in (path, *_matches(_OF_OPEN_CLIP, path)):
        yield from (each, f"transformer_{each}", f"model_{each}")
        if each.startswith("text_model_"):
            yield each.removeprefix("text_model_")
            yield _OLD_PROJECTION.sub(r"self_attn_to_\1", each)


def names_of(key: str) -> tuple[str, list[str]]:
    """(the part of the model that a layer is in, what the layer is called within it)."""
    if key.startswith(f"{_DIFFUSION_MODEL}_"):
        return _DIFFUSION_MODEL, list(_paths_in_model(key.removeprefix(f"{_DIFFUSION_MODEL}_")))
    return encoder_of(key), list(_paths_in_encoder(key))


class ModelLayers:
    """The layers of one model, found by the names that other programs have for them.

    Args:
        keys: the host's names of all that a part of a network may be for, ``diffusion_model_...`` or a text encoder's.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._paths: dict[str, dict[str, str]] = {}
        self.keys = frozenset(keys)
        for key in sorted(self.keys):
            part, paths = names_of(key)
            self._paths.setdefault(part, {}).update(dict.fromkeys(paths, key))
        encoders = [part for part in self._paths if part != _DIFFUSION_MODEL]
        if len(encoders) == 1:
            self._paths[_ONLY_ENCODER] = self._paths[encoders[0]]

    def find(self, name: str) -> str | None:
        """The host's name of the layer that a file calls ``name``, with dots or without; None if there is none."""
        flat = name.replace(".", "_")
        if flat in self.keys:
            return flat
        flat = _PROCESSOR.sub("", _WRAPPERS.sub("", flat))
        for start, parts in _PARTS:
            if flat.startswith(start):
                for paths in self._of(parts):
                    key = paths.get(flat[len(start) :])
                    if key is not None:
                        return key
        return None

    def has_part(self, part: str) -> bool:
        """Whether the model has such a text encoder."""
        return part in self._paths

    def _of(self, parts: Iterable[str]) -> Iterator[Mapping[str, str]]:
        """The names within the first of these parts that the model has; without a text encoder's name, the diffusion
        model and the first text encoder."""
        found = [self._paths[part] for part in parts if part in self._paths]
        yield from found[: 2 if _DIFFUSION_MODEL in parts else 1]
