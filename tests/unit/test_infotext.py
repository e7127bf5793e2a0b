from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import lbw
from lbw.plan.plan import Pass, Plan, build
from lbw.request import infotext
from lbw.tags.library import Drawn, Library
from lbw.tags.prompt import parse

LAYERS = ("transformer_text_model_encoder_layers_0_mlp_fc1", "diffusion_model_output_blocks_3_1_proj_in")
OUTD = "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
RANDOM = "1," + ",".join(["R", "U"] * 8)
PRESETS = {"OUTD": (OUTD,), "RND": (RANDOM,), "BAD": (OUTD[:-1] + "x",)}
LIBRARY = Library(PRESETS, {"ATTN": "IN05:attn:0,\nOUT05:attn:0"})
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=":>"), min_size=1, max_size=12)


def made(*tags: list[str], library: Library = LIBRARY, seed: int = 1) -> Plan:
    requests = [parse(tag, lambda message: None) for tag in tags]
    layers = {request.name: LAYERS for request in requests}
    return build(requests, layers, library, lambda message: None, model_layers=LAYERS, seed=seed)


def described(*tags: list[str], library: Library = LIBRARY) -> dict[str, str]:
    return infotext.describe([Pass(made(*tags, library=library), 20)], library)


def test_the_version_is_the_projects():
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert f'version = "{lbw.__version__}"' in project.read_text()


def test_what_the_host_does_alone_is_not_mentioned():
    assert described(["a", "0.7"], ["b"]) == {}


def test_what_stands_in_the_prompt_is_not_repeated():
    assert described(["a", "1", f"lbw={OUTD}", "stop=5"]) == {"LBW version": lbw.__version__}


def test_names_come_with_what_they_mean():
    assert described(["a", "1", "lbw=OUTD", "lbwe=ATTN"], ["b", "OUTD"]) == {
        "LBW presets": f"OUTD:{OUTD}",
        "LBW rule sets": "ATTN:IN05:attn:0,\nOUT05:attn:0",
        "LBW version": lbw.__version__,
    }


def test_a_name_that_means_nothing_usable_is_left_out():
    assert described(["a", "1", "lbw=BAD", "lbwe=NOPE"]) == {"LBW version": lbw.__version__}


def test_a_share_of_the_steps_is_told_in_steps():
    assert described(["a", "1", "stop=0.5"], ["b", "step=10%-50%"], ["c", "start=3"])["LBW steps"] == (
        "a: 0-9 of 20; b: 2-9 of 20"
    )


def test_a_noise_level_is_told_in_steps_with_the_levels_of_all_steps():
    sigmas = (14.0, 7.0, 3.0, 0.5)
    texts = infotext.describe([Pass(made(["a", "1", "stop=2.5sigma"]), 4, sigmas)], LIBRARY)
    assert texts["LBW steps"] == "a: 0-2 of 4"
    assert texts["LBW sigmas"] == "14 7 3 0.5"


def test_strengths_of_curves_are_told_for_each_pass():
    first, hires = ["a", "0@0,1@3,1@5"], ["a", "0.5"]
    texts = infotext.describe([Pass(made(first), 6), Pass(made(hires), 3)], LIBRARY)
    assert texts["LBW strengths"] == "a: te 0, unet 0 0.3333 0.6667 1x3"
    assert "LBW sigmas" not in texts


def test_keyframes_of_blocks_come_with_what_they_mean():
    tag = ["a", "lbw=RND@0,OUTD@0.5;RND@1"]
    texts = described(tag)
    assert texts["LBW presets"] == f"OUTD:{OUTD}\nRND:{RANDOM}"
    drawn = texts["LBW values"].split("\n")
    assert len(drawn) == 2
    assert drawn[0] != drawn[1]
    library = Library(LIBRARY.presets, {}, "OUTD@0,ALL@1")
    assert described(["a"], library=library)["LBW default preset"] == "OUTD@0,ALL@1"


def test_drawn_values_of_keyframes_come_back_in_their_order():
    tag = ["a", "lbw=RND@0;RND@1"]
    plan = made(tag)
    texts = infotext.describe([Pass(plan, 20)], LIBRARY)
    library = infotext.recall(infotext.pasted({**texts, "Seed": "1"}), LIBRARY)
    assert [[round(value, 3) for value in each.values] for each in made(tag, library=library).weights[0]] == [
        [round(value, 3) for value in each.values] for each in plan.weights[0]
    ]
    assert library.drawn is not None


def test_the_default_preset_is_told_where_it_was_used():
    library = Library(LIBRARY.presets, {}, "OUTD")
    assert described(["a"], library=library)["LBW default preset"] == f"OUTD:{OUTD}"
    assert infotext.DEFAULT_PRESET not in described(["a", "lbw=ALL"], library=library)


def recalled(texts: dict[str, str], library: Library, **parameters: str) -> Library:
    return infotext.recall(infotext.pasted({**texts, **parameters}), library)


def test_random_values_of_an_image_come_back_for_its_seed_alone():
    tag = ["a", "1", "lbw=RND"]
    texts = described(tag)
    elsewhere = recalled(texts, Library({}, {}), Seed="7")
    assert made(tag, library=elsewhere, seed=7).weights == made(tag, seed=1).weights
    assert made(tag, library=elsewhere, seed=8).weights != made(tag, seed=1).weights


def test_random_values_go_to_the_vector_that_they_were_drawn_for():
    first, second = ["a", "1", f"lbw={RANDOM}", "x=2"], ["a", "1", "lbw=" + RANDOM.replace("R", "X-0.5", 1), "x=2"]
    texts = described(first, second)
    assert texts["LBW values"].count("\n") == 1
    library = recalled(texts, Library({}, {}), Seed="7")
    assert made(second, first, library=library, seed=7).weights == made(second, first, seed=1).weights


def test_a_network_that_the_host_renames_keeps_its_values():
    parameters = {"Prompt": "x <lora:new:1>", "LBW values": "old:1,0.5", "Seed": "1"}
    infotext.follow_renames("x <lora:old:1>\nSteps: 1, LBW values: \"old:1,0.5\"", parameters)
    assert parameters["LBW values"] == "new:1,0.5"


def test_presets_of_an_infotext_go_before_those_of_the_same_name():
    here = Library({"OUTD": (RANDOM,), "MINE": (OUTD,)}, {"ATTN": "::0"})
    library = recalled(described(["a", "lbw=OUTD", "lbwe=ATTN"]), here)
    assert library.presets == {"OUTD": (OUTD,), "MINE": (OUTD,)}
    assert library.rule_sets["ATTN"] == LIBRARY.rule_sets["ATTN"].strip()


@pytest.mark.parametrize("text", ["x", "[]", "5", '{"presets": 1}', '{"values": "a:1", "seed": "x"}', "[" * 9999])
def test_what_is_no_pasted_infotext_is_refused(text: str):
    with pytest.raises(ValueError, match="is left out"):
        infotext.recall(text, LIBRARY)


def quoted_as_the_host_does(text: str) -> str:
    """The host writes a value as JSON if it has a comma, a colon or a line end, and reads back what looks like JSON."""
    assert any(mark in text for mark in ",:\n")
    return json.loads(json.dumps(text, ensure_ascii=False))


@given(NAMES, NAMES.map(str.strip).filter(lambda name: name and "#" not in name and len(name.splitlines()) == 1))
def test_any_name_survives(network: str, preset: str):
    library = Library({preset: (RANDOM,)}, {}, preset)
    plan = build([parse([network], print)], {network: LAYERS}, library, print, model_layers=LAYERS, seed=3)
    texts = infotext.describe([Pass(plan, 20)], library)
    read = {key: quoted_as_the_host_does(text) if key != infotext.VERSION else text for key, text in texts.items()}
    assert infotext.pasted_default_preset(read) == preset
    again = infotext.recall(infotext.pasted({**read, "Seed": "3"}), Library({}, {}, preset))
    assert again.presets == {preset: (RANDOM,)}
    assert again.drawn is not None
    assert list(again.drawn.vectors) == [network]
    assert build([parse([network], print)], {network: LAYERS}, again, print, seed=3).weights == plan.weights


@example({infotext.VALUES: '"'})
@given(st.dictionaries(st.sampled_from(
    [infotext.PRESETS, infotext.RULE_SETS, infotext.VALUES, infotext.DEFAULT_PRESET, "Seed", "Prompt"]
), st.text(max_size=30)))
def test_no_infotext_can_raise_anything_but_the_one_error(parameters: dict[str, str]):
    try:
        infotext.follow_renames(parameters.get("Prompt", ""), parameters)
        infotext.recall(infotext.pasted(parameters), LIBRARY)
    except ValueError as error:
        assert "left out" in str(error)


def test_drawn_values_that_are_none_are_drawn_anew():
    for drawn in ("abc" + ",1" * 16, ",".join("R" for _ in range(17)), "1e9" + ",1" * 16):
        library = replace(Library({}, {}), drawn=Drawn(3, {"a": (drawn,)}))
        said: list[str] = []
        vector = ",".join(["R"] * 17)
        plan = build([parse(["a", f"lbw={vector}"], print)], {"a": LAYERS}, library, said.append, seed=3)
        assert said == [] and 0 <= plan.weights[0][0].values[0] <= 1


def test_rules_for_a_model_that_no_entry_knows_are_written():
    layers = [f"diffusion_model_stages_{i}_{part}" for i in range(3) for part in ("mlp", "attn_q")]
    library = Library({}, {"OWN": "STAGES01:mlp:0"})
    plan = build([parse(["a", "lbwe=OWN"], print)], {"a": layers}, library, print, model_layers=layers)
    assert infotext.describe([Pass(plan, 4)], library)[infotext.RULE_SETS] == "OWN:STAGES01:mlp:0"


def test_presets_that_begin_the_default_preset_are_written_too():
    library = Library({"B1": ("NONE,OUT=1",), "B2": ("B1,BASE=0.5",)}, {}, "B2")
    plan = build([parse(["a"], print)], {"a": LAYERS}, library, print, model_layers=LAYERS)
    texts = infotext.describe([Pass(plan, 4)], library)
    again = infotext.recall(infotext.pasted(texts), Library({}, {}, "B2"))
    assert build([parse(["a"], print)], {"a": LAYERS}, again, pytest.fail, model_layers=LAYERS).terms == plan.terms


def test_of_a_presets_lines_the_one_that_counted_is_written():
    library = Library({"A": (",".join(["1"] * 12), OUTD, "NONE,D00=1")}, {})
    plan = build([parse(["a", "lbw=A"], print)], {"a": LAYERS}, library, print, model_layers=LAYERS)
    assert infotext.describe([Pass(plan, 4)], library)[infotext.PRESETS] == f"A:{OUTD}"


def test_what_is_said_of_the_hires_pass_is_marked():
    tags = [["a", "1", "stop=0.5"], ["b", "0@0,1@1"]]
    passes = [Pass(made(*tags), 4), Pass(made(*tags), 4, is_hires=True)]
    texts = infotext.describe(passes, LIBRARY)
    assert texts["LBW steps"] == "a: 0-1 of 4; a: hires 0-1 of 4"
    first, hires = texts["LBW strengths"].split("; ")
    assert first.startswith("b: te 0, unet 0 ") and hires == first.replace("b: ", "b: hires ")
    noise = made(["a", "1", "stop=2.5sigma"])
    passes = [Pass(noise, 2, (9.0, 1.0)), Pass(noise, 2, (4.0, 1.0), is_hires=True)]
    assert infotext.describe(passes, LIBRARY)["LBW sigmas"] == "9 1, hires 4 1"


FIRST, HIRES = ["a", "1", "lbw=0.5," + ",".join(["R"] * 16)], ["a", "1", "lbw=" + ",".join(["R"] * 17)]
"""Tags of two passes; the values of each would fit the other."""


@pytest.mark.parametrize("name", ["a", 'say "hi"', "hires", "new\nline"])
def test_values_of_the_hires_pass_come_back_to_it(name: str):
    tags = [[name, *tag[1:]] for tag in (FIRST, HIRES)]
    plans = [made(tag) for tag in tags]
    passes = [Pass(plan, 4, is_hires=plan is plans[1]) for plan in plans]
    library = recalled(infotext.describe(passes, LIBRARY), Library({}, {}), Seed="7")
    for is_hires, (tag, plan) in enumerate(zip(tags, plans, strict=True)):
        assert made(tag, library=library.in_pass(bool(is_hires)), seed=7).weights == plan.weights


def test_values_that_only_the_hires_pass_has_are_its_own():
    plan = made(HIRES)
    library = recalled(infotext.describe([Pass(plan, 4, is_hires=True)], LIBRARY), Library({}, {}), Seed="7")
    assert made(HIRES, library=library.in_pass(True), seed=7).weights == plan.weights
    assert made(HIRES, library=library.in_pass(False), seed=7).weights != plan.weights


def test_values_that_both_passes_have_are_written_once():
    plan = made(FIRST)
    assert infotext.describe([Pass(plan, 4), Pass(plan, 4, is_hires=True)], LIBRARY)["LBW values"].count("\n") == 0


def test_values_as_earlier_versions_wrote_them_are_of_both_passes():
    first, hires = made(FIRST), made(HIRES, seed=2)
    lines = [f"a:{','.join(f'{value:g}' for value in plan.weights[0][0].values)}" for plan in (first, hires)]
    library = recalled({"LBW values": lines[0]}, Library({}, {}), Seed="7")
    for is_hires in (False, True):
        assert made(FIRST, library=library.in_pass(is_hires), seed=7).weights == first.weights
    library = recalled({"LBW values": lines[1]}, Library({}, {}), Seed="7")
    assert made(HIRES, library=library.in_pass(True), seed=7).weights == hires.weights


def test_a_network_that_the_host_renames_keeps_its_values_of_the_hires_pass():
    parameters = {"Prompt": "x <lora:new:1>", "LBW values": "old:1,0.5\nold:hires:1,0.7", "Seed": "1"}
    infotext.follow_renames('x <lora:old:1>\nSteps: 1', parameters)
    assert parameters["LBW values"] == "new:1,0.5\nnew:hires:1,0.7"
