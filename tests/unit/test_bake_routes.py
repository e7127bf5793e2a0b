"""The routes that bake: what they answer, refuse, and stand behind. What they bake is made up."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO, cast

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from lbw.bake.baking import Loss, Progress
from lbw.bake.forms import Form
from lbw.bake.host import BakeError, CancelledError
from lbw.engine.strengths import Norms, Part, Strengths, UnknownNetworkError
from lbw.request import bake_actions, bake_jobs, bake_routes
from lbw.request.bake import Order, OrderError, Report
from lbw.request.bake_actions import NoRoomError, Outcome, TemporaryFile
from lbw.request.bake_jobs import MOST_WAITING, Jobs
from tests.unit.test_live_routes import refusing

API, PAGE = bake_routes.PATH, bake_routes.PAGE_PATH

REPORT = Report(
    ("<lora:a:1>", "<lora:b\ud800:1>"), ("one", "two\udfff"), 1234,
    {Form.KEPT: 1, Form.JOINED: 2, Form.CUT: 3, Form.FULL: 0}, 5, {"IN01": Loss(2, 3.0, 0.3), None: Loss(1, 4.0, 0.4)},
)  # fmt: skip

STRENGTHS = Strengths("a", ("IN01",), (Part("x", "IN01", "attn", Norms(1, 1.0, 2.0)),))
DATA = bytes(range(256)) * 20


class Server:
    """A host whose folder takes files, or not, and the orders that came to be done."""

    def __init__(self) -> None:
        self.obstacle = ""
        self.orders: list[tuple[str, Order, str, bool]] = []
        self.error: Exception | None = None
        self.held = threading.Event()
        self.held.set()

    def keeping_obstacle(self) -> str:
        return self.obstacle

    def do(self, what: str, order: Order, name: str, *rest: Any) -> Outcome:
        progress: Progress = rest[-1]
        self.orders.append((what, order, name, rest[0] if len(rest) == 3 else False))
        progress.begin(7)
        while not self.held.wait(0.01):
            progress.tick(0)
        if self.error is not None:
            raise self.error
        file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
        file.write(DATA)
        file.flush()
        return {
            "look": Outcome(REPORT, STRENGTHS), "keep": Outcome(REPORT, kept=name),
            "download": Outcome(REPORT, file=TemporaryFile(file, name)),
        }[what]  # fmt: skip


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    host = Server()
    for what in ("look", "keep", "download"):
        monkeypatch.setattr(bake_actions, what, partial(host.do, what))
    yield host
    host.held.set()


def client_of(host: Any, of_api: Any = (), login: Any = None) -> TestClient:
    app = FastAPI()
    if login is not None:
        app.get("/login_check")(login)
    bake_routes.add(app, host, of_api, Jobs())
    return TestClient(app)


@pytest.fixture
def client(host: Server) -> Iterator[TestClient]:
    with client_of(host) as client:
        yield client


def send(client: TestClient, path: str, **body: Any) -> Any:
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


def begin(client: TestClient, **body: Any) -> str:
    answer = send(client, PAGE, **{"prompt": "<lora:a:1>", "action": "look", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["job"]


def state(client: TestClient, job: str) -> dict[str, Any]:
    answer = client.get(PAGE, params={"job": job})
    assert answer.status_code == 200
    return answer.json()


def ended(client: TestClient, job: str) -> dict[str, Any]:
    for _ in range(1000):
        found = state(client, job)
        if found["state"] not in ("waiting", "running"):
            return found
        threading.Event().wait(0.01)
    raise AssertionError(found)


def running(client: TestClient, host: Server, **body: Any) -> str:
    """A job that has been begun, and does not end by itself."""
    host.held.clear()
    job = begin(client, **body)
    while state(client, job)["state"] == "waiting":
        threading.Event().wait(0.01)
    return job


FOUND = {
    "state": "done", "done": 7, "total": 7, "message": "", "warnings": ["one", "two?"], "size": 1234,
    "layers": {"kept": 1, "joined": 2, "cut": 3, "full": 0}, "left_out": 5,
    "tags": ["<lora:a:1>", "<lora:b?:1>"],
    "losses": [
        {"block": "IN01", "parts": 2, "lost_share": pytest.approx(0.1)},
        {"block": None, "parts": 1, "lost_share": pytest.approx(0.1)},
    ],
    "lost_share": pytest.approx(0.1), "file": None, "may_keep": True,
}  # fmt: skip


def test_a_look_answers_what_the_file_would_be(client: TestClient):
    job = begin(client)
    assert ended(client, job) == FOUND
    picture = client.get(f"{PAGE}/picture.png", params={"job": job, "theme": "dark"})
    assert picture.headers["content-type"] == "image/png" and picture.content[1:4] == b"PNG"
    assert client.get(f"{PAGE}/file", params={"job": job}).status_code == 404
    assert send(client, f"{API}/look", prompt="<lora:a:1>").json() == FOUND


def test_what_is_kept_has_its_name(client: TestClient, host: Server):
    job = begin(client, action="keep", name=" new.safetensors ", words=True)
    assert ended(client, job) == {**FOUND, "file": "new"}
    assert host.orders == [("keep", Order("<lora:a:1>"), "new", True)]
    assert client.get(f"{PAGE}/picture.png", params={"job": job}).status_code == 404


def test_a_file_is_fetched_as_often_as_it_is_wanted(client: TestClient):
    job = begin(client, action="download", name="néw")
    assert ended(client, job)["file"] is None
    for _ in range(2):
        answer = client.get(f"{PAGE}/file", params={"job": job}, headers={"Accept-Encoding": "gzip"})
        assert answer.content == DATA
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["content-disposition"] == (
            "attachment; filename=\"n_w.safetensors\"; filename*=UTF-8''n%C3%A9w.safetensors")
    for _ in range(2):
        ended(client, begin(client, action="download", name="b"))
    answer = client.get(f"{PAGE}/file", params={"job": job})
    assert (answer.status_code, "10 minutes" in answer.text) == (410, True)


def test_all_that_is_asked_reaches_the_baking(client: TestClient, host: Server):
    asked = {"rank": 8, "dtype": "bf16", "step": 3, "steps": 4, "seed": 2**63, "presets": "A:1", "elements": "B:::1",
             "default_preset": "A"}  # fmt: skip
    ended(client, begin(client, **asked))
    assert send(client, API, prompt="<lora:a:1>", name="new", words=True, **asked).content == DATA
    order = Order("<lora:a:1>", **asked)  # type: ignore[arg-type]
    assert host.orders == [("look", order, "baked", False), ("download", order, "new", True)]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rank": 0}, "rank"), ({"rank": 1025}, "rank"), ({"rank": "x"}, "rank"), ({"dtype": "fp8"}, "dtype"),
        ({"step": 20}, "step 20: expected one of 20, counted from 0"), ({"step": -1}, "step"), ({"steps": 0}, "steps"),
        ({"steps": 1e999}, "steps"), ({"seed": -1}, "seed"), ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 1_000_001}, "prompt"), ({"name": "a/b"}, "it has /"), ({"name": "x" * 501}, "name"),
        ({"name": "x" * 201}, "at most 200"), ({"name": "CON"}, "a device on Windows"), ({"name": "a\ud800"}, "name"),
        ({"nope": 1}, "extra"), ({"words": "maybe"}, "words"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [API, f"{API}/look", PAGE])
def test_what_cannot_be_meant_is_refused(client: TestClient, host: Server, path: str, wrong: dict[str, Any], told: str):
    body = {"prompt": "<lora:a:1>", **({"action": "keep", "name": "new"} if path == PAGE else {}), **wrong}
    answer = send(client, path, **body)
    assert (answer.status_code, host.orders) == (422, [])
    assert told in answer.text


@pytest.mark.parametrize("action", ["keep", "download"])
@pytest.mark.parametrize("name", [{}, {"name": " "}])
def test_what_is_made_needs_a_name(client: TestClient, action: str, name: dict[str, str]):
    answer = send(client, PAGE, prompt="<lora:a:1>", action=action, **name)
    assert (answer.status_code, "it is empty; expected a name" in answer.text) == (422, True)


def test_where_nothing_may_be_kept_it_is_said_why(client: TestClient, host: Server):
    assert client.get(f"{PAGE}/place").json() == {"may_keep": True, "reason": ""}
    host.obstacle = "this server is shared"
    assert client.get(f"{PAGE}/place").json() == {"may_keep": False, "reason": "this server is shared"}
    answer = send(client, PAGE, prompt="<lora:a:1>", action="keep", name="new")
    assert (answer.status_code, host.orders) == (403, [])
    assert answer.json()["detail"] == "nothing is kept: this server is shared; download the file instead"
    assert not ended(client, begin(client, action="download", name="new"))["may_keep"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownNetworkError("wrong"), 404), (BakeError("wrong"), 409), (CancelledError("wrong"), 409),
        (OrderError("wrong"), 422), (NoRoomError("wrong"), 507), (KeyError("/secret"), 500),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [API, f"{API}/look"])
def test_the_api_says_by_its_status_what_is_wrong(
    client: TestClient, host: Server, path: str, error: Exception, status: int
):
    host.error = error
    answer = send(client, path, prompt="<lora:a:1>")
    assert answer.status_code == status
    assert answer.json()["detail"] and "/secret" not in answer.text
    found = ended(client, begin(client))
    assert found["state"] == ("cancelled" if status == 409 and isinstance(error, CancelledError) else "failed")
    assert "/secret" not in found["message"]


def test_a_secret_that_is_not_known_is_answered_alike(client: TestClient, host: Server):
    job = running(client, host)
    answers = []
    for wrong in ("", job[:-1], "é", "x" * 22):
        answers += [client.get(PAGE + path, params={"job": wrong}) for path in ("", "/picture.png", "/file")]
        answers += [send(client, f"{PAGE}/cancel", job=wrong)]
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, answers[0].text)}
    assert client.get(PAGE, params={"job": "x" * 501}).status_code == 422
    assert state(client, job)["state"] == "running"


def test_one_user_stops_and_another_goes_on(client: TestClient, host: Server):
    first = running(client, host, prompt="<lora:a:1>")
    second, third = (begin(client, prompt=f"<lora:{name}:1>") for name in "bc")
    assert send(client, f"{PAGE}/cancel", job=second).json()["state"] == "cancelled"
    send(client, f"{PAGE}/cancel", job=first)
    assert ended(client, first)["state"] == "cancelled"
    host.held.set()
    assert ended(client, third) == FOUND
    assert [order.prompt for _what, order, _name, _words in host.orders] == ["<lora:a:1>", "<lora:c:1>"]


def test_more_than_may_wait_are_refused(client: TestClient, host: Server):
    running(client, host)
    waiting = [begin(client) for _ in range(MOST_WAITING)]
    for path, more in ((API, {}), (f"{API}/look", {}), (PAGE, {"action": "look"})):
        answer = send(client, path, prompt="<lora:a:1>", **more)
        assert (answer.status_code, "waiting already" in answer.text) == (429, True)
    assert {state(client, job)["state"] for job in waiting} == {"waiting"}


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
def test_a_page_of_another_origin_can_have_nothing_baked(client: TestClient, host: Server, headers: dict[str, str]):
    """Browsers send what is no JSON without asking."""
    body = json.dumps({"prompt": "<lora:a:1>", "action": "keep", "name": "new"})
    answer = client.post(PAGE, content=body, headers=headers)
    assert (answer.status_code, host.orders) in ((415, []), (422, []))


@pytest.mark.parametrize("of_api", [None, [], [Depends(refusing(401))]])
@pytest.mark.parametrize("login", [None, refusing(403)])
def test_each_path_stands_behind_what_it_should(host: Server, of_api: Any, login: Any):
    """The API's behind its dependencies, or nowhere without the API; the page's behind the page's login."""
    client = client_of(host, of_api, login)
    of_path = 404 if of_api is None else 401 if of_api else 200
    for path in (API, f"{API}/look"):
        assert send(client, path, prompt="<lora:a:1>").status_code == of_path
    of_login = 200 if login is None else 403
    assert send(client, PAGE, prompt="<lora:a:1>", action="look").status_code == of_login
    assert client.get(f"{PAGE}/place").status_code == of_login
    for path in ("", "/picture.png", "/file"):
        assert client.get(PAGE + path, params={"job": "x"}).status_code == (404 if login is None else 403)
    assert send(client, f"{PAGE}/cancel", job="x").status_code == (404 if login is None else 403)


def test_nothing_that_an_api_client_made_can_be_fetched_at_the_page(client: TestClient, monkeypatch):
    secrets: list[str] = []
    original = bake_jobs.Job.__init__

    def note(self: bake_jobs.Job, *args: Any) -> None:
        original(self, *args)
        secrets.append(self.token)

    monkeypatch.setattr(bake_jobs.Job, "__init__", note)
    assert send(client, API, prompt="<lora:a:1>").status_code == 200
    assert client.get(f"{PAGE}/file", params={"job": secrets[0]}).status_code == 404


def test_a_report_of_nothing_lost_says_so(client: TestClient, host: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bake_actions, "look", lambda *_: Outcome(replace(REPORT, losses={})))
    found = ended(client, begin(client))
    assert (found["losses"], found["lost_share"]) == ([], 0.0)
