"""The README's recipes, in both languages: measured from the weights, each does what its sentences say."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from lbw.tags.families import SD1
from tests.host.conftest import Bench
from tests.host.measure import Recording, messages, recording

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
RECIPES = {
    "English": README.partition("\n## Recipes\n")[2].partition("\n## ")[0],
    "Japanese": README.partition("\n### レシピ\n")[2].partition("\n</details>")[0],
}
STEPS = 20

OUTD = ("BASE", "OUT03", "OUT04", "OUT05", "OUT06")
OUTS = ("BASE", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11")
OUTALL = OUTD + OUTS[1:]
MIDD = ("BASE", "IN05", "IN07", "IN08", "M00", *OUTD[1:])
ALL = ("BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *OUTALL[1:])

Course = tuple[float, list[float], tuple[str, ...]]
"""(strength in the text encoder, strength in the U-Net in each step, the blocks that have them; the others have 0)."""


def on(first: int, last: int, blocks: tuple[str, ...] = ALL, te: float = 1.0, strength: float = 1.0) -> Course:
    return te, [strength if first <= step <= last else 0.0 for step in range(STEPS)], blocks


def falling(until: int) -> list[float]:
    """From 1 in the first step to 0 in step ``until``."""
    return [max(0.0, 1 - step / until) for step in range(STEPS)]


EDITED = "a portrait of a man, [<lora:first:1>:<lora:second:1>:{}]"
RISING = [step / (STEPS - 1) for step in range(STEPS)]

COURSES: dict[str, list[Course]] = {
    "a woman in a garden <lora:face:1:lbw=OUTD:start=0.2>": [on(4, 19, OUTD)],
    "<lora:face:0.7:lbw=OUTD:start=0.4>": [on(8, 19, OUTD, 0.7, 0.7)],
    "<lora:face:1:lbw=NONE,BASE OUT04-OUT06=1:start=0.2>": [on(4, 19, ("BASE", "OUT04", "OUT05", "OUT06"))],
    "<lora:face:1:lbw=MIDD>": [on(0, 19, MIDD)],
    "a castle on a hill <lora:style:te=0:unet=1:lbw=OUTALL:start=0.2>": [on(4, 19, OUTALL, te=0)],
    "a castle on a hill <lora:style:te=0:unet=1:lbw=OUTALL:start=0.4>": [on(8, 19, OUTALL, te=0)],
    "<lora:style:te=0:unet=1:lbw=OUTS:start=0.2>": [on(4, 19, OUTS, te=0)],
    "<lora:style:1:lbw=OUTALL>": [on(0, 19, OUTALL)],
    "<lora:style:te=0:unet=1:start=0.2>": [on(4, 19, te=0)],
    "a dancer on a stage <lora:pose:1:stop=0.3>": [on(0, 5)],
    "a dancer on a stage <lora:pose:1:stop=0.2>": [on(0, 3)],
    "a dancer on a stage <lora:pose:1:stop=0.5>": [on(0, 9)],
    "a dancer on a stage <lora:pose:1:stop=5>": [on(0, 4)],
    "a dancer on a stage <lora:detail:te=0:unet=1:start=0.7>": [on(14, 19, te=0)],
    "<lora:pose:te=0:unet=1:stop=0.3>": [on(0, 5, te=0)],
    "<lora:pose:te=0:unet=1@0,0@0.6>": [(0, falling(0.6 * (STEPS - 1)), ALL)],
    EDITED.format("0.5"): [on(0, 10), on(11, 19)],
    EDITED.format("0.3"): [on(0, 6), on(7, 19)],
    EDITED.format("0.7"): [on(0, 14), on(15, 19)],
    "a portrait of a man <lora:first:1@0,0@1> <lora:second:0@0,1@1>": [
        (1, falling(STEPS - 1), ALL), (0, RISING, ALL)
    ],
    "<lora:first:1:lbw=OUTD> <lora:second:1:lbw=OUTS>": [on(0, 19, OUTD), on(0, 19, OUTS)],
    "<lora:mine:1:lbw=NONE,M00=1>": [on(0, 19, ("M00",), te=0)],
    "<lora:mine:1:lbw=ALL,M00=0>": [on(0, 19, tuple(block for block in ALL if block != "M00"))],
}
"""{what README has one write: what each of its LoRAs does with 20 steps}."""


def before(course: Course) -> list[int]:
    """The first and the last step without the LoRA, which begins late."""
    return [0, since(course)[0] - 1]


def since(course: Course) -> list[int]:
    return [min(step for step, strength in enumerate(course[1]) if strength)]


def span(course: Course) -> list[int]:
    """The first and the last step with the LoRA."""
    return [*since(course), max(step for step, strength in enumerate(course[1]) if strength)]


SAID = {
    "a woman in a garden <lora:face:1:lbw=OUTD:start=0.2>": ("steps 0 to 3 to the", "ステップ 0 から 3 を", before),
    "a castle on a hill <lora:style:te=0:unet=1:lbw=OUTALL:start=0.2>": ("from step 4 on", "ステップ 4 から", since),
    "a dancer on a stage <lora:pose:1:stop=0.3>": ("in steps 0 to 5:", "ステップ 0 から 5 まで", span),
    "a dancer on a stage <lora:detail:te=0:unet=1:start=0.7>": ("from step 14 on:", "ステップ 14 から", since),
    EDITED.format("0.5"): (
        "the first has steps 0 to 10, the second 11 to 19", "ステップ 0 から 10、2 つ目は 11 から 19 に", span
    ),
}
"""{prompt: what stands in English and in Japanese of steps, and which of each course they are}."""


def parts(language: str) -> list[str]:
    """A language's recipes, one by one."""
    return re.split(r"^#{3,4} \d\. .*$", RECIPES[language], flags=re.MULTILINE)[1:]


def prompts(part: str) -> list[str]:
    return re.findall(r"^    (.+)$", part, re.MULTILINE)


def codes(part: str) -> list[str]:
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", part)]


def turns(part: str) -> list[str]:
    """What a recipe has one write if it is too much or too little: whole tags, and its prompt with another value."""
    found, (prompt, *_) = [], prompts(part)
    for code in codes("\n".join(re.findall(r"^\* (?:.+\n(?:  .+\n)*)", part, re.MULTILINE))):
        if code.startswith("<lora:"):
            found.append(code)
        elif key := re.fullmatch(r"(\w+=)\d[\d.]*", code):
            found.append(re.sub(rf"{key[1]}\d[\d.]*", code, prompt))
        elif code.startswith(":"):
            found.append(re.sub(r":0\.\d\]", code, prompt))
    return found


TO_WRITE = [
    written for part in parts("English") for written in (*prompts(part), *turns(part)) if "lbw=XYZ" not in written
]


def test_both_languages_have_the_same_prompts():
    assert len(parts("English")) == len(parts("Japanese")) == 5
    for english, japanese in zip(parts("English"), parts("Japanese"), strict=True):
        assert prompts(english) == prompts(japanese) != []
        assert sorted(codes(english)) == sorted(codes(japanese))
        assert turns(english) and sorted(turns(english)) == sorted(turns(japanese))


def test_all_that_is_to_be_written_is_measured():
    assert set(TO_WRITE) == set(COURSES)


@pytest.mark.parametrize("prompt", SAID)
def test_a_sentence_has_the_steps_that_are_measured(prompt: str):
    english, japanese, steps_of = SAID[prompt]
    expected = [step for course in COURSES[prompt] for step in steps_of(course)]
    for language, said in zip(RECIPES, (english, japanese), strict=True):
        (part,) = [part for part in parts(language) if prompt in prompts(part)]
        assert said in part
        assert [int(number) for number in re.findall(r"\d+(?! つ目)", said)] == expected


def with_test_loras(prompt: str) -> tuple[str, list[str]]:
    """The prompt with LoRAs whose strengths can be measured, and their names."""
    names = list(dict.fromkeys(re.findall(r"<lora:(\w+)", prompt)))
    own = dict(zip(names, ("t_lora", "t_lora2"), strict=False))
    return re.sub(r"<lora:(\w+)", lambda tag: f"<lora:{own[tag[1]]}", prompt), list(own.values())


def recorded(
    bench: Bench, networks: list[str], args: list[Any] | None = None, **fields: Any
) -> tuple[Any, Recording]:
    """Generate, and record the strengths in one layer of each block."""
    few = {name: {SD1.block_of(layer): layer for layer in bench.deltas[name]}.values() for name in networks}
    watched = {name: {layer: bench.deltas[name][layer] for layer in layers} for name, layers in few.items()}
    with recording(bench.webui, bench.base, watched) as record:
        result = bench.webui.generate(args, **fields)
    return result, record


def assert_course(record: Recording, network: str, course: Course) -> None:
    te, strengths, blocks = course
    assert len(record.strengths) == STEPS
    for step, (found, strength) in enumerate(zip(record.strengths, strengths, strict=True)):
        wanted = {block: (strength if block in blocks else 0.0,) * 2 for block in ALL}
        wanted["BASE"] = (te if "BASE" in blocks else 0.0,) * 2
        for block, value in wanted.items():
            assert found[network][block] == pytest.approx(value, abs=2e-3), f"step {step}, {block}"


@pytest.mark.parametrize("prompt", TO_WRITE)
def test_a_recipe_gives_the_strengths_that_it_speaks_of(bench: Bench, prompt: str):
    own, networks = with_test_loras(prompt)
    result, record = recorded(bench, networks, prompt=own, steps=STEPS)
    assert messages(result) == []
    for network, course in zip(networks, COURSES[prompt], strict=True):
        assert_course(record, network, course)


RANGES = [code for code in codes(parts("English")[4]) if re.fullmatch(r"-?\d,\d", code)]


@pytest.mark.parametrize("weights", RANGES)
def test_the_analyzer_leaves_out_one_block_after_the_other(bench: Bench, weights: str):
    from lbw.hosts import plots

    if not plots._can_leave_batches_out():
        pytest.skip("this host cannot leave the image itself out")
    part = parts("English")[4]
    (prompt,) = prompts(part)
    assert "the blocks `17ALL`" in part
    own, networks = with_test_loras(prompt)
    args: list[Any] = [None, True, 2, *[None] * 6, weights, "17ALL", 1, "black", 0]
    result, record = recorded(bench, networks, args, prompt=own, steps=1, cfg_scale=2)
    seen = [{block: round(found["t_lora"][block][0], 2) for block in ALL} for found in record.strengths]
    least, greatest = map(float, weights.split(","))
    wanted = [{block: least if block == examined else greatest for block in ALL} for examined in ALL]
    cells = [cell for cell, _ in groupby(seen)]
    assert all(cell in cells for cell in wanted)
    assert [cell for cell in cells if cell not in wanted] == [dict.fromkeys(ALL, greatest)]
    preset, summary = messages(result)
    assert preset.startswith("ANALYZED:")
    assert summary == f"Effective Block Analyzer: {len(ALL) + 1} of {len(ALL) + 1} cells"
    assert sum(float(value) > 0 for value in preset.partition(":")[2].split(",")) > 1, "it is made of what was seen"


def test_recipes_name_blocks_of_the_model_that_they_speak_of():
    assert set(ALL) <= set(SD1.labels)
