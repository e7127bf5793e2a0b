"""What a LoRA file was made for, by names as each trainer writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lbw.files import head, origin
from lbw.files.head import Head
from lbw.tags.families import KNOWN

KOHYA = ("lora_down.weight", "lora_up.weight", "alpha")
PEFT = ("lora_A.weight", "lora_B.weight")


def head_of(
    names: Iterable[str], parts: Iterable[str], width: int = 640, metadata: Mapping[str, str] | None = None
) -> Head:
    """A file with all ``parts`` under each of ``names``; ``width`` is how many inputs each layer has."""
    shapes = {}
    for name in names:
        for part in parts:
            joint = "" if part.startswith("_") else "."
            is_down = "down" in part or "_A" in part or part == "hada_w1_b"
            shapes[f"{name}{joint}{part}"] = () if part == "alpha" else (4, width) if is_down else (640, 4)
    return Head(shapes, metadata or {})


SD_ATTENTION = "transformer_blocks_0_attn2_to_k"
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"

FILES: dict[str, tuple[Head, str | None, str | None, int, int]] = {
    "SD1, kohya": (
        head_of([f"lora_unet_down_blocks_0_attentions_0_{SD_ATTENTION}", f"lora_te_{TEXT}"], KOHYA, 768),
        "SD1", "kohya's", 1, 1),
    "SD1, kohya, sgm's names": (
        head_of([f"lora_unet_input_blocks_1_1_{SD_ATTENTION}", f"lora_te1_{TEXT}"], KOHYA, 768),
        "SD1", "kohya's", 1, 1),
    "SD2, kohya": (
        head_of([f"lora_unet_up_blocks_1_attentions_0_{SD_ATTENTION}"], KOHYA, 1024), "SD2", "kohya's", 1, 0),
    "SD2 by what it says": (
        head_of(["lora_unet_up_blocks_1_attentions_0_proj_in"], KOHYA, metadata={"ss_v2": "True"}),
        "SD2", "kohya's", 1, 0),
    "SD1 or SD2": (
        head_of(["lora_unet_up_blocks_1_attentions_0_proj_in"], KOHYA), "SD1/SD2", "kohya's", 1, 0),
    "SD1, OFT": (
        head_of(["oft_unet_input_blocks_1_1_proj_in"], ("oft_blocks", "alpha"),
                metadata={"ss_base_model_version": "sd_v1"}), "SD1", "kohya's", 1, 0),
    "SDXL, kohya": (
        head_of([f"lora_unet_input_blocks_4_1_{SD_ATTENTION}", f"lora_te1_{TEXT}", f"lora_te2_{TEXT}"], KOHYA, 2048),
        "SDXL", "kohya's", 1, 2),
    "SDXL by its depth": (
        head_of(["lora_unet_input_blocks_8_1_transformer_blocks_9_attn1_to_q"], KOHYA), "SDXL", "kohya's", 1, 0),
    "SDXL by its middle": (
        head_of(["lora_unet_middle_block_1_transformer_blocks_3_ff_net_2"], KOHYA), "SDXL", "kohya's", 1, 0),
    "SDXL by its text encoders": (
        head_of(["lora_unet_input_blocks_4_1_proj_in", f"lora_te2_{TEXT}"], KOHYA), "SDXL", "kohya's", 1, 1),
    "SDXL, text encoder alone": (
        head_of([f"lora_te2_{TEXT}"], KOHYA, metadata={"ss_base_model_version": "sdxl_base_v1-0"}),
        "SDXL", "kohya's", 0, 1),
    "SDXL refiner": (
        head_of([f"lora_unet_input_blocks_4_1_{SD_ATTENTION}"], KOHYA, 1280), "SDXL refiner", "kohya's", 1, 0),
    "SDXL, LyCORIS' LoHa in kohya's names": (
        head_of([f"lora_unet_input_blocks_4_1_{SD_ATTENTION}"],
                ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"), 2048), "SDXL", "kohya's", 1, 0),
    "SDXL, LyCORIS as a wrapper": (
        head_of(["lycoris_down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q"],
                ("lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha")), "SDXL", "LyCORIS'", 1, 0),
    "SD1, diffusers' old names": (
        head_of(["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k",
                 "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"],
                ("_lora.down.weight", "_lora.up.weight"), 768), "SD1", "diffusers' old", 1, 1),
    "SDXL, diffusers": (
        head_of(["unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
                 "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj"], PEFT), "SDXL", "diffusers'", 1, 1),
    "SD1, diffusers, before PEFT": (
        head_of(["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
                 "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"],
                ("lora.down.weight", "lora.up.weight"), 768), "SD1", "diffusers'", 1, 1),
    "SD1, diffusers' text encoder": (
        head_of(["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
                 "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"],
                ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"), 768), "SD1", "diffusers'", 1, 1),
    "SD1, PEFT": (
        head_of(["base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"], PEFT, 768),
        "SD1", "PEFT's", 1, 0),
    "SD1, PEFT with an adapter's name, and DoRA": (
        head_of(["base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"],
                ("lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight"), 768),
        "SD1", "PEFT's", 1, 0),
    "SDXL, OneTrainer": (
        head_of(["unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
                 "text_encoder_1.text_model.encoder.layers.0.self_attn.q_proj"], KOHYA), "SDXL", "OneTrainer's", 1, 1),
    "Flux, kohya": (
        head_of(["lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_37_linear1", f"lora_te1_{TEXT}"],
                KOHYA), "Flux", "kohya's", 2, 1),
    "Flux, diffusers": (
        head_of(["transformer.transformer_blocks.0.attn.to_q", "transformer.single_transformer_blocks.0.attn.to_q"],
                PEFT), "Flux", "diffusers'", 2, 0),
    "Flux, OneTrainer": (
        head_of(["lora_transformer_single_transformer_blocks_0_attn_to_q"], KOHYA), "Flux", "OneTrainer's", 1, 0),
    "Flux, ComfyUI": (head_of(["diffusion_model.double_blocks.0.img_attn.qkv"], PEFT), "Flux", "ComfyUI's", 1, 0),
    "Flux.2": (
        head_of(["diffusion_model.double_stream_modulation_img.lin", "diffusion_model.double_blocks.0.img_attn.qkv"],
                PEFT), "Flux.2", "ComfyUI's", 2, 0),
    "Flux.2 by what it says": (
        head_of(["lora_unet_double_blocks_0_img_attn_qkv"], KOHYA,
                metadata={"modelspec.architecture": "Flux.2-dev/lora"}), "Flux.2", "kohya's", 1, 0),
    "Chroma by what it says": (
        head_of(["lora_unet_double_blocks_0_img_attn_qkv"], KOHYA, metadata={"modelspec.architecture": "chroma"}),
        "Chroma", "kohya's", 1, 0),
    "HunyuanVideo": (
        head_of(["lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_39_linear1"], KOHYA),
        "HunyuanVideo", "kohya's", 2, 0),
    "SD3, kohya": (
        head_of(["lora_unet_joint_blocks_0_x_block_attn_qkv", "lora_te3_encoder_block_0_layer_0_SelfAttention_q"],
                KOHYA), "SD3", "kohya's", 1, 1),
    "SD3, diffusers": (
        head_of(["transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.add_q_proj"],
                PEFT), "SD3", "diffusers'", 2, 0),
    "Qwen-Image, kohya": (
        head_of(["lora_unet_transformer_blocks_0_img_mlp_net_2"], KOHYA), "Qwen-Image", "kohya's", 1, 0),
    "Qwen-Image, diffusers": (
        head_of(["transformer.transformer_blocks.59.attn.to_q", "transformer.transformer_blocks.0.attn.add_q_proj"],
                PEFT), "Qwen-Image", "diffusers'", 2, 0),
    "Wan, kohya": (
        head_of(["lora_unet_blocks_0_self_attn_q", "lora_unet_blocks_0_ffn_0"], KOHYA), "Wan", "kohya's", 2, 0),
    "Wan, ComfyUI": (head_of(["diffusion_model.blocks.0.cross_attn.k_img"], PEFT), "Wan", "ComfyUI's", 1, 0),
    "Wan, diffusers": (head_of(["transformer.blocks.0.attn1.to_q"], PEFT), "Wan", "diffusers'", 1, 0),
    "Z-Image": (head_of(["diffusion_model.layers.29.attention.qkv"], PEFT), "Z-Image", "ComfyUI's", 1, 0),
    "Lumina 2": (head_of(["lora_unet_layers_0_attention_qkv"], KOHYA), "Lumina 2", "kohya's", 1, 0),
    "Anima": (head_of(["lora_unet_blocks_0_self_attn_q_proj"], KOHYA), "Anima", "kohya's", 1, 0),
    "Stable Cascade": (
        head_of(["lora_prior_unet_down_blocks_0_2_attention_attn_to_q"], KOHYA), "Stable Cascade", "kohya's", 1, 0),
    "PixArt": (
        head_of(["transformer.transformer_blocks.0.attn1.to_q"], PEFT), "PixArt or LTX-Video", "diffusers'", 1, 0),
    "nobody's": (head_of(["some.thing"], ("factor_1", "factor_2")), None, None, 2, 0),
    "an embedding": (Head({"emb_params": (2, 768)}, {}), None, None, 1, 0),
    "a bundled embedding": (Head({"bundle_emb.word.clip_l": (2, 768)}, {}), None, None, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_the_model_the_names_and_the_number_of_parts_are_told(kind: str):
    made, model, naming, unet, encoders = FILES[kind]
    found = origin.of_head(made)
    assert (found.model, found.naming, found.unet_parts, found.encoder_parts) == (model, naming, unet, encoders)


def test_words_that_a_file_brings_along_are_no_parts():
    assert origin.of_head(FILES["a bundled embedding"][0]).has_words
    assert not any(origin.of_head(made).has_words for kind, (made, *_) in FILES.items() if "bundled" not in kind)


def test_models_are_called_what_the_table_of_families_calls_them():
    ours = {title for title, _pattern in origin._MODELS} | {title for title, _pattern in origin._WORDS}
    known = {family.title for family in KNOWN} | {family.architecture.title for family in KNOWN}
    others = {"U-Net", "SD1", "SD2", "HiDream", "AuraFlow", "Stable Cascade", "HunyuanVideo", "Hunyuan-DiT",
              "PixArt or LTX-Video"}  # fmt: skip
    assert ours - known == others


def test_only_tensors_that_add_something_make_a_part():
    made = head_of(["lora_unet_a", "lora_unet_b"], KOHYA)
    alone = {"lora_unet_c.alpha": (), "lora_unet_d.dora_scale": (4,), "lora_unet_a.dora_scale": (4, 1)}
    assert origin.of_head(Head({**made.shapes, **alone}, {})).unet_parts == 2


SUFFIXES = [
    "lora_up.weight", "lora_mid.weight", "lora_A.weight", "lora_B.default.weight", "lora.down.weight", "hada_w1_a",
    "hada_t1", "lokr_w2_b", "oft_blocks", "oft_diag", "a1.weight", "b2.weight", "diff", "diff_b", "w_norm", "b_norm",
    "weight", "on_input", "alpha", "scale", "dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight",
    "rescale", "set_weight", "bias",
]  # fmt: skip


def test_a_models_own_weights_and_names_of_adapters_make_no_parts():
    layer = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    names = [f"{layer}.{each}" for each in (
        "base_layer.weight", "base_layer.bias", "lora_A.default.weight", "lora_B.default.weight", "alpha.default",
    )]  # fmt: skip
    assert origin.of_head(Head(dict.fromkeys(names, (4, 4)), {})).unet_parts == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", ["lora_unet_output_blocks_3_0_skip_connection", "unet.up_blocks.0.attn1.to_out.0"])
def test_a_tensor_belongs_to_its_part_whatever_it_is_called(part: str, suffix: str):
    assert origin.part_of(f"{part}.{suffix}") == part


def test_a_files_head_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, reads = tmp_path / "a.safetensors", []
    monkeypatch.setattr(origin, "read", lambda name: reads.append(name) or head.read(name))
    save_file({"lora_unet_input_blocks_0_0.diff": torch.ones(4, 4)}, path, {"ss_base_model_version": "sd_v1"})
    assert [origin.of_file(str(path)) for _ in range(3)] == [origin.Origin(
        "SD1", "kohya's", 1, 0, "lora_unet_input_blocks_0_0")] * 3  # fmt: skip
    assert len(reads) == 1
    save_file({"lora_unet_joint_blocks_0.diff": torch.ones(4, 4)}, path)
    os.utime(path, ns=(1, 1))
    assert origin.of_file(str(path)).model == "SD3" and len(reads) == 2


BROKEN = {
    "empty": b"", "short": b"\x04\0\0", "another format": b"PK\x03\x04" + b"\0" * 60, "no object": b"\x02" + b"\0" * 7
    + b"[]", "cut off": (100).to_bytes(8, "little") + b'{"a":', "no shape": None, "huge": b"\xff" * 8 + b"{}",
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_head_that_cannot_be_read_says_nothing(tmp_path: Path, kind: str):
    text = json.dumps({"a": {"dtype": "F32"}}).encode()
    content = BROKEN[kind] if BROKEN[kind] is not None else len(text).to_bytes(8, "little") + text
    (tmp_path / "a.safetensors").write_bytes(content)
    assert head.read(str(tmp_path / "a.safetensors")) is None
    assert origin.of_file(str(tmp_path / "a.safetensors")) is None
    assert origin.of_file(str(tmp_path / "no such file")) is None
