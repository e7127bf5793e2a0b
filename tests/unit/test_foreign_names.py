"""What other trainers call layers and tensors, by table. The names of diffusers' layers were compared once with its own
conversion of checkpoints (diffusers 0.32.2), layer by layer, for SD1, SD2, SDXL, its refiner and SD3."""

from __future__ import annotations

import json

import pytest

from lbw.files import foreign_names
from lbw.files.layer_names import ModelLayers, names_of
from lbw.files.tensor_names import split
from tests.unit.model_layers import layers_of

SD1 = "diffusion_model_input_blocks_1_1_transformer_blocks_0_attn1"
TE = "transformer_text_model_encoder_layers_3"
G = "1_model_transformer_resblocks_3"


def on_a1111(model: str) -> ModelLayers:
    """The layers by AUTOMATIC1111's names, which differ in the text encoders."""
    keys = []
    for layer in layers_of(model):
        clip, _, rest = layer.partition("_transformer_text_model_")
        if clip == "clip_l":
            layer = f"{'0_' if model == 'sdxl' else ''}transformer_text_model_{rest}"
        elif clip in ("clip_g", "clip_h"):
            number = {"sdxl": "1_", "sdxl_refiner": "0_"}.get(model, "")
            for theirs, ours in (
                ("encoder_layers", "transformer_resblocks"), ("self_attn", "attn"), ("mlp_fc1", "mlp_c_fc"),
                ("mlp_fc2", "mlp_c_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                ("final_layer_norm", "ln_final"),
            ):  # fmt: skip
                rest = rest.replace(theirs, ours)
            layer = f"{number}model_{rest}"
        keys.append(layer)
    return ModelLayers(keys + [f"{key}_{part}_proj" for key in keys if key.endswith("attn_qkv") for part in "qkv"])


TENSORS = {
    "unet.x.attn1.processor.to_q_lora.up.weight": ("unet.x.attn1.processor.to_q", "lora_up.weight"),
    "unet.x.attn1.processor.to_out_lora.down.weight": ("unet.x.attn1.processor.to_out", "lora_down.weight"),
    "unet.x.attn1.to_q.lora.down.weight": ("unet.x.attn1.to_q", "lora_down.weight"),
    "text_encoder.x.q_proj.lora_linear_layer.up.weight": ("text_encoder.x.q_proj", "lora_up.weight"),
    "unet.x.to_q.lora_A.weight": ("unet.x.to_q", "lora_down.weight"),
    "base_model.model.x.to_q.lora_B.default.weight": ("base_model.model.x.to_q", "lora_up.weight"),
    "base_model.model.x.to_q.lora_A.my-adapter_1.weight": ("base_model.model.x.to_q", "lora_down.weight"),
    "x.to_q.lora_magnitude_vector": ("x.to_q", "magnitude"),
    "x.to_q.lora_magnitude_vector.weight": ("x.to_q", "magnitude"),
    "x.to_q.lora_magnitude_vector.default.weight": ("x.to_q", "magnitude"),
    "lora_unet.x.lora_mid.weight": ("lora_unet.x", "lora_mid.weight"),
    "lora_unet.x.alpha": ("lora_unet.x", "alpha"),
    "unet.x.attn1.processor.to_q_lora.alpha": ("unet.x.attn1.processor.to_q", "alpha"),
    "unet.x.dora_scale": ("unet.x", "dora_scale"),
    "lycoris_x.hada_w1_a": ("lycoris_x", "hada_w1_a"),
    "base_model.model.x.lokr_w2_b.default": ("base_model.model.x", "lokr_w2_b"),
    "lycoris_x.a1.weight": ("lycoris_x", "a1.weight"),
    "lycoris_x.on_input": ("lycoris_x", "on_input"),
    "bundle_emb.word.clip_l": None,
    "x.to_q.lora_embedding_A": None,
    "lora_te_text_model": None,
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_told_by_the_end_of_its_name(name: str):
    assert split(name) == TENSORS[name]


LAYERS = {
    "sd1": {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q": f"{SD1}_to_q",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out": f"{SD1}_to_out_0",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q": f"{SD1}_to_q",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": f"{SD1}_to_out_0",
        "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": f"{SD1}_to_q",
        "base_model.model.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": f"{SD1}_to_q",
        "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": f"{SD1}_to_q",
        "lycoris_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": f"{SD1}_to_q",
        "lora_unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": f"{SD1}_to_q",
        "unet.input_blocks.1.1.transformer_blocks.0.attn1.to_q": f"{SD1}_to_q",
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q": f"{SD1}_to_q",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q": f"{SD1}_to_q",
        "unet.mid_block.attentions.0.proj_in": "diffusion_model_middle_block_1_proj_in",
        "unet.mid_block.resnets.1.conv1": "diffusion_model_middle_block_2_in_layers_2",
        "unet.up_blocks.1.attentions.2.proj_out": "diffusion_model_output_blocks_5_1_proj_out",
        "unet.up_blocks.1.resnets.0.conv_shortcut": "diffusion_model_output_blocks_3_0_skip_connection",
        "unet.down_blocks.1.resnets.1.time_emb_proj": "diffusion_model_input_blocks_5_0_emb_layers_1",
        "unet.down_blocks.2.downsamplers.0.conv": "diffusion_model_input_blocks_9_0_op",
        "unet.up_blocks.0.upsamplers.0.conv": "diffusion_model_output_blocks_2_1_conv",
        "unet.up_blocks.2.upsamplers.0.conv": "diffusion_model_output_blocks_8_2_conv",
        "unet.output_blocks.2.2.conv": "diffusion_model_output_blocks_2_1_conv",
        "unet.conv_in": "diffusion_model_input_blocks_0_0",
        "unet.conv_out": "diffusion_model_out_2",
        "unet.conv_norm_out": "diffusion_model_out_0",
        "unet.time_embedding.linear_2": "diffusion_model_time_embed_2",
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj": f"{TE}_self_attn_q_proj",
        "text_encoder.text_model.encoder.layers.3.self_attn.to_q": f"{TE}_self_attn_q_proj",
        "text_encoder.text_model.encoder.layers.3.self_attn.to_out": f"{TE}_self_attn_out_proj",
        "text_encoder.encoder.layers.3.mlp.fc1": f"{TE}_mlp_fc1",
        "base_model.model.text_model.encoder.layers.3.mlp.fc2": f"{TE}_mlp_fc2",
        "lora_te1.text_model.encoder.layers.3.mlp.fc1": f"{TE}_mlp_fc1",
        "lora_te.text_model.encoder.layers.3.mlp.fc1": f"{TE}_mlp_fc1",
        "clip_l.text_model.encoder.layers.3.mlp.fc1": f"{TE}_mlp_fc1",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.3.mlp.fc1": f"{TE}_mlp_fc1",
        "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1": f"{TE}_mlp_fc1",
        "transformer.text_model.encoder.layers.3.mlp.fc1": f"{TE}_mlp_fc1",
        "text_encoder_2.text_model.encoder.layers.3.mlp.fc1": None,
        "unet.down_blocks.3.attentions.0.proj_in": None,
        "transformer.single_transformer_blocks.0.attn.to_q": None,
        "double_blocks.0.img_attn.proj": None,
        "nonsense": None,
        "": None,
    },
    "sd2": {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": f"{SD1}_to_q",
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj": "model_transformer_resblocks_3_attn_q_proj",
        "text_encoder.text_model.encoder.layers.3.mlp.fc1": "model_transformer_resblocks_3_mlp_c_fc",
        "clip_l.text_model.encoder.layers.3.mlp.fc2": "model_transformer_resblocks_3_mlp_c_proj",
    },
    "sdxl": {
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k":
            "diffusion_model_input_blocks_4_1_transformer_blocks_1_attn2_to_k",
        "lora_unet_up_blocks_0_upsamplers_0_conv": "diffusion_model_output_blocks_2_2_conv",
        "unet.add_embedding.linear_1": "diffusion_model_label_emb_0_0",
        "text_encoder.text_model.encoder.layers.3.self_attn.q_proj": f"0_{TE}_self_attn_q_proj",
        "text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj": f"{G}_attn_q_proj",
        "text_encoder_2.text_model.encoder.layers.3.self_attn.out_proj": f"{G}_attn_out_proj",
        "text_encoder_2.text_model.encoder.layers.31.mlp.fc1": "1_model_transformer_resblocks_31_mlp_c_fc",
        "text_encoder_2.text_model.final_layer_norm": "1_model_ln_final",
        "lora_te2.text_model.encoder.layers.3.mlp.fc2": f"{G}_mlp_c_proj",
        "clip_g.text_model.encoder.layers.3.mlp.fc2": f"{G}_mlp_c_proj",
        "text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc2": f"{G}_mlp_c_proj",
        "text_model.encoder.layers.3.mlp.fc2": None,  # it has two with such a layer
        "lora_te_text_model_encoder_layers_3_mlp_fc2": None,
        "text_model.encoder.layers.31.mlp.fc1": None,
    },
    "sdxl_refiner": {
        "unet.down_blocks.1.attentions.0.transformer_blocks.3.attn2.to_k":
            "diffusion_model_input_blocks_4_1_transformer_blocks_3_attn2_to_k",
        "text_encoder_2.text_model.encoder.layers.3.mlp.fc2": "0_model_transformer_resblocks_3_mlp_c_proj",
    },
    "sd3_medium": {
        "transformer.transformer_blocks.5.attn.to_q": "diffusion_model_joint_blocks_5_x_block_attn_qkv_q_proj",
        "lycoris_transformer_blocks_5_attn_add_k_proj": "diffusion_model_joint_blocks_5_context_block_attn_qkv_k_proj",
        "transformer.transformer_blocks.5.attn.to_add_out": "diffusion_model_joint_blocks_5_context_block_attn_proj",
        "transformer.transformer_blocks.5.ff_context.net.0.proj":
            "diffusion_model_joint_blocks_5_context_block_mlp_fc1",
        "transformer.transformer_blocks.5.norm1_context.linear": None,
    },
}  # fmt: skip


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, names in LAYERS.items() for name in names])
def test_a_layer_has_the_names_that_other_programs_give_it(model: str, name: str):
    assert on_a1111(model).find(name) == LAYERS[model][name]


@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl", "sd3_medium"])
def test_the_forge_family_s_layers_have_them_too(model: str):
    layers = ModelLayers(layers_of(model))
    for name, key in LAYERS[model].items():
        if key is not None and name.startswith(("unet", "transformer.transformer")) and "attn_qkv" not in key:
            assert layers.find(name) == key
    encoder = {"sd2": "clip_h"}.get(model, "clip_l")
    found = layers.find("text_encoder.text_model.encoder.layers.3.mlp.fc1")
    assert found == f"{encoder}_transformer_text_model_encoder_layers_3_mlp_fc1"


@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl", "sdxl_refiner", "sd3_medium"])
def test_no_two_layers_share_a_name(model: str):
    owners: dict[tuple[str, str], str] = {}
    for key in on_a1111(model).keys:
        part, paths = names_of(key)
        for path in set(paths):
            assert owners.setdefault((part, path), key) == key


def test_parts_are_put_together():
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    names = [f"{layer}.{part}" for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")]
    assert foreign_names.parts([*names, "unet.nope.lora_A.weight"], on_a1111("sd1")) == {
        f"{SD1}_to_q": {"lora_down.weight": names[0], "lora_up.weight": names[1], "magnitude": names[2]}
    }


def test_the_first_of_two_names_for_one_tensor_counts():
    names = [f"{start}.conv_in.lora_A.weight" for start in ("unet", "base_model.model")]
    found = foreign_names.parts(names, on_a1111("sd1"))
    assert found == {"diffusion_model_input_blocks_0_0": {"lora_down.weight": names[0]}}


@pytest.mark.parametrize("form", ["{}.weight", "{}.base_layer.weight", "{}.bias", "{}.alpha"])
def test_a_model_s_own_weights_are_no_network(form: str):
    assert foreign_names.parts([form.format("diffusion_model.input_blocks.0.0")], on_a1111("sd1")) == {}


NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"


def noted(**config: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}


SCALES = [
    ({}, None),
    ({"lora_adapter_metadata": "{not json"}, None),
    ({"lora_adapter_metadata": "[1]"}, None),
    (noted(r=4), None),
    (noted(lora_alpha="4"), None),
    (noted(lora_alpha=8), 2.0),
    (noted(lora_alpha=8, use_rslora=True), 4.0),
    (noted(lora_alpha=8, alpha_pattern={"attn1.to_q": 2}), 0.5),
    (noted(lora_alpha=8, alpha_pattern={"^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": 2}), 0.5),
    (noted(lora_alpha=8, alpha_pattern={"attn2.to_q": 2, "to_k": 1}), 2.0),
    (noted(lora_alpha=8, alpha_pattern={"(": 2}), 2.0),
    (noted(lora_alpha=8, alpha_pattern=[1]), 2.0),
    ({"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 8})}, None),
]


@pytest.mark.parametrize(("metadata", "scale"), SCALES)
def test_what_diffusers_notes_of_alpha_counts(metadata: dict[str, str], scale: float | None):
    assert foreign_names.scale(metadata, NAME, 4) == scale
