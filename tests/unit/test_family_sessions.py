"""Sessions on every family: with the real names of all layers, the weights have the strengths that a tag asks for.

The layers are narrow; that they are all there, and called what they are called, is what counts.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lbw.generation.session import Session
from lbw.generation.summary import summarise
from lbw.tags.families import family_of_layers, label_ranges
from lbw.tags.library import Library
from lbw.tags.presets import DEFAULT_PRESETS
from lbw.tags.prompt import parse
from tests.unit.model_layers import ENCODERS, layers_of
from tests.unit.networks import lora_engine, random_network
from tests.unit.session_host import SessionHost
from tests.unit.ulp import ulp_distance

LIBRARY = Library.read(DEFAULT_PRESETS, "", "")


class Bed:
    """A narrow model with the layers of a real one, and a network with parts in all of them, or in some."""

    def __init__(self, names: tuple[str, ...], parts: str = "") -> None:
        torch.manual_seed(0)
        self.layers: dict[str, nn.Module] = {name: nn.Linear(6, 6).requires_grad_(False) for name in names}
        self.family = family_of_layers(names)
        self.network = random_network("a", {n: each for n, each in self.layers.items() if re.search(parts, n)}, rank=2)
        self.base = {name: layer.weight.clone() for name, layer in self.layers.items()}
        self.messages: list[str] = []
        host = SessionHost(self.layers, [self.network])
        self.session = Session(host, lora_engine(), LIBRARY, self.messages.append)

    def run(self, tag: str) -> dict[str | None, float]:
        """{block: the strength in its layers}, measured from their weights, where all layers of the block agree."""
        self.session.passes.clear()
        self.session.begin_pass([parse(["a", "1", *tag.split(":")], self.messages.append)], 0, 4)
        self.session.step(0, 4, float)
        found: dict[str | None, set[float]] = {}
        for name, module in self.network.modules.items():
            change = (self.layers[name].weight - self.base[name]).double()
            delta = module.delta()
            strength = float((change * delta).sum() / (delta * delta).sum())
            wanted = (self.base[name].double() + round(strength, 3) * delta).float()
            assert ulp_distance(self.layers[name].weight, wanted) <= 1
            found.setdefault(self.family.block_of(name), set()).add(round(strength, 3))
        assert all(len(strengths) == 1 for strengths in found.values()), found
        return {block: strengths.pop() for block, strengths in found.items()}

    def told(self) -> str:
        return summarise(self.session.passes, self.session.updates, "")


@pytest.mark.parametrize("model", sorted({layers_of(model): model for model in ENCODERS}.values()))
def test_every_block_of_a_model_has_the_strength_that_is_asked_for(model: str):
    bed = Bed(layers_of(model))
    family = bed.family
    values = {label: round((number % 7) / 4 - 0.5, 3) for number, label in enumerate(family.blocks)}
    rest = {None, *family.labels} - {*family.blocks}
    existing = {family.block_of(layer) for layer in bed.layers}
    numbers = ",".join(map(str, values.values()))
    for weights, base in ((numbers, 1.0), (f"0.25,{numbers}", 0.25)):
        expected = values | {label: base if label in family.of_encoders else 1.0 for label in rest}
        assert bed.run(f"lbw={weights}") == {label: expected[label] for label in existing}
    first, last = family.blocks[2], family.blocks[-1]
    named = bed.run(f"lbw=NONE,{first.lower()}=0.5,{last}=-1")
    assert {label: strength for label, strength in named.items() if strength} == {first: 0.5, last: -1} | (
        {None: 1.0} if None in existing else {}
    )
    assert bed.messages == []
    at_0 = [label for label in family.labels if label in existing and label not in (first, last)]
    assert f"({first} {last}; 0 in {' '.join(label_ranges(at_0, family.labels))})" in bed.told()
    bed.session.end()


@pytest.mark.parametrize(
    ("model", "parts", "tag", "at_0", "warns"),
    [
        ("sd1", "attn|ff_|proj_|text", "ALL", "", False),  # a LoRA has no parts in the blocks that 17 values leave out
        ("sd1", "", "ALL", "IN00 IN03 IN06 IN09-IN11 OUT00-OUT02", True),  # a LoCon has
        ("sd1", "", "NONE", "BASE IN00-IN11 M00 OUT00-OUT11", False),
        ("sdxl", "attn", ",".join("1" * 17), "OUT00-OUT02", True),
        ("sdxl", "attn", ",".join("1" * 7 + "0" * 10), "M00 OUT00-OUT05", False),
        ("sdxl", "attn", ",".join("1" * 12), "", False),
        ("sdxl", "attn", "OUTD", "IN04-IN05 IN07-IN08 M00 OUT03-OUT05", False),
        ("sd3_medium", "attn", "OUTD", "IN00-IN11 OUT06-OUT11", False),
        ("sd3_medium", "attn", ",".join("1" * 17), "IN00 IN03 IN06 IN09-IN11 OUT00-OUT02", True),
        ("sd3_medium", "attn", ",".join("0" * 17), "BASE IN00-IN11 OUT00-OUT11", False),
    ],
)
def test_blocks_at_0_are_told_and_warned_of_where_a_vector_left_them_out(
    model: str, parts: str, tag: str, at_0: str, warns: bool
):
    bed = Bed(layers_of(model), parts)
    bed.session.begin_pass([parse(["a", "1", f"lbw={tag}"], print)], 0, 4)
    assert bed.told().partition("; 0 in ")[2].partition(")")[0] == at_0
    assert [("values have none for" in message) for message in bed.messages] == [True] * warns
    bed.session.end()


def test_a_vector_of_several_lines_is_told_on_one():
    bed = Bed(layers_of("sdxl"), "attn")
    lines = "\n".join("1" * 17)
    assert bed.run(f"lbw={lines}")["OUT03"] == 1
    assert "\n" not in bed.told() + "".join(bed.messages) and "lbw=1 1 1" in bed.messages[0]
    bed.session.end()


def test_a_vector_that_fits_several_models_is_told_as_what_it_was_read():
    bed = Bed(layers_of("flux2_klein_4b"))
    bed.run("lbw=" + ",".join(["1"] * 26))
    assert "(26 values for BASE D00-D04 S00-S19; all blocks)" in bed.told()
    bed.session.end()


def test_a_model_that_no_entry_knows_works_and_its_blocks_are_told_once_in_a_generation():
    names = tuple(name.replace("diffusion_model_blocks", "diffusion_model_stages") for name in layers_of("anima"))
    bed = Bed(names)
    assert bed.run("lbw=NONE,STAGES03-STAGES05=0.5,LAST=1")["STAGES04"] == 0.5
    assert len(bed.messages) == 1
    assert "its blocks, by the names of its layers, are BASE, STAGES00-STAGES27, with the groups STAGES" in (
        bed.messages[0]
    )
    bed.run("lbw=ALL")
    assert len(bed.messages) == 1
    bed.session.end()
    for tag, count in (("lbw=ALL", 1), ("stop=2", 0)):  # those of other users
        other = Bed(names)
        other.run(tag)
        assert len(other.messages) == count
        other.session.end()
