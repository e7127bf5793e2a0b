"""The route by which the page learns which model is loaded."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.testclient import TestClient

from lbw.request import model_routes
from tests.backend import Backend
from tests.unit.test_live_routes import refusing

KINDS = ("double_blocks", "single_blocks")
LAYERS = [f"diffusion_model_{kind}_{number}_0_lin" for kind in KINDS for number in range(3)]


def answer_of(layers: list[str], *, is_refused: bool = False) -> tuple[int, object]:
    app = FastAPI()
    if is_refused:
        app.get("/login_check")(refusing(403))
    model_routes.add(app, Backend(layers))
    answer = TestClient(app).get(model_routes.PAGE_PATH)
    return answer.status_code, answer.json()


def test_the_blocks_are_those_of_the_loaded_model():
    status, answer = answer_of(LAYERS)
    assert status == 200
    assert "D00-D02" in answer["family"]["labels"] and "S00-S02" in answer["family"]["labels"]  # type: ignore[index]


def test_before_a_model_is_loaded_there_is_none():
    assert answer_of([]) == (200, {"family": None})


def test_it_stands_behind_the_pages_login():
    assert answer_of(LAYERS, is_refused=True)[0] == 403
