"""Families: each layer of real models is in its block, and what labels, groups and vectors mean on each."""

from __future__ import annotations

import re

import pytest

from lbw.plan.plan import build
from lbw.tags.blocks import parse_blocks
from lbw.tags.families import (
    ENCODERS,
    FLUX,
    KNOWN,
    ORIGINAL_LAYOUTS,
    SD1,
    SDXL,
    Family,
    family_of_layers,
    is_text_encoder,
    usual_layout,
)
from lbw.tags.library import Library
from lbw.tags.prompt import LoraRequest
from lbw.tags.weights import draw, parse_vector
from tests.unit.model_layers import ENCODERS as MODELS
from tests.unit.model_layers import layers_of

TITLES = {
    "anima": "Anima", "chroma": "Chroma", "flux1_dev": "Flux", "flux1_schnell": "Flux", "flux2_dev": "Flux.2",
    "flux2_klein_4b": "Flux.2 Klein 4B", "flux2_klein_9b": "Flux.2 Klein 9B", "lumina2": "Lumina 2",
    "qwen_image": "Qwen-Image", "sd1": "SD1/SD2", "sd2": "SD1/SD2", "sd35_large": "SD3.5 large", "sd35_medium": "SD3",
    "sd3_medium": "SD3", "sdxl": "SDXL", "sdxl_refiner": "SDXL refiner", "wan21_i2v_14b": "Wan 14B",
    "wan21_t2v_14b": "Wan 14B", "wan21_t2v_1_3b": "Wan 1.3B/5B", "wan22_i2v_14b": "Wan 14B",
    "wan22_t2v_14b": "Wan 14B", "wan22_ti2v_5b": "Wan 1.3B/5B", "zimage": "Z-Image",
}  # fmt: skip

BLOCKS = {
    "anima": "BASE IN B00-B27 OUT",
    "chroma": "CLIP T5 IN D00-D18 S00-S37 OUT",
    "flux1_dev": "CLIP T5 IN D00-D18 S00-S37 OUT",
    "flux2_dev": "BASE IN D00-D07 S00-S47 OUT",
    "flux2_klein_4b": "BASE IN D00-D04 S00-S19 OUT",
    "flux2_klein_9b": "BASE IN D00-D07 S00-S23 OUT",
    "lumina2": "BASE IN N00-N01 C00-C01 L00-L25 OUT",
    "qwen_image": "BASE IN B00-B59 OUT",
    "sd1": "BASE IN00-IN11 M00 OUT00-OUT11",
    "sd35_large": "BASE IN00-IN18 OUT00-OUT18",
    "sd3_medium": "BASE IN00-IN11 OUT00-OUT11",
    "sdxl": "BASE IN00-IN08 M00 OUT00-OUT08",
    "sdxl_refiner": "BASE IN00-IN11 M00 OUT00-OUT11",
    "wan21_i2v_14b": "BASE IN B00-B39 OUT",
    "wan21_t2v_1_3b": "BASE IN B00-B29 OUT",
    "zimage": "BASE IN N00-N01 C00-C01 L00-L29 OUT",
}

ROWS = {
    "anima": {"blocks": "B"}, "chroma": {"double_blocks": "D", "single_blocks": "S"}, "lumina2": {
        "noise_refiner": "N", "context_refiner": "C", "layers": "L"}, "qwen_image": {"transformer_blocks": "B"},
    "sd1": {"input_blocks": "IN", "output_blocks": "OUT"}, "wan21_t2v_14b": {"blocks": "B"},
}  # fmt: skip
ROWS |= {model: ROWS["chroma"] for model in MODELS if "flux" in model} | {"zimage": ROWS["lumina2"]}
ROWS |= {model: ROWS["wan21_t2v_14b"] for model in MODELS if "wan" in model}
ROWS |= {model: ROWS["sd1"] for model in ("sd2", "sdxl", "sdxl_refiner")}

SHARED = {
    "diffusion_model_time_embed_", "diffusion_model_label_emb_", "diffusion_model_out_", "diffusion_model_x_embedder_",
    "diffusion_model_t_embedder_", "diffusion_model_y_embedder_", "diffusion_model_context_embedder",
    "diffusion_model_final_layer_",
}
"""What layers in no block begin with: those of U-Nets and of SD3 that all blocks share."""


EDGES = {
    "M00": ("diffusion_model_middle_block_",),
    "OUT": tuple(f"diffusion_model_{name}" for name in ("final_layer", "norm_out", "proj_out", "head", "norm_final")),
    "IN": tuple(f"diffusion_model_{name}" for name in (
        "img_in", "txt_in", "txt_norm", "time_in", "vector_in", "guidance_in", "distilled_guidance_layer", "img_emb",
        "double_stream_modulation", "single_stream_modulation", "x_embedder", "t_embedder", "t_embedding_norm",
        "cap_embedder", "time_text_embed", "patch_embedding", "text_embedding", "time_embedding", "time_projection",
    )),
}  # fmt: skip
"""What layers before the blocks, and behind them, begin with."""


def of(model: str) -> Family:
    return family_of_layers(layers_of(model))


def expanded(text: str) -> list[str]:
    found = []
    for word in text.split():
        first, _, last = word.partition("-")
        match = re.fullmatch(r"([A-Z]+)(\d+)", first) if last else None
        numbers = range(int(match[2]), int(last.removeprefix(match[1])) + 1) if match else ()
        found += [f"{match[1]}{number:02d}" for number in numbers] if match else [first]
    return found


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_known_by_its_layers(model: str):
    assert of(model).title == TITLES[model]
    assert of(model) is of(model)
    shuffled = sorted(layers_of(model), key=lambda layer: layer[::-1])
    assert family_of_layers(shuffled) is of(model)


@pytest.mark.parametrize("model", BLOCKS)
def test_a_model_has_its_blocks_and_each_claims_layers(model: str):
    labels = expanded(BLOCKS[model])
    claimed = {of(model).block_of(layer) for layer in layers_of(model)} - {None}
    assert list(of(model).labels) == labels
    unclaimed = {"chroma": {"CLIP"}, "flux2_dev": {"BASE"}}.get(model, set())  # encoders that Forge has not for them
    assert claimed == set(labels) - unclaimed


@pytest.mark.parametrize("model", MODELS)
def test_each_layer_is_in_the_block_of_its_number(model: str):
    family = of(model)
    for layer in layers_of(model):
        label = family.block_of(layer)
        if not layer.startswith("diffusion_model_"):
            assert is_text_encoder(layer) and label in family.of_encoders, layer
            continue
        numbered = re.match(r"diffusion_model_([a-z_]+?)_(\d+)_", layer)
        if label is None:
            assert model.startswith("sd") and any(map(layer.startswith, SHARED)), layer
        elif numbered and numbered[1] == "joint_blocks":
            half = {"sd35_large": 19}.get(model, 12)
            part, number = divmod(int(numbered[2]), half)
            assert label == f"{('IN', 'OUT')[part]}{number:02d}"
        elif numbered and numbered[1] in ROWS[model]:
            assert label == f"{ROWS[model][numbered[1]]}{int(numbered[2]):02d}"
        else:
            assert label == next(edge for edge, starts in EDGES.items() if layer.startswith(starts)), layer


@pytest.mark.parametrize("model", MODELS)
def test_labels_lead_to_their_layers_and_back(model: str):
    family, layers = of(model), layers_of(model)
    for label in family.labels:
        (found,) = family.find(label.lower())
        assert found == label
        selector = parse_blocks(label, family)
        selected = {layer for layer in layers if selector.selects(family.names_of(layer))}
        assert selected == {layer for layer in layers if family.block_of(layer) == label}
    named = {name for layer in layers for name in family.names_of(layer)}
    assert named <= {*family.labels, *family.encoders}
    with_dots = [layer.replace("_blocks_", "_blocks.").replace("model_", "model.", 1) for layer in layers]
    assert [family.block_of(layer) for layer in with_dots] == [family.block_of(layer) for layer in layers]


@pytest.mark.parametrize("model", ROWS)
def test_a_block_is_found_by_the_name_of_its_module(model: str):
    family = of(model)
    for module, prefix in ROWS[model].items():
        assert family.find(f"{module}.1") == family.find(f"{module.upper()}01") == (f"{prefix}01",)


def test_the_halves_of_joint_blocks_are_found_by_the_name_of_their_module():
    assert of("sd3_medium").find("joint_blocks.13") == ("OUT01",)
    assert of("sd35_large").find("joint_blocks.13") == ("IN13",)


def test_what_only_larger_models_have_is_found_and_told_apart():
    family = of("wan21_t2v_1_3b")
    assert family.find("B35") == family.find("blocks.35") == ("B35",) and not family.has("B35")
    assert of("sd3_medium").find("M") == of("sd3_medium").find("M00") == ("M00",)
    assert family.find("B40") == () and family.has("B29")


@pytest.mark.parametrize("word", ["", "5", ".5", "05", "_3", "B", "IN", "INPUT_BLOCKS", "input_blocks.", "IN0000"])
def test_what_is_no_block_of_sd1_is_not_found(word: str):
    assert SD1.find(word) == (SD1.groups["IN"] if word == "IN" else ())


def test_a_model_is_not_taken_for_one_with_other_text_encoders():
    """SD2.1 unCLIP has as many blocks as SDXL's refiner, and label_emb."""
    unclip = [*layers_of("sd2"), "diffusion_model_label_emb_0_0"]
    assert family_of_layers(unclip).title == "SD1/SD2"


@pytest.mark.parametrize(
    ("model", "word", "labels"),
    [
        ("sd1", "IN", "IN00-IN11"), ("sd1", "M", "M00"), ("sd1", "FIRST", "IN00-IN11"), ("sd1", "MID", "M00"),
        ("sdxl", "OUT", "OUT00-OUT08"), ("sdxl", "LAST", "OUT00-OUT08"),
        ("sd3_medium", "IN", "IN00-IN11"), ("sd3_medium", "FIRST", "IN00-IN07"),
        ("sd3_medium", "MID", "IN08-IN11 OUT00-OUT03"),
        ("flux1_dev", "D", "D00-D18"), ("flux1_dev", "IN", "IN"), ("flux1_dev", "BASE", "CLIP T5"),
        ("flux1_dev", "FIRST", "D00-D18"), ("flux1_dev", "LAST", "S19-S37"), ("flux1_dev", "CLIP_L", "CLIP"),
        ("wan21_t2v_14b", "FIRST", "B00-B12"), ("wan21_t2v_14b", "MID", "B13-B25"), ("zimage", "L", "L00-L29"),
    ],
)  # fmt: skip
def test_groups(model: str, word: str, labels: str):
    assert list(of(model).find(word)) == expanded(labels)


@pytest.mark.parametrize("model", MODELS)
def test_thirds_are_all_blocks_of_a_transformer(model: str):
    family = of(model)
    thirds = [family.groups[name] for name in ("FIRST", "MID", "LAST")]
    assert sum(thirds, ()) == family.blocks
    assert family.architecture.is_unet or max(map(len, thirds)) - min(map(len, thirds)) <= 1


@pytest.mark.parametrize("model", MODELS)
def test_vectors_of_every_length(model: str):
    """A value for each block, with and without the text encoders, and the original's layouts."""
    family = of(model)
    count = len(family.blocks)
    assert {count, count + 1} <= {*family.layouts}
    for length, layout in family.layouts.items():
        assert len(layout) == length
        ratios = draw(parse_vector(",".join(str(i + 1) for i in range(length)), family)).ratios
        given = {label: i + 1 for i, name in enumerate(layout) for label in family.groups.get(name, (name,))}
        fill = 1 if layout != ORIGINAL_LAYOUTS.get(length) or length in (count, count + 1) else 0
        assert ratios == {**dict.fromkeys(family.labels, fill), **given}
    ones = draw(parse_vector(" ".join(["1"] * count), family)).ratios
    assert set(ones.values()) == {1}
    base = draw(parse_vector("\n".join(["0.5"] + ["1"] * count), family)).ratios
    assert {label: ratio for label, ratio in base.items() if ratio != 1} == dict.fromkeys(family.of_encoders, 0.5)


def test_flux_has_vectors_as_comfyui_writes_them():
    assert {57, 58, 61} == {*FLUX.layouts}
    assert FLUX.layouts[57] == tuple(expanded("D00-D18 S00-S37")) and FLUX.layouts[58][0] == "BASE"


def test_the_rows_of_z_image_can_be_counted_without_the_refiners():
    family = of("zimage")
    assert [*family.layouts] == [30, 31, 34, 35]
    weights = draw(parse_vector(",".join(["0"] * 30), family))
    on = [label for label, ratio in weights.ratios.items() if ratio]
    assert on == ["BASE", "IN", "N00", "N01", "C00", "C01", "OUT"]


@pytest.mark.parametrize("length", [12, 17, 20, 26, 61])
def test_the_originals_layouts(length: int):
    labels = ORIGINAL_LAYOUTS[length]
    family = FLUX if length == 61 else SD1
    assert len(labels) == len(set(labels)) == length and set(labels) <= {*family.labels}
    assert usual_layout(length) == family.layouts[length] == labels


def test_a_count_means_what_the_model_says():
    """26 values are a U-Net's, or all blocks of Flux.2 Klein 4B; 25 are SD1's blocks, or SD3's with the encoders."""
    klein = of("flux2_klein_4b")
    assert klein.layouts[26] == ("BASE", *expanded("D00-D04 S00-S19")) != SD1.layouts[26]
    assert SD1.layouts[25][0] == "IN00" and of("sd3_medium").layouts[25][:2] == ("BASE", "IN00")
    assert of("qwen_image").layouts[61][0] == "BASE" and usual_layout(25) == ()


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("sdxl", {"CLIP_L", "CLIP_G"}), ("sd3_medium", {"CLIP_L", "CLIP_G", "T5"}), ("sd2", {"CLIP_H"}),
        ("wan21_t2v_14b", {"T5"}), ("zimage", {"LLM"}), ("lumina2", {"LLM"}), ("qwen_image", {"LLM"}),
        ("anima", {"LLM"}), ("flux1_dev", {"CLIP", "T5"}),
    ],
)  # fmt: skip
def test_each_text_encoder_has_a_name_of_its_own(model: str, names: set[str]):
    encoders = [layer for layer in layers_of(model) if not layer.startswith("diffusion_model")]
    assert {of(model).names_of(layer)[0] for layer in encoders} == names


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("transformer_text_model_encoder_layers_0_mlp_fc1", "CLIP_L"),
        ("0_transformer_text_model_encoder_layers_0_mlp_fc1", "CLIP_L"),
        ("1_model_transformer_resblocks_3_mlp_c_fc", "CLIP_G"),
        ("0_model_transformer_resblocks_3_mlp_c_fc", "CLIP_G"),
        ("model_transformer_resblocks_3_attn", "CLIP_H"),
        ("clip_g_transformer_text_model_encoder_layers_0_mlp_fc1", "CLIP_G"),
    ],
)
def test_text_encoders_as_automatic1111_names_them(layer: str, name: str):
    assert SDXL.names_of(layer) == (name, "BASE") and name in ENCODERS


def test_one_text_encoder_can_be_weighed_alone():
    layers = layers_of("sdxl")
    library = Library({}, {"RULE": "CLIP_G:mlp:0.25"})

    def ratios(**fields: str) -> dict[str, set[float]]:
        request = LoraRequest("a", **fields)  # type: ignore[arg-type]
        plan = build([request], {"a": layers}, library, print, model_layers=layers)
        found: dict[str, set[float]] = {}
        for layer, terms in plan.terms.items():
            name, *_ = *plan.family.names_of(layer), ""
            found.setdefault(name, set()).add(terms[0].ratio)
        return found

    assert ratios(weights="NONE,CLIP_G=0.5")["CLIP_G"] == {0.5} and ratios(weights="NONE,CLIP_G=0.5")["CLIP_L"] == {0}
    assert ratios(weights="CLIP_G=0.5,BASE=0.1")["CLIP_G"] == {0.1}, "the later one counts"
    both = ratios(weights="0.3,NOT CLIP_L=0.7")
    assert (both["CLIP_L"], both["CLIP_G"], both["IN04"]) == ({0.3}, {0.7}, {0.7})
    assert ratios(elements="RULE")["CLIP_G"] == {1, 0.25} and ratios(elements="RULE")["CLIP_L"] == {1}


@pytest.mark.parametrize(
    ("model", "labels", "module"),
    [
        ("wan21_t2v_14b", "BASE NEW_BLOCKS00-NEW_BLOCKS39", "new_blocks"),
        ("flux1_dev", "BASE NEW_DOUBLE_BLOCKS00-NEW_DOUBLE_BLOCKS18 NEW_SINGLE_BLOCKS00-NEW_SINGLE_BLOCKS37",
         "new_single_blocks"),
        ("qwen_image", "BASE NEW_TRANSFORMER_BLOCKS00-NEW_TRANSFORMER_BLOCKS59", "new_transformer_blocks"),
    ],
)
def test_a_model_that_no_entry_knows_has_blocks_by_its_layers(model: str, labels: str, module: str):
    layers = [
        re.sub("diffusion_model_(double_|single_|transformer_)?blocks", r"diffusion_model_new_\1blocks", layer)
        for layer in layers_of(model)
    ]
    family = family_of_layers(layers)
    assert family.title == "unknown" and list(family.labels) == [
        f"{name}{number:02d}" if last else name
        for name, last in ((word.partition("00")[0], word[-2:] if "-" in word else "") for word in labels.split())
        for number in range(int(last or 0) + 1)
    ]
    assert family_of_layers(layers) is family
    assert {family.block_of(layer) for layer in layers} == {*family.labels, None}
    assert family.find(f"{module}.7") == family.find(f"{module.upper()}7") == (f"{module.upper()}07",)
    count = len(family.blocks)
    assert [*family.layouts] == [count, count + 1]
    assert sum((family.groups[third] for third in ("FIRST", "MID", "LAST")), ()) == family.blocks


def test_a_row_of_an_unknown_model_has_equal_parts():
    layers = [f"diffusion_model_blocks_{i}_attn_q" for i in range(3)]
    layers += ["diffusion_model_embed_0", "diffusion_model_embed_2", "diffusion_model_head_1_proj"]
    assert family_of_layers(layers).blocks == ("BLOCKS00", "BLOCKS01", "BLOCKS02")


def test_without_layers_it_is_sd1():
    assert family_of_layers([]) is SD1
    assert family_of_layers(["transformer_text_model_encoder_layers_0_mlp_fc1"]) is SD1


def test_no_label_is_another_names_and_all_can_stand_in_a_tag():
    for family in KNOWN:
        names = [*family.labels, *family.groups]
        assert len(names) == len(set(names)) and all(re.fullmatch(r"[A-Z_]+\d*", name) for name in names), family.title
        assert not {"R", "U", "X", "NOT", "ALL", "NONE"} & {*names}


def test_the_text_encoders_multiplier_is_for_text_encoders():
    assert is_text_encoder("gemma2_model_layers_0_self_attn_q_proj")
    assert not is_text_encoder("1_model_ln_final") and not is_text_encoder("model_ln_final"), "as the host has it"
    assert is_text_encoder("qwen25_7b_transformer_model_layers_0_mlp_up_proj")
    assert is_text_encoder("transformer_text_model_encoder_layers_0_mlp_fc1")
    assert is_text_encoder("1_model_transformer_resblocks_3_mlp_c_fc")
    assert not is_text_encoder("diffusion_model_input_blocks_4_1_transformer_blocks_0_attn1_to_q")


def test_a_model_with_another_text_encoder_keeps_its_family():
    layers = [layer for layer in layers_of("sd1") if layer.startswith("diffusion_model")]
    assert family_of_layers([*layers, "roberta_encoder_layer_0_attention_self_query"]).title == "SD1/SD2"
    assert family_of_layers([*layers_of("sdxl"), "chatglm_layers_0_mlp"]).title == "SDXL"


def test_rows_whose_names_have_numbers_are_kept_apart():
    layers = [f"diffusion_model.{name}.{i}.attn.q" for name in ("block1", "block", "down2x.blocks") for i in range(12)]
    family = family_of_layers(layers)
    assert family.blocks[0] == "BLOCK1_00" and len({*family.blocks}) == 36
    assert family.find("block1.3") == family.find("BLOCK1_03") == ("BLOCK1_03",)
    assert family.find("down2x_blocks.2") == family.find("DOWN2X_BLOCKS2") == ("DOWN2X_BLOCKS02",)
    assert {family.block_of(layer) for layer in layers} == {*family.blocks}
    assert family_of_layers(["diffusion_model_blocks_0_a", "diffusion_model_blocks_3000000_a"]) is SD1
