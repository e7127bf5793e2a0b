"""Hostile JSON for each of our routes, and for always-on arguments, as the host's own API gets them."""

from __future__ import annotations

import json
import time
from functools import partial
from random import Random
from typing import Any
from urllib.parse import quote

from fastapi import HTTPException
from starlette.testclient import TestClient

from lbw.request import arguments, bake_routes, live_routes
from lbw.request.arguments import ARGUMENTS, TITLE, ArgumentError
from lbw.request.check import accept_script_name, check_arguments
from tests.endurance.attacks.host import Host
from tests.endurance.attacks.mutate import NAMES, Tags, deep, json_value
from tests.endurance.attacks.watch import Limits, Report, Watch, listening, short

LIMIT_MS, LIMIT_MB = 3000.0, 300.0
GENERATED = 500
"""One always-on body in so many is made an image of."""
COMPARED = 1000
"""After so many requests, one that is always the same has to be answered as at first."""
BAKING_S = 60
"""As long as a file may take that is baked meanwhile."""

PANEL = "/internal/lbw/panel"  # its module needs the host
ONES = ",".join(["1"] * 17)
ORDER = {
    "prompt": "<lora:demo:1:lbw=OUTD>", "name": "new", "rank": None, "dtype": "fp16", "step": 0, "steps": 20, "seed": 0,
    "presets": "", "elements": "", "default_preset": "", "words": False,
}  # fmt: skip
PAGE = {
    "prompt": "<lora:demo:1>",
    "steps": 20,
    "sampler": "Euler",
    "denoising": 0.5,
    "theme": "dark",
    "hires": {"steps": 5, "sampler": "", "prompt": ""},
}
POSTS: dict[str, dict[str, Any]] = {
    "/lbw/v1/parse": {
        "prompt": "<lora:demo:1:lbw=OUTD:stop=5>", "steps": 20, "sigmas": [14.6, 1.0], "hires": False,
        "sampler": "Euler", "asked_steps": 20, "first_steps": 20, "seed": 1, "presets": f"A:{ONES}", "elements": "",
        "default_preset": "A",
    },
    live_routes.PATH: {"id_task": "task(x)", "moves": [{"index": 0, "strength": 1.0}, {"name": "a", "strength": 0}]},
    live_routes.PAGE_PATH: {"id_task": "task(x)", "moves": [{"index": 0, "name": None, "strength": 1.0}]},
    bake_routes.PATH: ORDER, f"{bake_routes.PATH}/look": ORDER,
    bake_routes.PAGE_PATH: {**ORDER, "action": "look"}, f"{bake_routes.PAGE_PATH}/cancel": {"job": "x"},
    f"{PANEL}/file": {"file": "presets", "step": "check", "text": f"A:{ONES}", "loaded": None},
    f"{PANEL}/add": {"text": "", "weights": ONES, "name": "A"},
    f"{PANEL}/hits": {"text": "A:M00::1"},
    f"{PANEL}/own": {"name": "demo", "in_tag": "OUTD", "weights": None},
    f"{PANEL}/networks": {"renewed": False},
    f"{PANEL}/strengths": {"name": "demo", "theme": "light"},
    f"{PANEL}/schedule": {"asked": json.dumps(PAGE), "presets": "", "elements": "", "default_preset": ""},
}  # fmt: skip
GETS = {
    "/lbw/v1/blocks": "model", "/lbw/v1/own_default": "name", "/lbw/v1/strengths": "name",
    "/lbw/v1/strengths.png": "name",
    live_routes.PATH: "id_task", live_routes.PAGE_PATH: "id_task", bake_routes.PAGE_PATH: "job",
    f"{bake_routes.PAGE_PATH}/file": "job", f"{bake_routes.PAGE_PATH}/picture.png": "job",
}  # fmt: skip
SLOW = (
    bake_routes.PATH,
    f"{bake_routes.PATH}/look",
    bake_routes.PAGE_PATH,
    f"{PANEL}/strengths",
    f"{PANEL}/schedule",
    "/lbw/v1/strengths",
    "/lbw/v1/strengths.png",
)
"""Make a file or a picture where nothing is wrong, so that they are asked more rarely."""
RAW = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"null",
    b"5",
    b'"',
    b"{}{}",
    b"\xef\xbb\xbf{}",
    b'{"prompt": "a", "prompt": "b"}',
    b'{"steps": ' + b"9" * 5000 + b"}",
    b"NaN",
    b"{'a': 1}",
    b'{"\\ud800": 1}',
)
TYPES = (
    "application/json",
    "application/json",
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonx",
    "",
)


def encoded(value: Any) -> bytes:
    """JSON of any value, halves of characters and lists in lists too deep for Python's own writer among them."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b'{"prompt": ' + b"[" * 985 + b"]" * 985 + b"}"


class Bodies:
    """
    Args:
        choice: of all that is left to chance.
    """

    def __init__(self, choice: Random) -> None:
        self.choice = choice
        self.tags = Tags(choice)

    def _text(self) -> str:
        texts = (
            self.tags.next(),
            self.tags.next(),
            "",
            "x" * 1_000_001,
            "\ud800",
            "\x00",
            f"A:{ONES}\n" * 20,
            "A:" * 3000,
            self.choice.choice(NAMES),
            "<lora:demo:1>" * 150,
            "\n" * 5000,
        )
        return self.choice.choice(texts)

    def _value(self, value: Any) -> Any:
        chance = self.choice.random()
        if isinstance(value, dict) and chance < 0.8:
            return self.changed(value)
        if isinstance(value, list) and value and chance < 0.7:
            found = [self._value(each) for each in value[:30]]
            return found * self.choice.choice((1, 1, 20)) if len(encoded(found)) < 10_000 else found
        if isinstance(value, str) and chance < 0.6:
            return self._text()
        if isinstance(value, int) and chance < 0.4:
            return self.choice.choice((0, -1, 1, 10_000, 10_001, 2**63, 2**63 + 1, 1e999, float("nan"), "5", 1.5))
        return json_value(self.choice)

    def changed(self, body: dict[str, Any]) -> dict[str, Any]:
        """A valid object with some values of other kinds, or other keys."""
        found = dict(body)
        for _ in range(self.choice.choice((1, 1, 1, 2, 4))):
            key = self.choice.choice([*found] or ["x"])
            kind = self.choice.random()
            if kind < 0.8 and key in found:
                found[key] = self._value(found[key])
            elif kind < 0.9:
                found.pop(key, None)
            else:
                found[self.choice.choice(NAMES) or "extra"] = json_value(self.choice)
        return found

    def post(self, valid: dict[str, Any]) -> bytes:
        if self.choice.random() < 0.05:
            return self.choice.choice(RAW)
        body: Any = self.changed(valid)
        if self.choice.random() < 0.03:
            body = self.choice.choice((json_value(self.choice), [body], deep(980), {"prompt": deep(975)}))
        if isinstance(body, dict) and "asked" in body and self.choice.random() < 0.8:
            body["asked"] = encoded(self.changed(PAGE)).decode()
        return encoded(body)

    def always_on(self) -> Any:
        """A request for an image with arguments of ours."""
        named = {argument.name: argument.default for argument in ARGUMENTS}
        args = self.choice.choice((
            [self.changed(named)], [self._value(value) for value in named.values()], [json_value(self.choice)],
            json_value(self.choice), [self.changed({"pasted": '{"presets": "A:1", "values": "a:1", "seed": "1"}'})],
        ))  # fmt: skip
        title = self.choice.choice((TITLE, TITLE, TITLE.lower(), TITLE.upper()))
        body: dict[str, Any] = {"prompt": self.tags.next(), "seed": 1, "steps": 1, "width": 64, "height": 64}
        if self.choice.random() < 0.2:
            return {**body, "script_name": self.choice.choice((TITLE, json_value(self.choice))), "script_args": args}
        given = self.choice.choice(({"args": args}, {"args": args}, {"args": args}, json_value(self.choice)))
        return {
            **body,
            "alwayson_scripts": self.choice.choice(({title: given}, {title: given}, json_value(self.choice))),
        }


def _check(content: bytes) -> None:
    """What is done with a request for an image before the host begins it, and then with its arguments."""
    try:
        body = json.loads(content)
    except RecursionError:
        return  # the host answers what it cannot read
    accept_script_name(body)
    check_arguments(body)
    scripts = body.get("alwayson_scripts")
    for name, given in scripts.items() if isinstance(scripts, dict) else ():
        if name.lower() == TITLE.lower():
            warnings: list[str] = []
            arguments.parse(given.get("args", []), warnings.append)
            for message in warnings:
                assert "expected" in message and len(message) < 1500, message


def _can_be_repeated(content: bytes) -> bool:
    """Whether the host can write in its answer, as it does, what it was asked: it has no halves of characters, and no
    numbers that JSON has not."""
    try:
        json.dumps(json.loads(content), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


class Client:
    """
    Args:
        host: what is asked, in this process.
    """

    def __init__(self, host: Host, watch: Watch) -> None:
        self.client, self.watch = TestClient(host.app()), watch

    def _look_at(self, answer: Any, shown: str) -> None:
        if answer is None:
            return
        if answer.status_code >= 500 and answer.status_code != 507:
            self.watch.report.find(f"answered {answer.status_code}", f"{shown} -> {short(answer.text)}")
        if 400 <= answer.status_code < 500 and not answer.text.strip():
            self.watch.report.find("a refusal without a word", shown)

    def post(self, path: str, body: bytes, kind: str = "application/json") -> Any:
        shown = f"{path} {kind} {short(body)}"
        answer = self.watch.attempt(shown, lambda: self.client.post(path, content=body, headers={"Content-Type": kind}))
        self._look_at(answer, shown)
        return answer

    def get(self, path: str, key: str, value: str) -> None:
        query = quote(value, errors="surrogatepass")
        shown = f"{path}?{key}={short(query)}"
        self._look_at(self.watch.attempt(shown, lambda: self.client.get(f"{path}?{key}={query}")), shown)


def run(host: Host, count: int, seed: int) -> Report:
    watch = Watch("bodies", limit_ms=LIMIT_MS, limit_mb=LIMIT_MB, hang_s=60)
    choice = Random(seed)
    bodies = Bodies(choice)
    image = {"prompt": "a red cat <lora:demo:1>", "seed": 1, "steps": 1, "width": 64, "height": 64}

    def same() -> tuple[Any, Any]:
        answer = client.post("/sdapi/v1/txt2img", encoded(image)).json()
        for _ in range(BAKING_S):
            parsed = client.post("/lbw/v1/parse", encoded(POSTS["/lbw/v1/parse"])).json()
            if all(tag["zero_blocks"] is not None for tag in parsed["tags"]):
                break
            time.sleep(1)  # another request's file is being baked, and nothing is read beside it
        return parsed, answer["images"]

    with listening() as errors:
        client = Client(host, watch)
        with client.client:
            wanted = same()
            for number in Limits.numbers(count):
                kind = choice.random()
                if kind < 0.4:
                    body = encoded(bodies.always_on())
                    watch.attempt(f"args {short(body)}", partial(_check, body), expected=(HTTPException, ArgumentError))
                    if number % GENERATED == 0 and _can_be_repeated(body):
                        client.post("/sdapi/v1/txt2img", body)
                elif kind < 0.9:
                    path = choice.choice([*POSTS])
                    if path not in SLOW or choice.random() < 0.05:
                        client.post(path, bodies.post(POSTS[path]), choice.choice(TYPES))
                else:
                    path = choice.choice([*GETS])
                    client.get(path, GETS[path], choice.choice((*NAMES, bodies.tags.next()[:500])))
                if number % COMPARED == COMPARED - 1:
                    if same() != wanted:
                        watch.report.find("something stays in force for the next request", f"request {number}")
                    print(f"bodies: {number + 1}, {len(watch.report.findings)} findings", flush=True)
            if same() != wanted:
                watch.report.find("something stays in force for the next request", "at the end")
    for line in errors.lines:
        watch.report.find(f"an error in the log: {short(line, 100)}", line)
    return watch.end()
