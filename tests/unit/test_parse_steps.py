"""Passes of as many steps as the host's API makes, in bounded time."""

from __future__ import annotations

import time

import pytest
from fastapi import HTTPException
from pydantic import ValidationError

from lbw.request.route_models import ParseRequest
from lbw.request.routes import parse_prompt
from lbw.tags.limits import MOST_STEPS
from tests.backend import Backend

LAYERS = [
    "transformer_text_model_encoder_layers_0_mlp_fc1",
    *(f"diffusion_model_{side}_blocks_{number}_1_proj_in" for side in ("input", "output") for number in range(12)),
]


@pytest.mark.parametrize("steps", [150, 151, 1000, MOST_STEPS])
def test_each_step_of_a_long_pass_is_answered(steps: int):
    sigmas = [float(steps - step) for step in range(steps)]
    asked = ParseRequest(prompt="<lora:demo:1:stop=50%:lbw=OUTD>", steps=steps, sigmas=sigmas)
    strengths = parse_prompt(asked, Backend(LAYERS)).tags[0].strengths
    assert strengths == [1.0] * round(steps / 2) + [0.0] * (steps - round(steps / 2))


@pytest.mark.parametrize("fields", [{"steps": MOST_STEPS + 1}, {"steps": 0}, {"sigmas": [1.0] * (MOST_STEPS + 1)}])
def test_more_steps_are_refused_with_the_limit(fields: dict):
    with pytest.raises(ValidationError, match=str(MOST_STEPS) if fields != {"steps": 0} else "1"):
        ParseRequest(prompt="<lora:demo:1>", **fields)


def test_many_tags_of_many_steps_are_refused_before_they_are_computed():
    prompt = "".join(f"<lora:n{number}:0@0,1@1>" for number in range(100))
    began = time.monotonic()
    with pytest.raises(HTTPException) as refused:
        parse_prompt(ParseRequest(prompt=prompt, steps=MOST_STEPS), Backend(LAYERS[:1]))
    assert "more than 1000000 coefficients" in refused.value.detail
    assert time.monotonic() - began < 5
