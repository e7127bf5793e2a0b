"""What is said of a LoRA's file: in the status line, and where nothing of it is in force."""

from __future__ import annotations

import pytest

from lbw.engine.updates import Update
from lbw.files.origin import Origin
from lbw.generation.fits import Fit, explanation, model_name
from lbw.generation.summary import summarise
from lbw.plan.plan import Pass, build
from lbw.tags.families import FLUX, KNOWN, SD1, SDXL, Family, family_of_layers
from lbw.tags.library import Library
from lbw.tags.prompt import parse
from tests.unit.model_layers import layers_of

FLUX_LORA = Origin("Flux", "kohya's", 304, 72, "lora_unet_double_blocks_0_img_attn_qkv")
SD2_LORA = Origin("SD2", "kohya's", 192, 0, "lora_unet_a")
SD1_LORA = Origin("SD1", "diffusers' old", 192, 72, "unet.a")
UNKNOWN = Origin(None, None, 5, 0, "what.is.it")


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        (Fit(304, 72, FLUX_LORA), ""),
        (Fit(304, 0, FLUX_LORA), "0 of 72 text encoder parts fit"),
        (Fit(12, 72, FLUX_LORA), "12 of 304 U-Net parts fit"),
        (Fit(12, 5, FLUX_LORA), "12 of 304 U-Net and 5 of 72 text encoder parts fit"),
        (Fit(0, 0, FLUX_LORA), "no effect: 0 of 376 parts fit"),
        (Fit(0, 0, None), "no effect: no part fits"),
        (Fit(3, 0, None), ""),
        (Fit(400, 72, FLUX_LORA), ""),
        (Fit(0, 0, Origin(None, None, 0, 0, "")), "no effect: 0 of 0 parts fit"),
        (Fit(0, 0, Origin(None, None, 0, 0, "", has_words=True)), "no parts of a LoRA, but words for the prompt"),
        (Fit(0, 0, Origin("Flux", None, 3, 0, "a", has_words=True)), "no effect: 0 of 3 parts fit"),
    ],
)
def test_how_much_is_in_force_is_told_where_it_is_not_all(fit: Fit, words: str):
    assert fit.words == words


def test_sd1_and_sd2_are_told_apart_by_their_text_encoders():
    assert [model_name(family) for family in (SD1, SDXL, FLUX)] == ["SD1", "SDXL", "Flux"]
    unet = layers_of("sd1")
    assert model_name(family_of_layers((*unet, "model_transformer_resblocks_0_attn"))) == "SD2"
    assert model_name(family_of_layers((*unet, "transformer_text_model_encoder_layers_0_mlp_fc1"))) == "SD1"
    assert model_name(next(family for family in KNOWN if family.title == "Z-Image")) == "Z-Image"


@pytest.mark.parametrize(
    ("origin", "family", "reason", "words"),
    [
        (FLUX_LORA, SD1, "", ("0 of 376 parts are for this SD1 model", "made for Flux (kohya's names", "load such")),
        (SD2_LORA, SD1, "a: the shape is 4x4", ("first a: the shape is 4x4", "no effect", "made for SD2", "load such")),
        (SD1_LORA, SD1, "", ("made for SD1", "diffusers' old names", "convert it to kohya's")),
        (SD1_LORA, SD1, "a: its alpha is 0", ("0 of 264 parts can be used", "a: its alpha is 0; it has no effect")),
        (SD1_LORA, SDXL, "", ("this SDXL model", "made for SD1", "load such a model")),
        (UNKNOWN, SDXL, "", ("0 of 5 parts", "unknown names, such as what.is.it", "do not tell its model")),
        (Origin(None, None, 0, 0, ""), SDXL, "", ("no parts of a LoRA",)),
        (None, SDXL, "", ("none of its parts are for this SDXL model", "see which model")),
        (None, SDXL, "a: no", ("none of its parts can be used with this SDXL model, first a: no",)),
    ],
)
def test_why_a_file_has_no_effect_is_told_in_one_line(
    origin: Origin | None, family: Family, reason: str, words: tuple[str, ...]
):
    told = explanation(Fit(0, 0, origin), family, reason)
    assert all(word in told for word in words), told
    assert "\n" not in told and ("load such" in told) == ("load such" in "".join(words))


def test_models_of_one_architecture_are_one():
    wan = [family for family in KNOWN if family.architecture.title == "Wan"]
    assert len(wan) == 2
    for family in wan:
        told = explanation(Fit(0, 0, Origin("Wan", "kohya's", 4, 0, "a")), family, "a: the shape is 4x4")
        assert "load such" not in told


LAYERS = ("diffusion_model_input_blocks_5_1_transformer_blocks_0_attn1_to_q",)


def line_of(*tags: str, fits: dict[str, Fit], lost: dict[str, str]) -> str:
    requests = [parse(tag.split(":"), lambda message: None) for tag in tags]
    plan = build(requests, {request.name: LAYERS for request in requests}, Library({}, {}), lambda message: None,
                 model_layers=LAYERS)  # fmt: skip
    return summarise([Pass(plan, 20)], [Update(3, 0.004)], "in RAM", fits, lost)


def test_the_status_line_claims_nothing_of_a_lora_without_effect():
    fits = {"a": Fit(0, 0, FLUX_LORA), "b": Fit(12, 72, FLUX_LORA), "c": Fit(304, 72, FLUX_LORA)}
    line = line_of("a:1:stop=5", "b:1:stop=5", "c:1", fits=fits, lost={"d": "not found"})
    assert line.startswith("a: no effect: 0 of 376 parts fit; b: steps 0-4 of 20, 12 of 304 U-Net parts fit; "
                           "c: all blocks; d: not found | 1 switch")  # fmt: skip


def test_of_what_the_host_does_alone_only_what_has_no_effect_is_told():
    fits = {"a": Fit(0, 0, None), "b": Fit(12, 72, FLUX_LORA)}
    assert line_of("a:1", "b:1", fits=fits, lost={}) == "a: no effect: no part fits | base weights in RAM"
    assert line_of("b:1", fits=fits | {"a": fits["b"]}, lost={}) == ""
    assert line_of("b:1", fits={}, lost={"d": "not found"}) == "d: not found | base weights in RAM"


def test_what_is_loaded_in_name_only_is_no_lora_with_blocks():
    line = line_of("a:1:stop=5", "b:1:stop=5", fits={}, lost={"a": "it is left out"})
    assert line.startswith("b: steps 0-4 of 20; a: it is left out | ")
