"""What baking takes of a running WebUI with its API: time, memory, GPU memory, cold and warm.

    python -m tests.bench.bake_real_host --tags "<lora:a:0.8:lbw=OUTALL>" [--rank N] [--dtype fp16] [--url URL]

``--tags`` may be given several times. Memory is what the host says of itself (``/sdapi/v1/memory``), asked for while it
works: how far it goes beyond what it was before. Files that are mapped count, as the host counts them.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any


def _ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=600)


def _memory(url: str) -> tuple[float, float]:
    """MB of the host's process, and of the GPU's memory that it has in use."""
    with _ask(f"{url}/sdapi/v1/memory") as answer:
        found = json.load(answer)
    cuda = found.get("cuda", {})
    used = cuda.get("active", {}).get("current", 0) if isinstance(cuda, dict) else 0
    return found["ram"].get("used", 0) / 1e6, used / 1e6


class Watch:
    """The most that a host's memory is while the block runs."""

    def __init__(self, url: str) -> None:
        self._url, self._is_over = url, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.before = self.most = (0.0, 0.0)

    def __enter__(self) -> Watch:
        self.before = self.most = _memory(self._url)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(0.05):
            ram, gpu = _memory(self._url)
            self.most = max(self.most[0], ram), max(self.most[1], gpu)

    @property
    def grown(self) -> tuple[float, float]:
        return self.most[0] - self.before[0], self.most[1] - self.before[1]


def bake(url: str, body: dict[str, Any]) -> tuple[float, float]:
    """Seconds, and MB of the file."""
    begin, size = time.perf_counter(), 0
    with _ask(f"{url}/lbw/v1/bake", body) as answer:
        while chunk := answer.read(1 << 22):
            size += len(chunk)
    return time.perf_counter() - begin, size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("--tags", action="append", required=True)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--runs", type=int, default=2, help="the first one is cold")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'':60}{'seconds':>9}{'file MB':>9}{'memory MB':>11}{'GPU MB':>9}")
    for tags in options.tags:
        body = {"prompt": tags, "name": "baked", "rank": options.rank, "dtype": options.dtype}
        for run in range(options.runs):
            with Watch(options.url) as watch:
                seconds, size = bake(options.url, body)
            rows.append({"tags": tags, "rank": options.rank, "run": run, "s": seconds, "file_mb": size,
                         "memory_mb": watch.grown[0], "gpu_mb": watch.grown[1]})  # fmt: skip
            print(f"{tags[:56]:60}{seconds:9.2f}{size:9.0f}{watch.grown[0]:11.0f}{watch.grown[1]:9.0f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
