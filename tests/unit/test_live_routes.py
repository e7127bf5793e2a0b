"""The routes to a generation while it is under way: what they answer, refuse, and stand behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from lbw.request import live_routes
from lbw.request.live import Fader, Job, Key
from tests.backend import Backend

PATHS = [live_routes.PATH, live_routes.PAGE_PATH]
FADERS = (
    Fader(("a", 0), "<lora:a:1>", 0.4, None, True, (1.0, 0.4), True, "<lora:a:te=1:unet=1@0,0.4@1,0.4@2>"),
    Fader(("b", 0), "<lora:b:1>", 1.0, course=(1.0, 1.0)),
    Fader(("b", 1), "<lora:b:2>", 2.0, course=(2.0, 2.0), is_in_prompt=False),
)


class Tasks(Backend):
    """Two tasks, one of which is over, and one in which nothing can be moved."""

    def __init__(self) -> None:
        super().__init__(())
        self.moved: list[Mapping[Key, float]] = []

    def job(self, task: str) -> Job | None:
        job = Job(True, True, 1, 8, 0, 2, FADERS)
        return {
            "task(mine)": job, "task(over)": Job(False, faders=FADERS), "task(empty)": Job(),
            "task(hosts)": Job(faders=FADERS, obstacle="the host applies the LoRAs of this pass by itself"),
        }.get(task)  # fmt: skip

    def play(self, task: str, strengths: Mapping[Key, float]) -> bool:
        self.moved.append(strengths)
        return True


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def client(tasks: Tasks) -> TestClient:
    app = FastAPI()
    live_routes.add(app, tasks, None)
    return TestClient(app)


def send(client: TestClient, body: Any, path: str = live_routes.PATH) -> Any:
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


def move(client: TestClient, *moves: Any, task: str = "task(mine)") -> Any:
    return send(client, {"id_task": task, "moves": moves})


@pytest.mark.parametrize("path", PATHS)
def test_a_task_is_shown_to_whoever_knows_its_id(client: TestClient, path: str):
    answer = client.get(path, params={"id_task": "task(mine)"})
    assert answer.status_code == 200
    found = answer.json()
    loras = found.pop("loras")
    assert found == {"running": True, "pass_title": "hires", "step": 1, "steps": 8, "batch": 0, "batches": 2}
    assert loras[0] == {
        "index": 0, "name": "a", "tag": "<lora:a:1>", "strength": 0.4, "next": None, "played": True,
        "course": [1.0, 0.4], "in_prompt": True, "played_tag": "<lora:a:te=1:unet=1@0,0.4@1,0.4@2>",
    }  # fmt: skip
    assert [(lora["index"], lora["name"], lora["in_prompt"], lora["played_tag"]) for lora in loras[1:]] == [
        (1, "b", True, None), (2, "b", False, None),
    ]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_all_ids_that_are_not_known_are_answered_alike(client: TestClient, path: str):
    ids = ["", "task(other)", "task(mine", "é" * 100]
    answers = [client.get(path, params={"id_task": name}) for name in ids]
    answers += [send(client, {"id_task": name, "moves": [{"index": 0, "strength": 0.5}]}, path) for name in ids]
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, answers[0].text)}
    assert client.get(path, params={"id_task": "x" * 201}).status_code == 422


@pytest.mark.parametrize(
    ("asked", "moved"),
    [
        ([{"index": 0, "strength": 0.5}], {("a", 0): 0.5}),
        ([{"name": "a", "strength": -1000000}], {("a", 0): -1e6}),
        ([{"index": 2, "strength": 0.1}, {"index": 0, "strength": 2}], {("b", 1): 0.1, ("a", 0): 2.0}),
    ],
)
def test_moves_go_to_the_tags_that_they_name(
    client: TestClient, tasks: Tasks, asked: list[Any], moved: dict[Key, float]
):
    answer = move(client, *asked)
    assert answer.status_code == 200
    assert tasks.moved == [moved]
    assert answer.json() == client.get(live_routes.PATH, params={"id_task": "task(mine)"}).json()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"index": 3, "strength": 0.5}, "index 3: expected one of 3 LoRAs, counted from 0"),
        ({"index": -1, "strength": 0.5}, "index -1: expected one of 3 LoRAs"),
        ({"name": "b", "strength": 0.5}, "'b': 2 tags have this name; expected one, or an index"),
        ({"name": "c", "strength": 0.5}, "'c': 0 tags have this name"),
        ({"strength": 0.5}, "a move has either an index or a name"),
        ({"index": 0, "name": "a", "strength": 0.5}, "a move has either an index or a name"),
        ({"index": 0, "strength": float("nan")}, "strength"),
        ({"index": 0, "strength": float("inf")}, "strength"),
        ({"index": 0, "strength": 1_000_001}, "strength"),
        ({"index": 0, "strength": "x"}, "strength"),
        ({"index": 0, "strength": "\ud800"}, "strength"),
        ({"index": 0, "strength": 1, "\ud800": 3}, "extra"),
        ({"index": 0}, "strength"),
        ({"index": 0, "strength": 1, "step": 3}, "step"),
    ],
)
def test_a_move_that_cannot_be_meant_is_refused_and_so_are_those_beside_it(
    client: TestClient, tasks: Tasks, asked: dict[str, Any], told: str
):
    answer = move(client, {"index": 1, "strength": 0.1}, asked)
    assert (answer.status_code, tasks.moved) == (422, [])
    assert told in answer.text


@pytest.mark.parametrize("name", ["task(over)", "task(hosts)", "task(empty)"])
def test_where_nothing_can_be_moved_it_is_said_why(client: TestClient, tasks: Tasks, name: str):
    answer = move(client, {"index": 0, "strength": 0.5}, task=name)
    assert (answer.status_code, tasks.moved) == (409, [])
    told = {"task(over)": "is over", "task(hosts)": "the host applies", "task(empty)": "no pass with LoRA tags"}
    assert told[name] in answer.text
    assert client.get(live_routes.PATH, params={"id_task": name}).status_code == 200


def refusing(status: int) -> Any:
    def check() -> None:
        raise HTTPException(status)

    return check


@pytest.mark.parametrize("of_api", [None, [], [Depends(refusing(401))]])
@pytest.mark.parametrize("login", [None, refusing(403)])
def test_each_path_stands_behind_what_it_should(tasks: Tasks, of_api: Any, login: Any):
    """The API's behind its dependencies, the page's behind the page's login, and both behind that without an API."""
    app = FastAPI()
    if login is not None:
        app.get("/login_check")(login)
    live_routes.add(app, tasks, of_api)
    client = TestClient(app)
    of_login = 200 if login is None else 403
    of_path = of_login if of_api is None else 401 if of_api else 200
    for path, status in ((live_routes.PATH, of_path), (live_routes.PAGE_PATH, of_login)):
        assert client.get(path, params={"id_task": "task(mine)"}).status_code == status
        assert send(client, {"id_task": "task(mine)", "moves": []}, path).status_code == status
