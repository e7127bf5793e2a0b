"""Starts the stand-in WebUI in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

STAND_IN = Path(__file__).resolve().parent / "webui"
START_LIMIT_S = 120


@dataclass
class Server:
    """A running WebUI."""

    url: str
    port: int
    data: Path
    log: Path
    process: subprocess.Popen

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/lbw/v1/blocks", timeout=5).status_code in (200, 401):
                    return  # a page is served before its API has all routes, and ours are the last
            except (requests.ConnectionError, requests.Timeout):
                pass
            time.sleep(0.2)
        raise RuntimeError(f"the WebUI did not start:\n{self.log.read_text()[-5000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_server(data: Path, *arguments: str) -> Iterator[Server]:
    """A WebUI with demo models, whose data folder is `data`; with page and API, unless the arguments say otherwise."""
    log = data / "server.log"
    port = free_port()
    env = {**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": str(data / "gradio")}
    subprocess.run([sys.executable, STAND_IN / "make_demo.py", "--data-dir", data], check=True, capture_output=True)
    command = [sys.executable, STAND_IN / "webui.py", "--api", "--port", str(port), "--data-dir", data, *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=data)
    server = Server(f"http://127.0.0.1:{port}", port, data, log, process)
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
