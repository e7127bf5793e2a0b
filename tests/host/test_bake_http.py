"""Baking over HTTP: by a client of the API, and by the panel's page as a job."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from safetensors import safe_open
from safetensors.torch import load

from tests.host.test_http import files, pixels
from tests.server import Server, running_server

API, PAGE = "/lbw/v1/bake", "/internal/lbw/bake"
TAG = "<lora:demo:0.5:lbw=OUTD>"


SMALL = {"prompt": "a cat", "seed": 1, "steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module", autouse=True)
def _with_model(server: Server, session: requests.Session) -> None:
    """The Forge family loads the model for the first image."""
    session.post(f"{server.url}/sdapi/v1/txt2img", json=SMALL, timeout=240).raise_for_status()


@pytest.fixture
def loras(server: Server) -> Iterator[Path]:
    """The host's folder of LoRA files, which is left as it was found."""
    folder = server.data / "models" / "Lora"
    before = {*folder.iterdir()}
    yield folder
    for path in {*folder.rglob("*")} - before:
        if path.is_file() or path.is_symlink():
            path.unlink()


@pytest.fixture
def post(server: Server, session: requests.Session) -> Callable[..., requests.Response]:
    return lambda path, **body: session.post(server.url + path, json=body, timeout=120)


def begin(server: Server, session: requests.Session, **body: Any) -> str:
    answer = session.post(server.url + PAGE, json={"prompt": TAG, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["job"]


def state(server: Server, session: requests.Session, job: str) -> dict[str, Any]:
    return session.get(server.url + PAGE, params={"job": job}, timeout=60).json()


def ended(server: Server, session: requests.Session, job: str) -> dict[str, Any]:
    while (found := state(server, session, job))["state"] in ("waiting", "running"):
        time.sleep(0.05)
    return found


@pytest.fixture
def bake(server: Server, session: requests.Session) -> Callable[..., dict[str, Any]]:
    """Have the page's job done, and see what it came to."""
    return lambda **body: ended(server, session, begin(server, session, **body))


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def metadata(data: bytes) -> dict[str, str]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def test_a_client_gets_the_file_and_the_server_keeps_nothing(server: Server, post, loras: Path):
    before = files(server.data)
    answer = post(API, prompt=f"a cat {TAG}", name="néw", dtype="fp32")
    after = files(server.data)
    assert {path for path in after if after[path] != before.get(path)} <= {str(server.log)}
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "filename*=UTF-8''n%C3%A9w.safetensors" in answer.headers["content-disposition"]
    found = load(answer.content)
    with safe_open(loras / "demo.safetensors", "pt") as source:
        for name, tensor in found.items():
            ratio = 0.5 if name.endswith("lora_up.weight") else 1
            assert torch.equal(tensor, source.get_tensor(name).float() * ratio)
    assert found and all(re.match("lora_(te|unet_(up|output)_blocks)", name) for name in found)
    said = metadata(answer.content)
    assert json.loads(said["lbw_tags"]) == [TAG]
    (named,) = json.loads(said["lbw_sources"])
    told = subprocess.run(["sha256sum", loras / "demo.safetensors"], capture_output=True, text=True, check=True)
    assert named["sha256"] == told.stdout.split()[0]
    assert (said["ss_output_name"], said["ss_network_module"]) == ("néw", "networks.lora")


def test_a_client_looks_before(post):
    found = post(f"{API}/look", prompt=TAG, rank=2).json()
    made = post(API, prompt=TAG, rank=2, name="baked")
    assert (found["state"], found["size"]) == ("done", len(made.content))
    assert found["layers"]["cut"] == sum(each["parts"] for each in found["losses"]) > 0
    assert 0 < found["lost_share"] < 1 and found["left_out"] > 0
    assert metadata(made.content)["ss_network_dim"] == "2"


@pytest.mark.parametrize("path", [API, f"{API}/look"])
@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"prompt": "<lora:nope:1>"}, 404, "no LoRA is called 'nope'"),
        ({"prompt": "<lora:../demo:1>"}, 404, "no LoRA is called '../demo'"),
        ({"prompt": "<lora:demo:0>"}, 409, "nothing is left to bake"),
        ({"prompt": "<lora:demo:1e6>"}, 409, "choose bf16 or fp32"),
        ({"prompt": "a cat"}, 422, "the prompt has no LoRA tag"),
        ({"prompt": TAG, "name": "a/b"}, 422, "it has /"),
        ({"prompt": TAG, "step": 20}, 422, "step 20"),
    ],
)
def test_a_client_is_told_what_is_wrong(post, path: str, body: dict[str, Any], status: int, told: str):
    answer = post(path, **body)
    assert (answer.status_code, told in answer.json()["detail"]) == (status, True), answer.text


def test_what_has_no_place_in_a_file_is_told_in_it(post):
    found = metadata(post(API, prompt="<lora:demo:0@0,1@1>", step=5, steps=11).content)
    (note,) = json.loads(found["lbw_notes"])
    assert "baked is what counts at step 5 of 11" in note and "strength 0.5" in note


def test_a_kept_file_is_listed_and_makes_the_image(server: Server, post, bake, loras: Path):
    found = bake(action="keep", name="new", dtype="fp32")
    assert (found["state"], found["file"], found["warnings"]) == ("done", "new", [])
    assert names(loras) >= {"new.safetensors", "new.json"}
    listed = requests.get(f"{server.url}/sdapi/v1/loras", timeout=60).json()
    assert "new" in [each["name"] for each in listed]
    one, other, without = (
        post("/sdapi/v1/txt2img", **{**SMALL, "prompt": f"a cat {tag}"}).json() for tag in (TAG, "<lora:new:1>", "")
    )
    differences = [abs(a - b) for a, b in zip(pixels(one), pixels(other), strict=True)]
    assert max(differences) <= 2 < max(abs(a - b) for a, b in zip(pixels(one), pixels(without), strict=True))


@pytest.mark.parametrize("name", ["demo", "DEMO", "Sub", "alias of it", "ALIAS of it"])
def test_a_name_that_the_host_knows_is_taken(bake, post, loras: Path, name: str):
    (loras / "folder").mkdir(exist_ok=True)
    (loras / "folder" / "sub.safetensors").write_bytes(
        post(API, prompt=TAG, name="alias of it").content)
    before = files(loras)
    found = bake(action="keep", name=name)
    assert found["state"] == "failed"
    assert found["message"] == "a LoRA of this name is there already; choose another name. Nothing was written"
    assert files(loras) == before


def test_what_the_host_does_not_list_is_in_the_way_all_the_same(bake, loras: Path):
    (loras / "broken.safetensors").symlink_to("nowhere")
    (loras / "folder.safetensors").mkdir()
    try:
        for name in ("broken", "Broken", "folder", "Folder"):
            assert "is there already" in bake(action="keep", name=name)["message"]
    finally:
        (loras / "folder.safetensors").rmdir()
    assert (loras / "broken.safetensors").is_symlink()
    assert not {"Broken.safetensors", "Folder.safetensors"} & names(loras)


@pytest.mark.parametrize("name", ["../new", "/tmp/new", "a\\b", ".new", "a<b", "", "x" * 300])
def test_a_name_with_a_path_is_refused(post, loras: Path, name: str):
    before = files(loras.parent)
    for action in ("keep", "download"):
        answer = post(PAGE, prompt=TAG, action=action, name=name)
        assert answer.status_code == 422 and "name" in answer.text
    assert files(loras.parent) == before


NOTES = {
    "description": "a cat", "sd version": "SD1", "activation text": "mycat", "preferred weight": 0.4,
    "negative text": "dog", "notes": "private", "additional weight": "OUTD",
}  # fmt: skip


def test_picture_and_words_come_along_if_they_are_wanted(bake, loras: Path):
    (loras / "demo.json").write_text(json.dumps(NOTES))
    (loras / "demo2.json").write_text(json.dumps({"activation text": "mydog", "sd version": "SD1"}))
    (loras / "demo2.preview.png").write_bytes(b"picture")
    both = f"{TAG} <lora:demo2:1>"
    assert bake(action="keep", name="with", prompt=both, words=True)["warnings"] == []
    assert json.loads((loras / "with.json").read_text()) == {
        "activation text": "mycat, mydog", "negative text": "dog", "description": "a cat", "preferred weight": 1,
        "sd version": "SD1",
    }  # fmt: skip
    assert (loras / "with.preview.png").read_bytes() == b"picture"
    assert bake(action="keep", name="without", prompt=both)["warnings"] == []
    assert json.loads((loras / "without.json").read_text()) == {"preferred weight": 1}
    assert names(loras) >= {"without.safetensors"} and "without.preview.png" not in names(loras)


def test_picture_and_words_take_the_place_of_no_file(bake, loras: Path):
    (loras / "demo.png").write_bytes(b"picture")
    (loras / "new.png").write_bytes(b"mine")
    (loras / "new.json").write_text("mine, too")
    found = bake(action="keep", name="new", words=True)
    assert (found["state"], found["file"]) == ("done", "new")
    assert found["warnings"] == [f"new.{end} was there already, and is left as it is" for end in ("json", "png")]
    assert ((loras / "new.png").read_bytes(), (loras / "new.json").read_text()) == (b"mine", "mine, too")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"activation text": 5, "sd version": []}', "\xff"])
def test_words_that_cannot_be_read_are_left_out(bake, loras: Path, text: str):
    (loras / "demo.json").write_text(text, encoding="latin-1")
    assert bake(action="keep", name="new", words=True)["warnings"] == []
    assert json.loads((loras / "new.json").read_text()) == {"preferred weight": 1}


def test_a_download_leaves_nothing_in_the_folder(server: Server, session: requests.Session, loras: Path, post):
    before = files(loras)
    job = begin(server, session, action="download", name="new", words=True)
    assert ended(server, session, job)["state"] == "done"
    answers = [session.get(f"{server.url}{PAGE}/file", params={"job": job}, timeout=60) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert load(answers[0].content).keys() == load(post(API, prompt=TAG).content).keys()
    assert files(loras) == before


def test_two_users_bake_at_once(server: Server, session: requests.Session, bake, loras: Path):
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda name: bake(action="keep", name=name), ["same", "Same", "other", "same"])]
    assert sorted(each["state"] for each in found) == ["done", "done", "failed", "failed"]
    made = names(loras) & {"same.safetensors", "Same.safetensors", "other.safetensors"}
    assert len(made) == 2 and "other.safetensors" in made


def busy(server: Server, pool: ThreadPoolExecutor) -> Any:
    """An image that takes a while, for which a baking waits."""
    body = {"prompt": "a cat", "steps": 150, "width": 256, "height": 256, "force_task_id": "task(busy)"}
    making = pool.submit(requests.post, f"{server.url}/sdapi/v1/txt2img", json=body, timeout=600)
    while not requests.get(f"{server.url}/sdapi/v1/progress?skip_current_image=true", timeout=60).json()["progress"]:
        time.sleep(0.02)
    return making


def interrupt(server: Server, making: Any) -> None:
    requests.post(f"{server.url}/sdapi/v1/interrupt", timeout=60)
    assert making.result().status_code == 200


def test_one_that_is_cancelled_leaves_nothing(server: Server, session: requests.Session, loras: Path):
    before = files(loras)
    with ThreadPoolExecutor(1) as pool:
        making = busy(server, pool)
        try:
            jobs = [begin(server, session, action="keep", name=name) for name in ("one", "two")]
            for job in jobs:
                answer = session.post(f"{server.url}{PAGE}/cancel", json={"job": job}, timeout=60)
                assert answer.json()["state"] in ("running", "cancelled")
        finally:
            interrupt(server, making)
    assert [ended(server, session, job)["state"] for job in jobs] == ["cancelled"] * 2
    assert files(loras) == before


def test_whoever_goes_away_is_waited_for_by_nobody(server: Server, session: requests.Session, bake):
    """A client that closes its connection cancels what it asked for: else eight of them would lock out all others."""
    with ThreadPoolExecutor(1) as pool:
        making = busy(server, pool)
        try:
            for _ in range(12):
                with pytest.raises(requests.Timeout):
                    requests.post(server.url + API, json={"prompt": TAG}, timeout=0.5)
            job = begin(server, session, action="look")
        finally:
            interrupt(server, making)
    assert ended(server, session, job)["state"] == "done"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that others reach, without a page, whose API wants a password."""
    arguments = "--nowebui", "--api-auth", "user:secret", "--hide-ui-dir-config"
    with running_server(tmp_path_factory.mktemp("closed"), *arguments) as server:
        login = "user", "secret"
        requests.post(f"{server.url}/sdapi/v1/txt2img", json=SMALL, auth=login, timeout=240).raise_for_status()
        yield server


def test_the_routes_are_behind_the_hosts_api_auth(closed: Server, session: requests.Session):
    for path in (API, f"{API}/look"):
        for login, status in ((None, 401), (("user", "wrong"), 401), (("user", "secret"), 200)):
            answer = session.post(closed.url + path, json={"prompt": TAG}, auth=login, timeout=60)
            assert answer.status_code == status


def test_where_folders_are_hidden_nothing_is_kept(closed: Server, session: requests.Session):
    folder = closed.data / "models" / "Lora"
    before = files(folder)
    place = session.get(f"{closed.url}{PAGE}/place", timeout=60).json()
    assert place == {"may_keep": False, "reason": "this WebUI runs with --hide-ui-dir-config"}
    answer = session.post(closed.url + PAGE, json={"prompt": TAG, "action": "keep", "name": "new"}, timeout=60)
    assert answer.status_code == 403 and "download the file instead" in answer.text
    job = begin(closed, session, action="download", name="new")
    found = ended(closed, session, job)
    assert (found["state"], found["may_keep"]) == ("done", False)
    data = session.get(f"{closed.url}{PAGE}/file", params={"job": job}, timeout=60).content
    assert len(data) == found["size"] and files(folder) == before
