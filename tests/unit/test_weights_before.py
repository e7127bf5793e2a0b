"""What block weights meant before families were a table, recorded from the parser of that time, they mean today.

tests/data/weights_before.json: presets, texts of ``lbw=`` with ``x=0.75`` and seed 5, and for each model some of its
layers and their coefficients, three where they change in a pass of five steps (in steps 0, 2 and 4). A single number
stands for a text that could not be used on the model.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from lbw.plan.plan import build
from lbw.tags.library import Library
from lbw.tags.prompt import LoraRequest
from tests.unit.model_layers import DATA, layers_of

BEFORE: dict[str, Any] = json.loads((DATA / "weights_before.json").read_text())
LIBRARY = Library.read(BEFORE["presets"], "", "")

CHANGED = {
    ("sdxl", "TWICE"): "of two lines the one that fits the model counts, which was the last",
    ("sdxl", "NONE,IN04-OUT05=R"): "nothing is drawn for blocks that the model does not have",
    ("sd3_medium", "NONE,IN04-OUT05=R"): "nothing is drawn for blocks that the model does not have",
    ("sdxl", "R"): "nothing is drawn for blocks that the model does not have",
    ("sd3_medium", "R"): "nothing is drawn for blocks that the model does not have",
}


TOLD = ("values have none for", "M00 is left out", "x=0.75: its block weights have no X")


def coefficients(model: str, weights: str) -> tuple[list[Any], list[str]]:
    messages: list[str] = []
    layers = BEFORE["models"][model]["layers"]
    request = LoraRequest("a", weights=weights, x=0.75)
    plan = build([request], {"a": layers}, LIBRARY, messages.append, model_layers=layers_of(model), seed=5)
    steps = [plan.coefficients(step, 5) for step in (0, 2, 4)]
    found = [[round(each[layer][0], 6) for each in steps] for layer in layers]
    return [values[0] if len(set(values)) == 1 else values for values in found], messages


CASES = [
    (model, text, expected)
    for model, recorded in BEFORE["models"].items()
    for text, expected in zip(BEFORE["texts"], recorded["plans"], strict=True)
    if isinstance(expected, list)
]


@pytest.mark.parametrize(("model", "text", "expected"), CASES, ids=[f"{model}-{text[:24]}" for model, text, _ in CASES])
def test_weights_mean_what_they_meant(model: str, text: str, expected: list[Any]):
    found, messages = coefficients(model, text)
    assert (found == expected) != ((model, text) in CHANGED), messages
    assert all(any(told in message for told in TOLD) for message in messages)


def test_every_model_and_form_is_recorded():
    assert set(BEFORE["models"]) == {"sd1", "sdxl", "sdxl_refiner", "sd3_medium", "flux1_dev"}
    assert len(CASES) > 130 and {(model, text) for model, text, _ in CASES} >= {*CHANGED}
