"""What tests.endurance.hostile has found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message

from lbw.bake.host import BakeError
from lbw.bake.sources import Source
from lbw.files import head, origin
from lbw.request import live_routes, routes
from lbw.request.preview import preview
from lbw.request.refusals import LARGEST_BODY
from lbw.request.route_models import ParseRequest
from lbw.tags import own_default, presets, slips
from lbw.tags.library import Library
from lbw.tags.limits import LONGEST_MESSAGE, MOST_MESSAGES, note
from lbw.tags.prompt import parse
from lbw.tags.saving import save, version_of
from tests.backend import Backend

PROJECT = Path(__file__).resolve().parents[2]
LAYERS = ("diffusion_model_middle_block_1_transformer_blocks_0_attn1_to_q",)
NOT_FILES = ("pipe", "folder", "device")


def put(path: Path, kind: str) -> Path:
    """Something that is no file with data."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path


def test_a_name_with_half_a_character_has_random_values_as_any_other():
    library, messages = Library.read("", "", ""), []
    text = "<lora:\ud800:1:lbw=" + ",".join(["R"] * 17) + ">"
    first, second = (preview(text, library, Backend(LAYERS), messages.append, steps=1) for _ in range(2))
    assert first.plan.weights == second.plan.weights and len(set(first.plan.weights[0][0].values)) > 10
    assert messages == []


def test_only_some_unknown_keys_of_a_tag_are_compared_with_the_known(monkeypatch: pytest.MonkeyPatch):
    compared: list[str] = []
    monkeypatch.setattr(slips, "get_close_matches", lambda word, *_args, **_named: compared.append(word) or [])
    slips._nearest_key.cache_clear()
    messages: list[str] = []
    parse(["a", *(f"stpo{number}q=1" for number in range(1000)), f"{'k' * 5000}=1"], messages.append)
    slips._nearest_key.cache_clear()
    assert len(compared) == 5 and len(messages) == 1001
    assert all("there is no key" in message for message in messages)


def test_what_a_message_repeats_of_a_tag_is_short():
    messages: list[str] = []
    parse(["a", "unet", ",".join(["1@0"] * 5000)], messages.append)
    assert messages and max(map(len, messages)) < 400


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_messages_have_the_same_order_in_all_processes(seed: str):
    code = "from lbw.tags.prompt import parse; parse(['a', 'in=x', 'mid=y', 'out=z'], print)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PROJECT / "scripts")},
    ).stdout  # fmt: skip
    assert told.index("in=x") < told.index("mid=y") < told.index("out=z")


def test_messages_are_told_once_each_and_not_without_end():
    known: dict[str, None] = {}
    told = [note(f"{number % 200} {'x' * 5000}", known) for number in range(400)]
    assert [*filter(None, told)] == [*known] and len(known) == MOST_MESSAGES + 1
    assert told[0] is not None and len(told[0]) <= LONGEST_MESSAGE + 10
    assert note("0 " + "x" * 5000, dict.fromkeys([*known][:MOST_MESSAGES])) is None
    assert told[MOST_MESSAGES] == "there are more warnings, which are left out" and not any(told[MOST_MESSAGES + 1 :])


def test_an_answer_has_no_more_warnings_than_an_image():
    prompt = "".join(f"<lora:a:1:x{number}=1>" for number in range(90))
    answer = routes.parse_prompt(ParseRequest(prompt=prompt), Backend(LAYERS))
    assert len(answer.tags) == 90 and len(answer.warnings) == MOST_MESSAGES + 1


def network_file(path: Path, content: str, size: int | None = None) -> Path:
    data = content.encode()
    path.write_bytes((len(data) if size is None else size).to_bytes(8, "little") + data + b"\0" * 16)
    return path


def test_a_shape_without_end_is_no_shape(tmp_path: Path):
    entry = '{"x": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}'
    assert head.read(str(network_file(tmp_path / "a", entry % "1"))) is not None
    assert head.read(str(network_file(tmp_path / "b", entry % "1e999"))) is None


def test_a_name_that_is_longer_than_any_says_nothing_of_a_model():
    sound = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight"
    shapes = {sound: (4, 320), "down_blocks_1_" * 100_000: (4, 320), "x" * 301 + ".lora_down.weight": (4, 320)}
    assert origin.of_head(head.Head(shapes, {})) == origin.of_head(head.Head({sound: (4, 320)}, {}))


def test_a_head_that_would_fill_the_memory_is_not_read(tmp_path: Path):
    lists = '{"__metadata__": {"x": [%s[]]}}'
    assert head.read(str(network_file(tmp_path / "a", lists % ("[]," * 1000)))) is not None
    assert head.read(str(network_file(tmp_path / "b", lists % ("[]," * 6_000_000)))) is None


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_network_file_is_not_waited_for(tmp_path: Path, kind: str):
    path = str(put(tmp_path / "x.safetensors", kind))
    assert head.read(path) is None
    with pytest.raises(BakeError, match=r"x: expected a \.safetensors file that can be read"):
        Source("x", None, path)


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_file_beside_a_lora_is_not_waited_for(tmp_path: Path, kind: str):
    path = put(tmp_path / "x.json", kind)
    assert own_default.read(path) == ""
    with pytest.raises(OSError, match="no ordinary file"):
        own_default.write(path, "OUTD")
    assert not path.is_file()


def test_what_is_too_large_beside_a_lora_is_left_alone(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"notes": "x" * (1 << 20)}))
    before = path.read_bytes()
    assert own_default.read(path) == ""
    with pytest.raises(OSError, match="more than"):
        own_default.write(path, "OUTD")
    assert path.read_bytes() == before


def test_lists_in_lists_beside_a_lora_are_left_alone(tmp_path: Path):
    """As deep as they can be read, and no deeper than they can be written."""
    path = tmp_path / "x.json"
    for levels in range(100, 1000, 50):
        path.write_text('{"notes": ' + "[" * levels + "]" * levels + "}")
        before = path.read_bytes()
        try:
            own_default.write(path, "OUTD")
        except ValueError as error:
            assert "left alone" in str(error) and path.read_bytes() == before
        else:
            assert own_default.read(path) == "OUTD"


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_preset_file_is_told_and_not_waited_for(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
):
    path = put(tmp_path / f"{kind}.txt", kind)
    for _ in range(2):
        assert presets.read_if_possible(path, "A:1\n") == "A:1\n"
    assert caplog.text.count(f"{kind}.txt cannot be read") == 1
    with pytest.raises(OSError, match="no ordinary file"):
        save(path, "A:1\n", "B:1\n", None, presets.parse_joined_presets)
    assert not path.is_file()


def test_half_a_character_has_a_version_and_is_not_saved(tmp_path: Path):
    assert version_of("\ud800") != version_of("\udfff")
    with pytest.raises(ValueError, match="half of a character"):
        save(tmp_path / "x", "", "\ud800", None, presets.parse_joined_presets)
    assert not (tmp_path / "x").exists()


def test_a_preset_file_that_is_a_link_stays_one(tmp_path: Path):
    shared = tmp_path / "shared.txt"
    shared.write_text("A:1\n")
    path = tmp_path / "presets.txt"
    path.symlink_to(shared)
    save(path, "", "B:1\n", version_of("A:1\n"), presets.parse_joined_presets)
    assert path.is_symlink() and shared.read_text() == "B:1\n"


def test_one_preset_more_leaves_the_other_lines_as_they_are():
    """Also where they end with what is a line's end to Python alone."""
    text = "# a\u2028b\x0bc\x85\nA:1,1\x0c\n\nlast\x0b"
    ones = ",".join(["1"] * 17)
    with_one = presets.with_preset(text, "B", ones)
    assert with_one == f"{text}\nB:{ones}\n"
    zeros = ones.replace("1", "0")
    assert presets.with_preset(with_one, "B", zeros) == f"{text}\nB:{zeros}\n"


def test_a_body_that_says_that_it_is_too_large_is_not_read():
    client = client_of_live()
    answer = client.post(live_routes.PATH, content=b" " * (LARGEST_BODY + 1), headers=JSON)
    assert answer.status_code == 413 and "expected at most" in answer.text
    assert client.post(live_routes.PATH, content=b" " * LARGEST_BODY, headers=JSON).status_code == 422


def test_of_a_body_that_does_not_say_its_size_no_more_is_read_than_may_be():
    sent = 0

    def chunks() -> Iterator[bytes]:
        yield b" " * LARGEST_BODY
        yield b" "

    assert client_of_live().post(live_routes.PATH, content=chunks(), headers=JSON).status_code == 413

    async def receive() -> Message:
        nonlocal sent
        sent += 1_000_000
        return {"type": "http.request", "body": b" " * 1_000_000, "more_body": sent < 2 * LARGEST_BODY}

    answers: list[Any] = []

    async def send(message: Message) -> None:
        answers.append(message)

    import anyio

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": live_routes.PATH, "raw_path": live_routes.PATH.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "client": ("x", 1), "server": ("x", 1),
    }  # fmt: skip
    anyio.run(client_of_live().app, scope, receive, send)
    assert answers[0]["status"] == 413 and sent <= LARGEST_BODY + 1_000_000


def client_of_parse() -> TestClient:
    app = FastAPI()
    app.post("/sdapi/v1/txt2img")(lambda: None)
    routes.add(app, Backend(LAYERS))  # type: ignore[arg-type]
    return TestClient(app)


@pytest.mark.parametrize("values", ["9" * 400, "[%s]" % ("9" * 400), "1e999", "-" + "9" * 101])
@pytest.mark.parametrize("key", ["sigmas", "steps", "seed"])
def test_a_number_that_is_too_large_for_a_number_is_refused(key: str, values: str):
    body = f'{{"prompt": "<lora:a:1>", "{key}": {values}}}'
    assert client_of_parse().post("/lbw/v1/parse", content=body, headers=JSON).status_code == 422


@pytest.mark.parametrize("ratio", ["0..5", "0.5.5", "."])
def test_a_number_of_a_rule_that_is_none_is_told_in_our_words(ratio: str):
    body = {"prompt": f"<lora:a:1:lbwe=M00:attn:{ratio}>"}
    (warning,) = client_of_parse().post("/lbw/v1/parse", json=body).json()["warnings"]
    assert f"'{ratio}' is not a number from -1000000 to 1000000" in warning


def test_half_a_character_is_repeated_as_it_came():
    body = '{"prompt": "<lora:\\ud800:1:lbw=\\udfff>"}'
    answer = client_of_parse().post("/lbw/v1/parse", content=body, headers=JSON)
    assert answer.status_code == 200 and answer.json()["tags"][0]["name"] == "\ud800"
    assert any("\udfff" in warning for warning in answer.json()["warnings"])


JSON = {"Content-Type": "application/json"}


def client_of_live() -> TestClient:
    app = FastAPI()
    live_routes.add(app, Backend(LAYERS), None)
    return TestClient(app)
