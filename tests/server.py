"""Starts the stand-in WebUI in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

STAND_IN = Path(__file__).resolve().parent / "webui"
GRADIO4_PAGE = STAND_IN.parent / "gradio4" / "page.py"
GRADIO4_PYTHON = STAND_IN.parents[1] / ".venv-gradio4" / "bin" / "python"
START_LIMIT_S = 240


@dataclass
class Server:
    """A running WebUI."""

    url: str
    port: int
    data: Path
    log: Path
    process: subprocess.Popen
    ready_path: str = "/lbw/v1/blocks"
    """A page is served before its API has all routes, and ours are the last."""
    ready_line: str = ""
    """What is in the log when it has started: some hosts do not survive a request before that."""

    def wait_until_ready(self, path: str | None = None) -> None:
        """Wait until a path answers; of a WebUI without the extension, it has to be another one."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.ready_line in self.log.read_text() and self._answers(path or self.ready_path):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the WebUI did not start:\n{self.log.read_text()[-5000:]}")

    def _answers(self, path: str) -> bool:
        try:
            return requests.get(f"{self.url}{path}", timeout=5).status_code in (200, 401)
        except (requests.ConnectionError, requests.Timeout):
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


DEMO_FILES = "WEBUI_DEMO_FILES"
"""Names a folder, for the length of a run of tests, for demo models that are written to many data folders."""


def write_demo(data: Path, *arguments: str) -> None:
    """Write the demo models that a data folder lacks. They are the same each time, so a run of tests makes them once.

    Args:
        arguments: of ``make_demo.py``.
    """
    if DEMO_FILES not in os.environ or "--trained" in arguments:
        _make_demo(data, *arguments)
        return
    kept = Path(os.environ[DEMO_FILES]) / "".join(["demo", *arguments])
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder, "made")
            _make_demo(made, *arguments)
            try:
                made.rename(kept)
            except OSError:
                if not kept.exists():  # by another process, which has been faster
                    raise
    for source in kept.rglob("*.safetensors"):
        target = data / source.relative_to(kept)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _make_demo(data: Path, *arguments: str) -> None:
    command = [sys.executable, STAND_IN / "make_demo.py", "--data-dir", data, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def running_server(
    data: Path, *arguments: str, ready_path: str = Server.ready_path, models: tuple[str, ...] = ()
) -> Iterator[Server]:
    """A WebUI with demo models, whose data folder is `data`; with page and API, unless the arguments say otherwise.

    Args:
        models: arguments of ``make_demo.py``.
    """
    write_demo(data, *models)
    port = free_port()
    command = [sys.executable, STAND_IN / "webui.py", "--api", "--port", str(port), "--data-dir", data, *arguments]
    with running_command(command, port, data, ready_path) as server:
        yield server


@contextmanager
def running_gradio4_page(data: Path) -> Iterator[Server]:
    """A page of gradio 4 with nothing but the panel, by the Python that has this gradio."""
    port = free_port()
    with running_command([GRADIO4_PYTHON, GRADIO4_PAGE, "--port", str(port)], port, data, "/") as server:
        yield server


@contextmanager
def running_command(
    command: list,
    port: int,
    data: Path,
    ready_path: str = Server.ready_path,
    *,
    ready_line: str = "",
    folder: Path | None = None,
) -> Iterator[Server]:
    """Whatever serves a WebUI at ``port``; it starts in ``folder``, or else in its data folder."""
    log = data / "server.log"
    env = {
        **os.environ, "NO_PROXY": "127.0.0.1", "PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": str(data / "gradio"),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=folder or data)
    server = Server(f"http://127.0.0.1:{port}", port, data, log, process, ready_path, ready_line)
    try:
        server.wait_until_ready()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
