"""What a LoRA file was made for, by the names and shapes in its head: which model, in whose names, how many parts.

Whoever makes LoRAs has names of his own. A part is what a file has for one layer, whatever the tensors are called.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lbw.files.head import Head, read
from lbw.files.tensor_names import split
from lbw.tags.families import SD1, Family

_SUFFIX = re.compile(
    r"[._](?:lora|lora_linear_layer)\.(?:up|down|mid)\.weight$"
    r"|\.lora_(?:up|down|mid|embedding)(?:\.\w+)?(?:\.weight|\.bias)$"
    r"|\.lora_(?:embedding_)?[AB](?:\.\w+)?(?:\.weight|\.bias)?$"
    r"|\.(?:lora_magnitude_vector|dora_scale|oft_R)(?:\.\w+)?(?:\.weight)?$"
    r"|\.(?:alpha|scale|rescale|diff|diff_b|set_weight|w_norm|b_norm|on_input|reshape_weight|bias_\w+)$"
    r"|\.(?:hada_\w+|lokr_\w+|oft_\w+|boft_\w+|[ab][12]\.weight|[ab]m\.weight)$"
    r"|\.(?:weight|bias)$"
)
"""What stands behind a part's name."""

_NO_PART_ALONE = re.compile(
    r"\.(?:alpha|scale|dora_scale|lora_magnitude_vector|rescale|on_input)(?:\.\w+)?$|\.base_layer\.(?:weight|bias)$"
)
"""Tensors that say something of others, and add nothing without them, and a model's own, which PEFT brings along."""

_OF_TEXT_ENCODER = re.compile(
    r"(?:base_model\.model\.)?(?:lora_|oft_|lycoris_|lora_prior_)?"
    r"(?:te\d?|text_encoders?(?:_\d)?|text_model|clip_[lgh]|u?mt5xxl|t5xxl|t5|gemma\w*|qwen\w*?_\d+b|qwen3|llama\w*|"
    r"cond_stage_model|conditioner|(?:\d_)?transformer_text_model|(?:\d_)?model_transformer_resblocks)(?=[._])"
)

_NAMINGS = (
    ("PEFT's", r"base_model\.model\."),
    ("diffusers' old", r".*\.processor\..*_lora\.(?:up|down)\."),
    ("LyCORIS'", r"lycoris_"),
    ("kohya's", r"(?:lora|oft)_(?:unet|te\d?|prior_(?:unet|te))_"),
    ("ComfyUI's", r"(?:model\.)?diffusion_model\."),
    ("OneTrainer's", r"lora_transformer_|(?:lora_)?(?:unet|transformer|prior|te\d?|text_encoder(?:_\d)?)\."
                     r".*\.(?:lora_(?:up|down)|hada_\w+|lokr_\w+|oft_\w+)"),
    ("diffusers'", r"(?:unet|transformer|prior|text_encoder(?:_\d)?)\..*"
                   r"\.(?:lora_[AB]|lora_magnitude_vector|(?:lora|lora_linear_layer)\.(?:up|down))(?=\.)"),
    ("PEFT's", r".*\.lora_[AB](?=\.)"),
)  # fmt: skip
"""Whose names they are: what a tensor's name begins with. The first that fits counts."""

_UNET = (
    r"(?:input|output)_blocks?[._]\d|middle_block[._]\d|(?:down|up)_blocks[._]\d+[._](?:attentions|resnets|\w*samplers)|"
    r"mid_block[._](?:attentions|resnets)"
)

_MODELS = (
    ("HiDream", r"(?:double|single)_stream_blocks[._]\d"),
    ("AuraFlow", r"joint_transformer_blocks[._]\d"),
    ("Stable Cascade", r"(?:down|up)_blocks[._]\d[._]\d+[._](?:attention|channelwise)|lora_prior_unet"),
    ("U-Net", _UNET),
    ("Chroma", r"distilled_guidance_layer"),
    ("Flux.2", r"(?:double|single)_stream_modulation|attn[._]to_qkv_mlp_proj"),
    ("HunyuanVideo", r"single(?:_transformer)?_blocks[._]3[89]|token_refiner"),
    ("Flux", r"(?:double|single)_blocks[._]\d|single_transformer_blocks[._]\d"),
    ("SD3", r"joint_blocks[._]\d"),
    ("Qwen-Image", r"transformer_blocks[._]\d+[._](?:img|txt)_m(?:lp|od)|"
                   r"transformer_blocks[._](?:3[89]|[45]\d)[._]attn[._]"),
    ("SD3", r"transformer_blocks[._]\d+[._](?:attn[._](?:add_[qkv]_proj|to_add_out)|ff_context)"),
    ("Lumina 2", r"(?:noise|context)_refiner[._]\d|"
                 r"layers[._]\d+[._](?:attention[._](?:qkv|out|to_)|feed_forward[._]w\d)"),
    ("Anima", r"blocks[._]\d+[._](?:(?:self|cross)_attn[._](?:[qkv]|output)_proj|mlp[._]layer\d|adaln_modulation)"),
    ("Wan", r"blocks[._]\d+[._](?:(?:self|cross)_attn[._][qkvo](?:_img)?(?=\.)|ffn[._][02](?=\.))"),
    ("Wan", r"(?:^|\.)blocks\.\d+\.(?:attn\d\.|ffn\.net)"),
    ("Hunyuan-DiT", r"blocks[._]\d+[._]attn\d[._](?:Wqkv|q_proj|kv_proj|out_proj)"),
    ("PixArt or LTX-Video", r"transformer_blocks[._]\d+[._]attn\d[._]to_"),
)  # fmt: skip
"""Which model has such layers. The first that fits counts. Titles are those of :mod:`lbw.tags.families`, where it has
the model."""

_COMPILED_MODELS = tuple((title, re.compile(pattern, re.MULTILINE)) for title, pattern in _MODELS)
_COMPILED_NAMINGS = tuple((title, re.compile(pattern)) for title, pattern in _NAMINGS)

_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor\.)?to_[kv](?![a-z]).*(?:down|lora_A|hada_w1_b|diff\b)")
_BY_CONTEXT = {768: "SD1", 1024: "SD2", 2048: "SDXL", 1280: "SDXL refiner"}
"""The width of what a U-Net gets from the text encoders."""

_LIKELY = "SD1/SD2"
"""What a U-Net is of that shows nothing of another one."""

_DEEP = re.compile(
    r"(?:blocks[._]\d+[._](?:\d|attentions[._]\d)|mid_block[._]attentions[._]0|middle_block[._]1)"
    r"[._]transformer_blocks[._][1-9]"
)
_SECOND_ENCODER = re.compile(r"(?:lora_|lycoris_)?(?:te2|text_encoder_2)[._]")

_WORDS = (
    ("Flux.2", r"flux[-_. ]?2"), ("Flux", r"flux"), ("Chroma", r"chroma"), ("SD3", r"sd3|stable-diffusion-(?:v?3)"),
    ("SDXL refiner", r"refiner"), ("SDXL", r"sd_?xl|stable-diffusion-xl|pony|illustrious|noobai"),
    ("SD2", r"sd_?v2|stable-diffusion-v2|sd_2"), ("SD1", r"sd_?v1|stable-diffusion-v1|sd_1|sd1"),
    ("Z-Image", r"z[-_]?image"), ("Lumina 2", r"lumina"), ("Qwen-Image", r"qwen"), ("Wan", r"wan"),
    ("HunyuanVideo", r"hunyuan_?video"), ("Stable Cascade", r"cascade"), ("Anima", r"anima"),
)  # fmt: skip
_SAYING = ("modelspec.architecture", "ss_base_model_version", "ss_network_module")
"""Keys of metadata that say which model a file is for."""


def model_name(family: Family) -> str:
    """What a loaded model is called: SD2 has the layers of SD1, but for those of its text encoder."""
    if family.architecture is not SD1.architecture:
        return family.title
    return "SD2" if "CLIP_H" in family.encoders else "SD1" if "CLIP_L" in family.encoders else family.title


@dataclass(frozen=True)
class Origin:
    """What a file was made for.

    Args:
        model: what the model is called; None if it cannot be told.
        naming: whose names they are; None if they are nobody's.
        unet_parts: how many parts it has for the diffusion model,
        encoder_parts: and how many for text encoders.
        example: one of the names.
        has_words: whether it brings words for the prompt along, as bundled embeddings.
    """

    model: str | None
    naming: str | None
    unet_parts: int
    encoder_parts: int
    example: str
    has_words: bool = False

    @property
    def parts(self) -> int:
        return self.unet_parts + self.encoder_parts

    def is_for(self, family: Family) -> bool:
        """Whether it was made for a model of this family."""
        return self.model in (model_name(family), family.title, family.architecture.title)

    def is_for_another(self, family: Family) -> bool:
        """Whether it is known to have been made for a model of another family."""
        return self.model not in (None, _LIKELY) and not self.is_for(family)


_LONGEST_NAME = 300
"""Characters: of the names that there are the longest has half as many, and what looks for a name's model takes a time
that grows with the square of its length."""


def of_head(head: Head) -> Origin:
    head = Head({name: shape for name, shape in head.shapes.items() if len(name) <= _LONGEST_NAME}, head.metadata)
    names = [name for name in head.shapes if not name.startswith("bundle_emb.")]
    parts = dict.fromkeys(part_of(name) for name in names if not _NO_PART_ALONE.search(name))
    of_encoders = {part for part in parts if _OF_TEXT_ENCODER.match(part)}
    namings = Counter(naming for name in names if (naming := _naming_of(name)))
    return Origin(
        model=_model_of(head, [name for name in names if not _OF_TEXT_ENCODER.match(name)]),
        naming=next((naming for naming, _count in namings.most_common(1)), None),
        unet_parts=len(parts) - len(of_encoders),
        encoder_parts=len(of_encoders),
        example=next((part for part in parts if part not in of_encoders), next(iter(parts), "")),
        has_words=len(names) < len(head.shapes),
    )


def part_of(name: str) -> str:
    """The part that a tensor belongs to."""
    known = split(name)
    return _SUFFIX.sub("", name) if known is None else known[0]


def _naming_of(name: str) -> str | None:
    return next((title for title, pattern in _COMPILED_NAMINGS if pattern.match(name)), None)


def _model_of(head: Head, unet_names: Iterable[str]) -> str | None:
    text = "\n".join(unet_names)
    found = next((title for title, pattern in _COMPILED_MODELS if pattern.search(text)), None)
    said = _said_by(head.metadata)
    if found == "U-Net":
        return _unet_of(head, text, said)
    if found == "Flux" and said in ("Flux.2", "Chroma", "HunyuanVideo"):  # which have blocks of the same names
        return said
    if found == "Lumina 2" and (said == "Z-Image" or re.search(r"layers[._]2[6-9]", text)):
        return "Z-Image"
    return found or said


def _unet_of(head: Head, text: str, said: str | None) -> str:
    widths = Counter(
        shape[1] for name, shape in head.shapes.items() if len(shape) > 1 and _CROSS_ATTENTION.search(name)
    )
    for width, _count in widths.most_common(1):
        if width in _BY_CONTEXT:
            return _BY_CONTEXT[width]
    if _DEEP.search(text) or any(map(_SECOND_ENCODER.match, head.shapes)):
        return "SDXL"
    return said if said is not None and said in _BY_CONTEXT.values() else _LIKELY


def _said_by(metadata: Mapping[str, str]) -> str | None:
    """The model that the metadata name."""
    if metadata.get("ss_v2") == "True":
        return "SD2"
    for key in _SAYING:
        said = metadata.get(key, "").lower()
        for title, pattern in _WORDS:
            if re.search(pattern, said):
                return title
    return None


_MOST_KNOWN = 500
_known: dict[tuple[str, int, int], Origin | None] = {}
"""By a file's path, time and size."""


def of_file(path: str) -> Origin | None:
    """What a file was made for; None where its head cannot be read, which is done once for a file as it is."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    key = path, state.st_mtime_ns, state.st_size
    if key not in _known:
        if len(_known) == _MOST_KNOWN:
            _known.clear()
        head = read(path)
        _known[key] = None if head is None else of_head(head)
    return _known[key]
