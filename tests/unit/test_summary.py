from __future__ import annotations

import pytest

from lbw.engine.updates import Update
from lbw.generation.summary import changes, summarise
from lbw.plan.hits import find_hits, summaries
from lbw.plan.plan import Pass, build
from lbw.tags.elements import parse_rules
from lbw.tags.families import FLUX, SD1, label_ranges
from lbw.tags.library import Library
from lbw.tags.prompt import parse
from lbw.tags.weights import blocks_on

LAYERS = (
    "diffusion_model_input_blocks_5_1_transformer_blocks_0_attn1_to_q",
    "diffusion_model_output_blocks_5_1_transformer_blocks_0_attn2_to_v",
    "diffusion_model_output_blocks_5_1_transformer_blocks_0_ff_net_2",
    "transformer_text_model_encoder_layers_0_mlp_fc1",
)
LIBRARY = Library({"OUTD": ("1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",)}, {"R": "IN05-OUT05:attn:0,OUT05:attn2:0.5"})


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ("1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0", "BASE OUT03-OUT06"),
        (",".join(["1"] * 17), "all 17 blocks"),
        (",".join(["0.0"] * 17), "no block"),
        ("0,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0", "IN01-IN02 IN04"),
        ("0,0,0,0,R,X,0,0,0,0,0,0,0,0,0,0,0", "IN05 IN07"),
        ("1,1,1," + ",".join(["0"] * 58), "CLIP T5 IN"),
    ],
)
def test_a_vector_is_told_by_the_blocks_that_it_turns_on(vector: str, words: str):
    assert blocks_on(vector) == words


def test_neighbours_of_one_kind_are_joined():
    assert label_ranges(SD1.labels, SD1.labels) == ["BASE", "IN00-IN11", "M00", "OUT00-OUT11"]
    assert label_ranges(FLUX.labels, FLUX.labels) == ["CLIP", "T5", "IN", "D00-D18", "S00-S37", "OUT"]


def test_a_layer_counts_for_the_last_rule_that_hits_it():
    first, second = find_hits(parse_rules("IN05-OUT05:attn:0,OUT05:attn2:0.5,M00::1", SD1)[:2], LAYERS, SD1)
    assert first.layers == (("IN05", LAYERS[0]),)
    assert second.layers == (("OUT05", LAYERS[1]),)
    lines = [words for words, _ in summaries(parse_rules("NOT BASE::0,M00::1", SD1), LAYERS, SD1)]
    assert lines == ["ratio 0: 3 layers in IN05 OUT05", "ratio 1: no layer"]


def plan_of(*tags: str):
    requests = [parse(tag.split(":"), lambda message: None) for tag in tags]
    return build(requests, {request.name: LAYERS for request in requests}, LIBRARY, lambda message: None,
                 model_layers=LAYERS)


def test_the_summary_names_blocks_steps_time_and_memory():
    plan = plan_of("a:1:lbw=OUTD:stop=5", "b:1:lbwe=R", "c:1")
    line = summarise([Pass(plan, 20)], [Update(3, 0.004), Update(0, 1.0), Update(3, 0.002)], "in CPU memory")
    assert line == (
        "a: OUTD (BASE OUT03-OUT06; 0 in IN05), steps 0-4 of 20; b: rules R; c: all blocks | 2 switches, 6.0 ms | "
        "base weights in CPU memory"
    )


def test_there_is_nothing_to_say_where_the_host_alone_was_at_work():
    assert summarise([Pass(plan_of("a:1"), 20)], [Update(3, 0.1)], "in CPU memory") == ""


def test_changes_list_each_rule_and_its_layers():
    lines = list(changes(Pass(plan_of("a:1:lbwe=R", "b:1"), 20), LAYERS))
    assert lines == [
        "<lora:a:lbwe=R> ratio 0: 1 layer in IN05", f"    {LAYERS[0]}",
        "<lora:a:lbwe=R> ratio 0.5: 1 layer in OUT05", f"    {LAYERS[1]}",
    ]


def test_the_summary_and_the_changes_show_curves_step_by_step():
    made = Pass(plan_of("a:1:0@0,1@4:stop=4", f"b:0.5:lbw=OUTD@0,{','.join(['0'] * 17)}@2"), 5)
    line = summarise([made], [], "lean")
    assert line.startswith("a: steps 0-3 of 5, te 1, unet 0 0.25 0.5 0.75 0; b: OUTD@0,")
    lines = list(changes(made, LAYERS))
    assert lines[0] == "<lora:a> te 1, unet 0 0.25 0.5 0.75 0"
    assert lines[2:] == ["    IN05: 0x5", "    OUT05: 0.5 0.25 0x3", "    BASE: 0.5x5"]
