from __future__ import annotations

import pytest

from lbw.tags.blocks import FLUX_LABELS, LAYOUTS, UNET_LABELS, Family, block_of, family_of_layers, is_text_encoder


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("diffusion_model_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "IN04"),
        ("diffusion_model_input_blocks_11_0_in_layers_2", "IN11"),
        ("diffusion_model_middle_block_1_proj_in", "M00"),
        ("diffusion_model_output_blocks_10_1_proj_out", "OUT10"),
        ("diffusion_model_time_embed_0", None),
        ("diffusion_model_label_emb_0_0", None),
        ("diffusion_model_out_2", None),
        ("transformer_text_model_encoder_layers_0_mlp_fc1", "BASE"),
        ("model_transformer_resblocks_3_attn", "BASE"),
        ("0_transformer_text_model_encoder_layers_0_mlp_fc1", "BASE"),
        ("1_model_transformer_resblocks_3_mlp_c_fc", "BASE"),
        ("diffusion_model_joint_blocks_0_x_block_attn_qkv", "IN00"),
        ("diffusion_model_joint_blocks_12_context_block_attn_qkv_q_proj", "OUT00"),
        ("diffusion_model_joint_blocks_23_x_block_attn_qkv", "OUT11"),
        ("diffusion_model_joint_blocks_24_x_block_attn_qkv", None),
        ("diffusion_model_x_embedder_proj", None),
        ("diffusion_model_final_layer_linear", None),
        ("clip_l_transformer_text_model_encoder_layers_0_mlp_fc1", "BASE"),
        ("diffusion_model.input_blocks.4.1.proj_in", "IN04"),
    ],
)
def test_stable_diffusion_layers(layer: str, block: str | None):
    assert block_of(layer) == block


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("diffusion_model.double_blocks.0.img_attn.qkv", "D00"),
        ("diffusion_model_single_blocks_37_linear1", "S37"),
        ("diffusion_model.img_in", "IN"),
        ("diffusion_model.time_in.in_layer", "IN"),
        ("diffusion_model.final_layer.linear", "OUT"),
        ("clip_l.transformer.text_model.encoder.layers.0.mlp.fc1", "CLIP"),
        ("t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q", "T5"),
    ],
)
def test_flux_layers(layer: str, block: str):
    assert block_of(layer, Family.FLUX) == block


def test_the_family_is_seen_from_the_layers():
    assert family_of_layers(["diffusion_model.double_blocks.0.img_attn.qkv"]) is Family.FLUX
    assert family_of_layers(["diffusion_model_input_blocks_0_0"]) is Family.UNET


def test_layouts_have_the_lengths_that_they_are_listed_under():
    for length, labels in LAYOUTS.items():
        assert len(labels) == len(set(labels)) == length
        assert set(labels) <= set(FLUX_LABELS if length == 61 else UNET_LABELS)


def test_the_text_encoders_multiplier_is_for_text_encoders():
    assert is_text_encoder("gemma2_model_layers_0_self_attn_q_proj")
    assert not is_text_encoder("1_model_ln_final") and not is_text_encoder("model_ln_final"), "as the host has it"
    assert is_text_encoder("qwen25_7b_transformer_model_layers_0_mlp_up_proj")
    assert is_text_encoder("transformer_text_model_encoder_layers_0_mlp_fc1")
    assert is_text_encoder("1_model_transformer_resblocks_3_mlp_c_fc")
    assert not is_text_encoder("diffusion_model_input_blocks_4_1_transformer_blocks_0_attn1_to_q")
