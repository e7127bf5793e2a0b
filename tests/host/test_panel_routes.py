"""The routes of the panel: what they answer, refuse, and stand behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lbw.tags.families import KNOWN
from lbw.tags.limits import LONGEST_TEXT
from lbw.ui import routes
from tests.backend import Backend
from tests.unit.test_live_routes import refusing

ONES = ",".join(["1"] * 17)
LAYERS = ("diffusion_model_middle_block_1_transformer_blocks_0_attn1_to_q",)
CHECK = {"file": "presets", "step": "check", "text": "A:1", "loaded": None}
QUESTIONS: dict[str, dict[str, Any]] = {
    "file": CHECK,
    "add": {"text": "", "weights": ONES, "name": "A"},
    "hits": {"text": "A:M00::1"},
    "own": {"name": "demo", "in_tag": ""},
    "networks": {"renewed": False},
    "strengths": {"name": "demo", "theme": "light"},
    "schedule": {"asked": "{}", "presets": "", "elements": "", "default_preset": ""},
}


def client_of(folder: Path, login: Callable[..., Any] | None = None) -> TestClient:
    app = FastAPI()
    if login is not None:
        app.get("/login_check")(login)
    routes.add(app, folder / "presets.txt", folder / "rules.txt", Backend(LAYERS))
    return TestClient(app)


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path)


def ask(client: TestClient, what: str, **values: Any) -> Any:
    return client.post(
        f"{routes.PATH}/{what}", content=json.dumps(QUESTIONS[what] | values),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip


@pytest.mark.parametrize("what", QUESTIONS)
def test_each_question_is_answered(client: TestClient, what: str):
    assert ask(client, what).status_code == 200


@pytest.mark.parametrize("what", QUESTIONS)
def test_each_question_stands_behind_the_pages_login(tmp_path: Path, what: str):
    client = client_of(tmp_path, refusing(403))
    assert ask(client, what).status_code == 403
    assert {client.get(f"{routes.PATH}/{name}").status_code for name in ("families", "texts")} == {403}


@pytest.mark.parametrize("what", QUESTIONS)
def test_no_other_page_can_have_a_browser_ask(client: TestClient, what: str):
    content = json.dumps(QUESTIONS[what])
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post(f"{routes.PATH}/{what}", content=content, headers={"Content-Type": kind})
        assert answer.status_code in (415, 422)


@pytest.mark.parametrize("what", [name for name in QUESTIONS if name != "networks"])
def test_what_is_too_long_or_unknown_is_refused_and_not_repeated(client: TestClient, what: str):
    key = next(key for key, value in QUESTIONS[what].items() if isinstance(value, str) and key != "file")
    for refused in ({key: "x" * (LONGEST_TEXT + 1)}, {"path": "/etc/secret"}):
        answer = ask(client, what, **refused)
        assert answer.status_code == 422
        assert "xxx" not in answer.text and "secret" not in answer.text


def test_only_the_two_files_are_read_and_written(client: TestClient, tmp_path: Path):
    for name in ("../presets", "/etc/passwd", "presets.txt", ""):
        assert ask(client, "file", file=name, step="save").status_code == 422
    assert ask(client, "file", step="save", text="A:1\n").status_code == 200
    assert ask(client, "file", file="elements", step="save", text="B:M00::1\n").status_code == 200
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "presets.txt": "A:1\n", "rules.txt": "B:M00::1\n",
    }  # fmt: skip


def test_a_file_that_nobody_expected_to_fail_is_told_by_name(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    error = PermissionError(13, "Permission denied", "/folder/demo.json")
    monkeypatch.setattr(Backend, "own_default", Mock(side_effect=error))
    answer = ask(client, "own")
    assert (answer.status_code, answer.json()) == (500, {"detail": "demo.json: Permission denied"})


def test_a_file_that_changed_is_written_over_only_when_asked_twice(client: TestClient, tmp_path: Path):
    loaded = ask(client, "file", step="reload").json()["loaded"]
    (tmp_path / "presets.txt").write_text(f"THEIRS:{ONES}\n")
    refused = ask(client, "file", step="save", text=f"MINE:{ONES}\n", loaded=loaded).json()
    assert refused["is_changed"] and "Not saved" in refused["html"]
    assert (tmp_path / "presets.txt").read_text() == f"THEIRS:{ONES}\n"
    saved = ask(client, "file", step="save", text=f"MINE:{ONES}\n", loaded=refused["loaded"]).json()
    assert not saved["is_changed"] and "Saved." in saved["html"]
    assert (tmp_path / "presets.txt").read_text() == f"MINE:{ONES}\n"


def test_a_file_that_cannot_be_read_is_told_and_stays(client: TestClient, tmp_path: Path):
    (tmp_path / "presets.txt").mkdir()
    reloaded = ask(client, "file", step="reload").json()
    assert "Not loaded: it is no ordinary file." in reloaded["html"] and reloaded["text"] is None
    assert "OUTD:" in client.get(f"{routes.PATH}/texts").json()["presets"]
    first = ask(client, "file", text="A:1").json()
    assert "Not saved" in ask(client, "file", step="save", text="A:1\n", loaded=first["loaded"]).json()["html"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["rules.txt"]


def test_the_first_check_of_a_text_tells_which_file_it_was_made_from(client: TestClient):
    reloaded = ask(client, "file", step="reload").json()
    first = ask(client, "file", text=reloaded["text"]).json()
    assert first["loaded"] == reloaded["loaded"] and first["text"] is None
    assert ask(client, "file", text="A:1", loaded="as it was").json()["loaded"] == "as it was"


def test_weights_are_added_as_a_line_or_it_is_said_why_not(client: TestClient):
    assert ask(client, "add", text="B:1\n").json() == {
        "text": f"B:1\nA:{ONES}\n", "said": "A added to the presets.",
    }  # fmt: skip
    refused = ask(client, "add", weights="1,2").json()
    assert refused["text"] is None and refused["said"].startswith("Not added: 2 values; expected")


def test_all_families_are_told_at_once(client: TestClient):
    found = client.get(f"{routes.PATH}/families").json()
    assert [family["title"] for family in found[:2]] == ["SD1/SD2", "SDXL"] and len(found) == len(KNOWN)


def test_a_page_is_told_what_is_in_the_files_now(client: TestClient, tmp_path: Path):
    (tmp_path / "presets.txt").write_text("A:1\n")
    (tmp_path / "rules.txt").write_text("B:M00::1\n")
    found = client.get(f"{routes.PATH}/texts").json()
    assert (found["presets"], found["elements"]) == ("A:1\n", "B:M00::1\n")
    (tmp_path / "rules.txt").write_text("C:M00::1\n")
    assert client.get(f"{routes.PATH}/texts").json()["elements_version"] != found["elements_version"]
