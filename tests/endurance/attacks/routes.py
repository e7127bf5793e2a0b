"""Names that lead elsewhere and bodies of a gigabyte, at a server of its own that other machines reach."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import requests

from lbw.request import bake_routes, live_routes
from tests.endurance.attacks.bodies import GETS, ORDER, PANEL, POSTS
from tests.endurance.attacks.host import ROOT, Host
from tests.endurance.attacks.mutate import NAMES
from tests.endurance.attacks.watch import Limits, Report, Watch, short
from tests.server import Server, running_server

GIGABYTE = 1_000_000_000
CHUNK = b" " * 1_000_000
MOST_MB = 100
"""By how much one such body may raise the most memory that the server has had."""

SECRET = "the content of somebody else's file"
CREDENTIALS = ("me", "secret")
BEHIND_API = ("/lbw/v1/",)
"""What begins paths that ``--api-auth`` stands before."""


def names(data: Path) -> list[str]:
    """Of files that are not ours, or none."""
    secret = data / "secret"
    up = "../" * 8
    return [
        "../secret", "..\\secret", f"{up}etc/passwd", "/etc/passwd", str(secret), f"{secret}.safetensors",
        f"{secret}.json",
        f"../../{secret.name}", "....//secret", "%2e%2e/secret", "..%2fsecret", "secret\0", "demo\0.safetensors",
        "/dev/zero", "/dev/stdin", "/proc/self/environ", "file:///etc/passwd", "CON", "nul.safetensors", "COM1",
        "a" * 5000,
        "~/secret", "$HOME", "DEMO", "demo.safetensors", "demo/", "./demo", ".", "..", "", "/", "\\\\server\\share\\x",
        "C:\\secret", "demo:stream", "｡｡/secret", "\u2025/secret", *NAMES,
    ]  # fmt: skip


def _state(data: Path) -> dict[str, tuple[int, int]]:
    """The files of a folder, and of the extension: who is there, how large, when changed."""
    found = {}
    for folder in (data, ROOT / "scripts"):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.name not in ("server.log",):
                found[str(path)] = path.stat().st_size, path.stat().st_mtime_ns
    return found


class Attack:
    """
    Args:
        server: whom everything is sent to.
        is_closed: whether it has ``--api-auth``.
    """

    def __init__(self, server: Server, watch: Watch, *, is_closed: bool) -> None:
        self.server, self.watch, self.is_closed = server, watch, is_closed
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Connection"] = "close"

    def _peak_mb(self) -> float:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def ask(self, method: str, path: str, **more: Any) -> None:
        shown = f"{method} {path} {short(repr(more), 300)}"
        for credentials in (None, CREDENTIALS) if self.is_closed else (None,):
            answer = self.watch.attempt(
                shown,
                lambda auth=credentials: self.session.request(  # type: ignore[misc]
                    method, self.server.url + path, timeout=60, auth=auth, **more
                ),
            )
            if answer is None:
                continue
            if answer.status_code >= 500:
                self.watch.report.find(f"answered {answer.status_code}", f"{shown} -> {short(answer.text)}")
            if SECRET in answer.text or "root:" in answer.text:
                self.watch.report.find("somebody else's file is told", shown)
            is_refused = answer.status_code in (401, 404, 405, 413, 415, 422)
            if credentials is None and self.is_closed and path.startswith(BEHIND_API) and not is_refused:
                self.watch.report.find("answered without the API's login", f"{shown} -> {answer.status_code}")

    def with_name(self, name: str) -> None:
        for path, key in GETS.items():
            self.ask("GET", path, params={key: name.encode(errors="replace")})
        tag = f"<lora:{name}:1>"
        self._post("/lbw/v1/parse", {"prompt": tag})
        self._post(f"{bake_routes.PATH}/look", {"prompt": tag})
        self._post(bake_routes.PATH, {**ORDER, "prompt": tag, "name": name})
        for action in ("keep", "download"):
            body = {**ORDER, "prompt": "<lora:demo:1>", "name": name, "action": action}
            self._post(bake_routes.PAGE_PATH, body)
        self._post(f"{PANEL}/own", {"name": name, "in_tag": "OUTD", "weights": "OUTS"})
        self._post(f"{PANEL}/strengths", {"name": name, "theme": "light"})
        self._post(f"{PANEL}/file", {"file": name, "step": "save", "text": "A:1"})
        self._post(live_routes.PATH, {"id_task": name[:200], "moves": []})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self.ask("POST", path, data=json.dumps(body), headers={"Content-Type": "application/json"})

    def gigabyte(self, path: str, *, is_announced: bool) -> None:
        """A body that has not an end in sight, in chunks or with its length before it."""
        before, sent = self._peak_mb(), 0
        headers = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        headers += f"Content-Length: {GIGABYTE}\r\n\r\n" if is_announced else "Transfer-Encoding: chunked\r\n\r\n"
        answer = b""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as line:
            with suppress(OSError):  # refused while it is sent
                line.sendall(headers.encode())
                for chunk in self._chunks(is_announced):
                    if select.select([line], [], [], 0)[0]:
                        break
                    line.sendall(chunk)
                    sent += len(chunk)
            with suppress(OSError):
                answer = line.recv(1000)
        told = answer.partition(b"\r\n")[0].decode("latin-1")
        grown = self._peak_mb() - before
        self.watch.report.tried += 1
        how = "announced" if is_announced else "in chunks"
        shown = f"{path}, {how}: {sent / 1e6:.0f} MB sent, {told!r}, {grown:.0f} MB more"
        print(f"routes: {shown}", flush=True)
        if grown > MOST_MB:
            self.watch.report.find("a body of a gigabyte is held in memory", shown)
        if b" 413 " not in answer and b" 401 " not in answer:
            self.watch.report.find("a body of a gigabyte is not refused", shown)

    @staticmethod
    def _chunks(is_announced: bool) -> Iterator[bytes]:
        for _ in range(GIGABYTE // len(CHUNK)):
            yield CHUNK if is_announced else f"{len(CHUNK):x}\r\n".encode() + CHUNK + b"\r\n"


def _attack(watch: Watch, data: Path, count: int, choice: Random, *arguments: str) -> None:
    """A server with some arguments, and all that is tried on it."""
    data.mkdir()
    (data / "secret").write_text(SECRET)
    (data / "secret.json").write_text(json.dumps({"additional weight": SECRET}))
    (data / "secret.safetensors").write_text(SECRET)
    with running_server(data, *arguments) as server:
        attack = Attack(server, watch, is_closed="--api-auth" in arguments)
        before = _state(data)
        for path in POSTS if Limits.is_timed else choice.sample([*POSTS], 2):
            for is_announced in (True, False):
                attack.gigabyte(path, is_announced=is_announced)
        every = names(data)
        choice.shuffle(every)
        for number in Limits.numbers(count):
            attack.with_name(every[number % len(every)] if number < len(every) else "".join(choice.choices(every, k=2)))
        _wait_for_bakings(attack)
        after = _state(data)
        lora = str(data / "models" / "Lora") + os.sep
        ours = lora, str(ROOT / "scripts" / "lbwpresets"), str(ROOT / "scripts" / "elempresets")
        for path in sorted({*before} | {*after}):
            is_new_network = path.endswith(".safetensors") and "--listen" in arguments
            if before.get(path) != after.get(path) and (is_new_network or not path.startswith(ours)):
                watch.report.find("a file that is not ours, or none may keep, was written", path)
        log = server.log.read_text(errors="replace")
        if "Traceback" in log:
            watch.report.find("an error in the server's log", short(log[log.rindex("Traceback") :], 2000))


def _wait_for_bakings(attack: Attack) -> None:
    """Until all that was begun is over: one that is begun now comes behind it."""
    url, headers = attack.server.url + bake_routes.PAGE_PATH, {"Content-Type": "application/json"}
    body = json.dumps({"prompt": "<lora:demo:1>", "action": "look"})
    for _ in range(600):
        answer = attack.session.post(url, data=body, headers=headers, timeout=60)
        if answer.status_code == 200:
            break
        time.sleep(0.2)
    job = answer.json()["job"]
    for _ in range(600):
        if attack.session.get(url, params={"job": job}, timeout=60).json()["state"] not in ("waiting", "running"):
            return
        time.sleep(0.2)
    attack.watch.report.find("bakings do not end", "")


def run(host: Host, count: int, seed: int) -> Report:
    watch = Watch("routes", limit_ms=2000, limit_mb=300, hang_s=60)
    choice = Random(seed)
    tried = max(count // 2, 1)
    _attack(watch, host.data / "open", tried, choice)
    _attack(watch, host.data / "closed", tried, choice, "--listen", "--api-auth", ":".join(CREDENTIALS))
    return watch.end()
