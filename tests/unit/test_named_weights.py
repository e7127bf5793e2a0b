from __future__ import annotations

import pytest

from lbw.plan.plan import build
from lbw.tags.families import FLUX, SD1, Family, family_of_layers
from lbw.tags.library import Library
from lbw.tags.presets import ORIGINAL_PRESETS, parse_presets, with_preset
from lbw.tags.prompt import LoraRequest, parse
from tests.unit.model_layers import layers_of

PRESETS = ORIGINAL_PRESETS + "MYFACE:NONE,OUT03-OUT06=1\nMORE:MYFACE,M00=0.5\nLOOP:LOOP,M00=1\nFLUXY:D00-D03=0.5\n"
LIBRARY = Library.read(PRESETS, "", "")


def values(text: str, family: Family = SD1) -> dict[str, str]:
    """{label: value} of the blocks that are not at 0."""
    vector = LIBRARY.vector(text, family)
    assert vector.notes == ()
    return {label: value for label, value in vector.complete().values.items() if value != "0"}


def at(value: str, *labels: str) -> dict[str, str]:
    return dict.fromkeys(labels, value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("NONE,OUT03-OUT06=1,M00=0.5", at("0.5", "M00") | at("1", "OUT03", "OUT04", "OUT05", "OUT06")),
        ("NONE,OUT06-OUT05=1", at("1", "OUT05", "OUT06")),
        ("NONE,IN04 in05 out3=R", at("R", "IN04", "IN05", "OUT03")),
        ("ALL,NOT BASE=0", at("1", "BASE")),
        ("NOT IN OUT=0", at("1", *(f"{part}{i:02d}" for part in ("IN", "OUT") for i in range(12)))),
        ("IN=0,M=0,OUT=0,BASE=X-0.5", at("X-0.5", "BASE")),
        ("FIRST=0,MID=1,LAST=0,BASE=0", at("1", "M00")),
        ("NONE,IN11-OUT00=1", at("1", "IN11", "M00", "OUT00")),
        ("0.5,NOT M=0", at("0.5", "M00")),
        ("NONE,OUT=1,OUT00-OUT10=0", at("1", "OUT11")),
        ("0.25", at("0.25", *SD1.labels)),
        ("R", at("R", *SD1.labels)),
        ("MYFACE", at("1", "OUT03", "OUT04", "OUT05", "OUT06")),
        ("MORE", at("0.5", "M00") | at("1", "OUT03", "OUT04", "OUT05", "OUT06")),
        ("OUTD,BASE=0", at("1", "OUT03", "OUT04", "OUT05", "OUT06")),
    ],
)
def test_blocks_by_name(text: str, wanted: dict[str, str]):
    found = values(text)
    assert found == {label: found[label] for label in SD1.labels if label in wanted} == wanted


def test_blocks_of_flux_by_name():
    assert values("NONE,D00-D02=1,S=0.5", FLUX) == at("1", "D00", "D01", "D02") | at(
        "0.5", *(f"S{i:02d}" for i in range(38))
    )
    assert set(values("NONE,BASE=1", FLUX)) == {"CLIP", "T5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NONE,OUT12=1", "'OUT12' is not a block of this SD1/SD2 model; expected BASE, IN00-IN11, M00"),
        ("NONE,D00=1", "'D00' is not a block"),
        ("NONE,OUT03=x", "'x' is not a value"),
        ("NONE,OUT03,M=1", "'OUT03' is not blocks=value"),
        ("NONE,=1", "'=1' is not blocks=value"),
        ("NOPE,OUT03=1", "NOPE: no preset of this name"),
        ("LOOP", "a preset that begins with itself"),
        ("FLUXALL,OUT03=1", "FLUXALL: 61 values, which are for Chroma or Flux"),
        ("FLUXY", "'D00' is not a block of this SD1/SD2 model"),
    ],
)
def test_what_cannot_be_used_is_told(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        LIBRARY.vector(text, SD1)


LAYERS = ["transformer_text_model_encoder_layers_0_mlp_fc1", "diffusion_model_middle_block_1_proj_in"]
LAYERS += [f"diffusion_model_{part}_blocks_{i}_1_proj_in" for part in ("input", "output") for i in range(12)]


def ratios(weights: str) -> dict[str, float]:
    warnings: list[str] = []
    requests = [LoraRequest("a", weights=weights)]
    plan = build(requests, {"a": LAYERS}, LIBRARY, warnings.append, model_layers=LAYERS, seed=3)
    assert warnings == []
    return {layer: terms[0].ratio for layer, terms in plan.terms.items()}


@pytest.mark.parametrize("text", ["NONE,OUT03-OUT06=1,M00=0.5", "IN=R,OUT=U", "0.5", "MORE", "ALL,BASE=X"])
def test_a_named_form_and_its_vector_give_equal_plans(text: str):
    assert ratios(text) == ratios(LIBRARY.vector(text, SD1).text)


def test_named_forms_are_keyframes_of_a_curve():
    warnings: list[str] = []
    request = LoraRequest("a", weights="NONE@0,OUT03-OUT06=1,M=0.5@0.5,MYFACE@1")
    plan = build([request], {"a": LAYERS}, LIBRARY, warnings.append, model_layers=LAYERS)
    assert warnings == []
    assert [each.ratios["M00"] for each in plan.weights[0]] == [0, 0.5, 0]
    assert [each.ratios["OUT03"] for each in plan.weights[0]] == [0, 1, 1]


@pytest.mark.parametrize(
    ("tag", "weights", "label"),
    [
        ("a:1:lbw=NONE,OUT03-OUT06=1,M00=0.5", "NONE,OUT03-OUT06=1,M00=0.5", "lbw="),
        ("a:1:w=OUT=0", "OUT=0", "w="),
        ("a:1:NONE,OUT03-OUT06=1", "NONE,OUT03-OUT06=1", ""),
        ("a:1:OUT03-OUT06=0:stop=3", "OUT03-OUT06=0", ""),
        ("a:1:IN=0", "IN=0", ""),
        ("a:1:in=0:mid=1:out=0.5", "FIRST=0,MID=1,LAST=0.5", ""),
        ("a:0.5:lbw=0.5", "0.5", "lbw="),
    ],
)
def test_the_forms_in_a_tag(tag: str, weights: str, label: str):
    warnings: list[str] = []
    request = parse(tag.split(":"), warnings.append)
    assert (request.weights, request.weights_label, warnings) == (weights, label, [])


def test_of_two_forms_in_a_tag_one_is_used_and_told():
    warnings: list[str] = []
    assert parse(["a", "1", "lbw=OUTD", "in=0"], warnings.append).weights == "OUTD"
    assert warnings == ["<lora:a>: in=, mid=, out=: the tag also has lbw=OUTD, which is used"]


def test_a_preset_may_have_blocks_by_name_and_what_is_none_stays_a_comment():
    text = "A:NONE,OUT03=1\nhttp://x/?a=b\nsee:this=that\nB:NONE,OUTX=1\nC:NONE#,OUT03=1\nratio: width=2\nD: ?page=2\n"
    presets, problems = parse_presets(text)
    assert presets == {"A": ("NONE,OUT03=1",), "B": ("NONE,OUTX=1",)}
    assert [(each.line, each.reason.partition(";")[0]) for each in problems] == [
        (4, "B: 'OUTX' is not a block of any known model")
    ]
    assert with_preset("A:NONE,OUT03=1\n", "A", "IN=0") == "A:IN=0\n"
    with pytest.raises(ValueError, match="OUTX"):
        with_preset("", "A", "OUTX=0")


def test_the_presets_that_a_named_form_begins_with_are_named_too():
    assert LIBRARY.names("MORE@0,OUTD,M00=1@1") == ["MORE", "MYFACE", "OUTD"]
    assert LIBRARY.names("LOOP") == ["LOOP"]
    assert LIBRARY.names("IN=R") == LIBRARY.names("0.5") == []


def test_all_and_none_need_no_preset():
    library = Library.read("ALL:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0", "", "")
    assert set(library.vector("NONE", FLUX).values.values()) == {"0"}
    assert library.vector("ALL", SD1).text.endswith(",0"), "a preset of this name counts"
    assert set(library.vector("ALL", FLUX).values.values()) == {"1"}, "unless it is for other models"
    assert library.vector("ALL,M=0", SD1).text.count("0") == 1, "which it does not with blocks by name"


def test_every_vector_of_the_original_is_as_it_stands():
    for name, (text, *_) in parse_presets(ORIGINAL_PRESETS)[0].items():
        assert LIBRARY.vector(name, FLUX if name == "FLUXALL" else SD1).text == text


@pytest.mark.parametrize(
    ("model", "text", "note"),
    [
        ("sdxl", "NONE,OUT05 OUT09-OUT11=1", "OUT09-OUT11 is left out, which this SDXL model does not have"),
        ("sd3_medium", "NONE,OUT03=1,M00=0.5", "M00 is left out, which this SD3 model does not have"),
        ("sdxl", "ALL,T5=0", "T5 is left out, which this SDXL model does not have"),
        ("wan21_t2v_1_3b", "NONE,B35=1", "B35 is left out, which this Wan 1.3B/5B model does not have"),
    ],
)
def test_blocks_that_only_larger_models_have_are_left_out_and_told(model: str, text: str, note: str):
    layers = layers_of(model)
    assert LIBRARY.vector(text, family_of_layers(layers)).notes == (note,)
    warnings: list[str] = []
    build([LoraRequest("a", weights=text)], {"a": layers}, LIBRARY, warnings.append, model_layers=layers)
    assert warnings == [f"<lora:a>: lbw={text}: {note}"]


def test_a_range_ends_where_the_model_does():
    wan = family_of_layers(layers_of("wan21_t2v_1_3b"))
    assert LIBRARY.vector("NONE,B20-B39=1", wan).complete().values["B29"] == "1"
    assert LIBRARY.vector("NONE,B20-B39=1", wan).notes == ()


def test_blocks_of_a_model_that_no_entry_knows_may_stand_in_a_preset():
    layers = [f"diffusion_model_stages_{i}_attn_q" for i in range(3)]
    presets, problems = parse_presets("MINE:NONE,STAGES02=1\nTYPED:1,0,1\n")
    assert [problem.line for problem in problems] == [1, 2], "that it is for no published model is told"
    library = Library(presets, {})
    family = family_of_layers(layers)
    assert library.vector("MINE", family).complete().values["STAGES02"] == "1"
    assert library.vector("TYPED", family).text == "1,0,1"
