"""What LoRAs cost in a real WebUI, in time and in memory, and whether the strengths in its weights are right.

    python -m tests.bench.real_host --url http://127.0.0.1:7860 --loras FOLDER --extension ours [--json FILE]

The WebUI has been started for this run, on this machine, with its API, with a copy of ``tests/bench/host_extension``
in its folder of extensions, and with this extension (``ours``), with the original (``original``) or with none of them
(``none``)::

    cp -r tests/bench/host_extension WEBUI/extensions/lbw-bench
    CAP_GIB=8 python launch.py --api --medvram --ckpt MODEL

``CAP_GIB`` makes its GPU look and behave like one with so much memory, as far as torch goes; a real one of that size
has some hundred MB less, which the driver and the desktop take. ``FOLDER`` is the one where the WebUI finds its LoRA
files; it holds kohya's for the model in use: three named ``*r32a``, ``*r32b``, ``*r32c`` and one named ``*r128``, for
the same layers.

``before``: from the request to the first step. ``first step +``, ``worst step +``: how much longer than the usual step
these are. ``switch``: the longest that the extensions' callbacks take in a step behind the first. ``peak``, ``held``:
the GPU memory that torch has allocated, the model included, at most and at the end. ``wrong``: how often a strength was
not what the tag says. ``not pristine``: layers that differ from the checkpoint after a generation without LoRAs. Times
are in ms, memory in MB. The file has also ``step_times``: how long each step of a case's last run took, the first one
from the begin of the pass. Needs nothing beside Python's standard library.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

PROMPT = "a red cat on a wooden table"
TOLERANCE = 0.02
"""Strengths are measured from 16-bit weights, which hold them no more exactly."""


@dataclass(frozen=True)
class Case:
    """A request: its LoRA tags, what else it asks for, and the strengths of each LoRA, step by step."""

    name: str
    tags: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, list[float]] = field(default_factory=dict)
    extensions: tuple[str, ...] = ("ours", "original", "none")
    repeat: int = 1
    is_played: bool = False
    """Whether a hand moves the strength of the first tag all the time while the image is made."""


class Client:
    """Talks to the WebUI."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def about(self) -> Any:
        """What is measured."""
        try:
            answer = self.get("/lbw-bench/about")
        except OSError as error:
            raise SystemExit(f"no WebUI answers at {self._url}: {error}") from error
        if "error" in answer:
            raise SystemExit(f"the WebUI at {self._url} lacks the extension tests/bench/host_extension: {answer}")
        return answer

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(self._url + path))

    def post(self, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(self._url + path, json.dumps(body).encode(), headers))

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            with self._opener.open(request, timeout=600) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return {"error": f"HTTP {error.code}: {error.read().decode(errors='replace')[:300]}"}


def cases(steps: int, loras: dict[str, str], one: str) -> Iterator[Case]:
    """Those of the table. ``one`` is how strength 1 is written for both parts of the model."""
    a, b, c, large = (loras[tag] for tag in ("r32a", "r32b", "r32c", "r128"))
    k = steps // 4
    ones, rise = [1.0] * steps, [step / (steps - 1) for step in range(steps)]

    def until(stop: int) -> list[float]:
        return [1.0] * stop + [0.0] * (steps - stop)

    def tag(name: str, rest: str) -> str:
        return f" <lora:{name}:{rest}>"

    ours, both = ("ours",), ("ours", "original")
    yield Case("warm-up")
    yield Case("no LoRA", repeat=3)
    yield Case("stop, first after load", tag(a, f"{one}:stop={k}"), expected={a: until(k)}, extensions=both)
    yield Case("stop, again", tag(a, f"{one}:stop={k}"), expected={a: until(k)}, extensions=both, repeat=2)
    yield Case("no LoRA after it")
    yield Case("LoRA", tag(a, one), expected={a: ones})
    yield Case("LoRA, again", tag(a, one), expected={a: ones}, repeat=2)
    yield Case("another LoRA, rank 128", tag(large, one), expected={large: ones})
    yield Case("rank 128, stop", tag(large, f"{one}:stop={k}"), expected={large: until(k)}, extensions=both)
    yield Case("curve", tag(b, "0@0,1@1"), expected={b: rise}, extensions=ours)
    yield Case("curve, again", tag(b, "0@0,1@1"), expected={b: rise}, extensions=ours)
    three = [(a, k), (b, 2 * k), (c, 3 * k)]
    for title in ("three LoRAs, three stops", "three LoRAs, again"):
        yield Case(
            title, "".join(tag(name, f"{one}:stop={stop}") for name, stop in three),
            expected={name: until(stop) for name, stop in three}, extensions=both,
        )  # fmt: skip
    yield Case(
        "three LoRAs, curves", tag(a, "0@0,1@1") + tag(b, "1@0,0@1") + tag(c, one),
        expected={a: rise, b: rise[::-1], c: ones}, extensions=ours,
    )  # fmt: skip
    first = [float(step <= k) for step in range(steps)]
    second = [1 - strength for strength in first]
    yield Case("brackets, one after other", f" [{tag(a, one)}:{tag(b, one)}:{k}]", {}, {a: first, b: second}, ours)
    in_turn = [float(step % 2 or not step) for step in range(steps)]
    for title in ("brackets, in turn", "brackets, in turn, again"):
        yield Case(
            title, f" [{tag(a, one)}|{tag(b, one)}]", {}, {a: in_turn, b: [1 - strength for strength in in_turn]}, ours
        )
    for title in ("played", "played, again"):
        yield Case(title, tag(a, one), extensions=ours, is_played=True)
    hires = {
        "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6,
        "hr_second_pass_steps": steps // 2,
    }  # fmt: skip
    yield Case("batch of 4", tag(a, f"{one}:stop={k}"), {"batch_size": 4}, extensions=both)
    yield Case("hires 1.5x", tag(a, one), hires)
    yield Case("hires 2x", tag(a, one), {**hires, "hr_scale": 2})
    yield Case("no LoRA, batch of 4", more={"batch_size": 4})
    yield Case("no LoRA, hires 1.5x", more=hires)
    yield Case("no LoRA, hires 2x", more={**hires, "hr_scale": 2})
    yield Case("no LoRA at the end", repeat=2)


class Bench:
    def __init__(self, client: Client, folder: Path, extension: str, steps: int, size: int, seed: int = 1234) -> None:
        self.client, self.extension, self.steps, self.size, self.seed = client, extension, steps, size, seed
        files = {path.stem: str(path.resolve()) for path in sorted(folder.glob("*.safetensors"))}
        tags = ("r32a", "r32b", "r32c", "r128")
        self.loras = {tag: next((name for name in files if name.endswith(tag)), "") for tag in tags}
        if missing := [f"*{tag}.safetensors" for tag, name in self.loras.items() if not name]:
            raise SystemExit(f"{folder} has no {', '.join(missing)}")
        self._files = files

    def run(self, case: Case) -> dict[str, Any]:
        """One request, measured."""
        body = {
            "prompt": PROMPT + case.tags, "negative_prompt": "blurry", "steps": self.steps, "width": self.size,
            "height": self.size, "sampler_name": "Euler a", "seed": self.seed, "cfg_scale": 6, "save_images": False,
            **case.more,
        }  # fmt: skip
        began = self.client.post("/lbw-bench/begin", {"loras": {name: self._files[name] for name in case.expected}})
        if "error" in began:
            return began
        with self._hand() if case.is_played else nullcontext({}) as task:
            answer = self.client.post("/sdapi/v1/txt2img", {**body, **task})
        # What is left in the weights is not looked at in between: only a generation without networks has to have none.
        measured = self.client.get(f"/lbw-bench/end?checks_base={'false' if case.tags else 'true'}")
        if "images" not in answer:
            return {"error": str(answer.get("error", answer))[:300], "memory": measured.get("memory")}
        info = json.loads(answer["info"]).get("extra_generation_params", {})
        return {**measured, "warnings": info.get("LBW warnings", [])}

    @contextmanager
    def _hand(self) -> Iterator[dict[str, str]]:
        """Moves a strength while the block runs; gives what a request says to be the one that is moved."""
        task, is_over = f"task(bench{time.time_ns()})", threading.Event()

        def play() -> None:
            while not is_over.wait(0.02):
                strength = time.monotonic() % 1
                self.client.post("/lbw/v1/live", {"id_task": task, "moves": [{"index": 0, "strength": strength}]})

        hand = threading.Thread(target=play)
        hand.start()
        try:
            yield {"force_task_id": task}
        finally:
            is_over.set()
            hand.join()

    def rows(self, only: re.Pattern[str]) -> Iterator[dict[str, Any]]:
        for case in cases(self.steps, self.loras, "1:1" if self.extension == "original" else "1"):
            if self.extension in case.extensions and only.search(case.name):
                yield self._row(case, [self.run(case) for _ in range(case.repeat)])

    def _row(self, case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
        row: dict[str, Any] = {"case": case.name, "prompt": case.tags.strip(), "runs": len(runs)}
        done = [run for run in runs if "error" not in run]
        if len(done) < len(runs):
            row["error"] = next(run["error"] for run in runs if "error" in run)
            return row
        row |= {key: statistics.median(values) for key, values in _times(done).items()}
        row["step_times"] = _step_times(done[-1])
        row["peak"] = max(run["memory"].get("peak", 0) for run in done) / 1e6
        row["held"] = done[-1]["memory"].get("now", 0) / 1e6
        row["warnings"] = sorted({str(warning) for run in done for warning in run["warnings"]})
        row["wrong"] = sum(_wrong_strengths(run, case.expected) for run in done)
        row["not_pristine"] = max(len(run.get("not_pristine", ())) for run in done)
        return row


def _times(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """What each run took, in ms: all of it, until sampling began, in sampling, what extensions took in its first step
    and in the worst later one, and a step."""
    found: dict[str, list[float]] = {}
    for run in runs:
        evaluations = run["passes"][0]["evaluations"]
        steps = [after["done"] - before["done"] for before, after in pairwise(evaluations)]
        called = [each["told"] - each["announced"] for each in evaluations]
        step = statistics.median(steps)
        values = {
            "wall": run["took"],
            "before": run["passes"][0]["began"],
            "sampling": evaluations[-1]["done"] - run["passes"][0]["began"],
            "first": evaluations[0]["done"] - run["passes"][0]["began"] - step,
            "switch": max(called[1:]),
            "worst": max(steps) - step,
            "step": step,
        }
        for key, value in values.items():
            found.setdefault(key, []).append(value * 1e3)
    return found


def _step_times(run: dict[str, Any]) -> list[float]:
    """How long each step of the first pass took, in ms."""
    begun = run["passes"][0]
    moments = [begun["began"], *(evaluation["done"] for evaluation in begun["evaluations"])]
    return [(after - before) * 1e3 for before, after in pairwise(moments)]


def _wrong_strengths(run: dict[str, Any], expected: dict[str, list[float]]) -> int:
    """How often, in evaluations of the first pass, a LoRA had another strength than its tag says, or none was found."""
    evaluations = run["passes"][0]["evaluations"]
    return sum(
        any(abs(measured - strengths[step]) > TOLERANCE for measured in evaluation["strengths"].get(name, [math.inf]))
        for step, evaluation in enumerate(evaluations) for name, strengths in expected.items()
    )


COLUMNS = {
    "wall": "wall", "before": "before", "sampling": "sampling", "first": "first step +", "switch": "switch",
    "worst": "worst step +", "step": "a step", "peak": "peak MB", "held": "held MB", "wrong": "wrong",
    "not_pristine": "not pristine",
}  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'':28}" + "".join(f"{title:>13}" for title in COLUMNS.values()))
    for row in rows:
        if "error" in row:
            print(f"{row['case']:28}  {row['error']}")
            continue
        print(f"{row['case']:28}" + "".join(f"{row[key]:13.1f}" for key in COLUMNS), *row["warnings"][:1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("--loras", type=Path, required=True, help="the folder of the WebUI's LoRA files")
    parser.add_argument("--extension", choices=("ours", "original", "none"), default="ours", help="which is installed")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=1024, help="of the images, in pixels")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), help="a regular expression for cases")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    client = Client(options.url)
    about = client.about()
    print(f"{options.extension}: {about}", flush=True)
    rows: list[dict[str, Any]] = []
    for row in Bench(client, options.loras, options.extension, options.steps, options.size).rows(options.only):
        rows.append(row)
        if options.json:
            report = {"about": about, "extension": options.extension, "rows": rows}
            options.json.write_text(json.dumps(report, indent=1))
    show(rows)


if __name__ == "__main__":
    main()
