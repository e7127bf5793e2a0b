"""Exactness under curves: thousands of switches to random strengths, by the plans of random tags."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from lbw.engine.base_weights import Policy
from lbw.plan.plan import Plan, build
from lbw.tags.library import Library
from lbw.tags.presets import DEFAULT_PRESETS, parse_presets
from lbw.tags.prompt import parse
from tests.unit.test_engine import FLOATS, Bed, bed_at, name_of
from tests.unit.ulp import ulp_distance

SWITCHES = 10_000
PLANS = 40
LIBRARY = Library(parse_presets(DEFAULT_PRESETS)[0], {})

PLACES = [
    *[("cpu", dtype, "single", Policy.AUTO) for dtype in FLOATS],
    *[("cuda", dtype, "grouped", policy) for dtype in FLOATS[:2] for policy in (Policy.AUTO, Policy.LEAN)],
]


def random_tag(name: str, choice: random.Random) -> str:
    def keyframes(values: list[str]) -> str:
        return ",".join(f"{value}@{choice.random():.3f}" for value in values)

    strengths = keyframes([f"{choice.uniform(-1, 1.5):.3f}" for _ in range(choice.randint(2, 5))])
    blocks = keyframes(choice.choices(("NONE", "ALL", "OUTD", "INALL", "MIDD", "ALL0.5"), k=choice.randint(1, 4)))
    shape = choice.choice(("linear", "step", "cosine"))
    return choice.choice((
        f"{name}:{strengths}:curve={shape}",
        f"{name}:1:{strengths}:lbw={blocks}:curve={shape}",
        f"{name}:{choice.uniform(-1, 1):.3f}:lbw={blocks}:stop=70%",
        f"{name}:{choice.uniform(-1, 1):.3f}:start=0.3",
    ))


def random_plan(bed: Bed, choice: random.Random) -> Plan:
    def fail(message: str) -> None:
        raise AssertionError(message)

    requests = [parse(random_tag(net.name, choice).split(":"), fail) for net in bed.networks]
    return build(requests, {net.name: bed.layers for net in bed.networks}, LIBRARY, fail, model_layers=bed.layers)


@pytest.fixture(params=PLACES, ids=name_of)
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    yield from bed_at(request.param)


def test_thousands_of_random_switches_stay_exact_and_lead_back_to_the_base(bed: Bed):
    choice = random.Random(11)
    dtype = next(iter(bed.base.values())).dtype
    # Thousands in each format, but the way to a weight is the same in all of them.
    switches = SWITCHES if dtype == torch.float16 or bed.device == "cuda" else SWITCHES // 5
    # Where base and deltas cancel, float32's own rounding is more than a unit of a bfloat16 so close to 0.
    floor = 1e-8 if dtype == torch.bfloat16 else 0.0
    for _ in range(PLANS):
        plan = random_plan(bed, choice)
        for switch in range(switches // PLANS):
            coefficients = plan.coefficients(choice.randrange(30), 30)
            bed.update(coefficients)
            if switch % 50 == 49:
                wanted = bed.reference(coefficients)
                assert all(ulp_distance(bed.layers[name].weight, wanted[name], floor) <= 1 for name in wanted)
        bed.update(bed.all(0.0, 0.0, 0.0))
        assert bed.is_pristine()
