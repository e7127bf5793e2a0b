"""Several users at one server: each of them gets what its request gives alone, and leaves nothing to the next one.

    python -m tests.endurance.several_users [--clients 8] [--minutes 10] [--seed S] [--quick] [--json FILE] [--family F]

A server of the small WebUI, with page and API. First each request of a catalogue is made alone, with each checkpoint
where the answer depends on the one in use. Then clients ask at the same time, each at random: images with all that a
tag, an argument or a setting of a request can say, plots, wrong tags, other checkpoints; generations that are moved
while they run; bakings; all other routes; presets and LoRAs' own defaults that are saved. Some go away in the middle,
some interrupt. At last each image is made alone once more.

Equal to the answer alone have to be: status, images bit for bit with their infotexts, warnings, numbers, and files. A
generation that was moved has to be the one of the tag that its infotext has, with strengths that its own client sent.
An interrupted generation may differ, as the host interrupts whichever runs, but no other one. A baking, or a question
that does not wait, may be told that the model is being changed; the latter is answered with the settings in force.

Ends with 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import requests
from safetensors import safe_open
from safetensors.torch import save_file

from tests.preset_files import PRESETS_FILE, RULE_SETS_FILE, kept
from tests.server import Server, running_server

ROOT = Path(__file__).resolve().parents[2]
TITLE = "LoRA Block Weight"
CHECKPOINTS = ("demo-sd1", "other-sd1", "demo-sdxl")
IMAGE, PARSE, BAKE, PANEL = "/sdapi/v1/txt2img", "/lbw/v1/parse", "/lbw/v1/bake", "/internal/lbw/panel"
SMALL = {"prompt": "a red cat", "seed": 1, "steps": 4, "width": 64, "height": 64}
MOVED_STEPS = 30
LIMIT_S = 300
QUICK_CLIENTS, QUICK_S = 4, 8.0
VALUES = {"A": ",".join(["1", *["0"] * 8, *["1"] * 8]), "B": ",".join(["0.5"] * 17)}
"""What the clients' own presets are in turn."""

HALF, RANDOM = ",".join(["0.5"] * 17), ",".join(["R"] * 17)
IN_TURN = "XYZ:" + ",".join(["0"] * 17)


@dataclass(frozen=True)
class Ask:
    """A request with an answer of its own.

    ``kind`` is what it is counted as. ``body`` is None for what is got. ``by_model`` says whether the answer depends on
    the checkpoint that is in use, ``waits`` whether it comes when no image is being made.
    """

    name: str
    kind: str
    path: str
    body: Mapping[str, Any] | None = None
    by_model: bool = False
    waits: bool = True
    is_quick: bool = False


def image(name: str, kind: str, tags: str = "", *, quick: bool = False, args: Any = None, **fields: Any) -> Ask:
    """
    Args:
        args: an object of our arguments.
    """
    scripts = {} if args is None else {"alwayson_scripts": {TITLE: {"args": [args]}}}
    path = "/sdapi/v1/img2img" if "init_images" in fields else IMAGE
    return Ask(name, kind, path, {**SMALL, "prompt": f"a red cat {tags}", **scripts, **fields}, is_quick=quick)


def plot(name: str, kind: str, **args: Any) -> Ask:
    tag, is_quick = "<lora:demo:1:lbw=XYZ>", "values" in name
    return image(name, kind, tag, args={"presets": IN_TURN, **args}, quick=is_quick, steps=2)


def with_settings(name: str, tags: str, *, quick: bool = False, **settings: Any) -> Ask:
    return image(name, "settings", tags, override_settings=settings, quick=quick)


HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7, "steps": 3}
SCHEDULED = "<lora:demo:1:lbw=OUTD:stop=2> <lora:demo2:0.5:start=1>"
EDITED = "[<lora:demo:1>:<lora:demo2:1>:0.5]"
IMAGES = [
    image("no LoRA", "plain", quick=True),
    image("host's tag", "plain", "<lora:demo:1>", quick=True),
    image("off", "plain", "<lora:demo:1:lbw=OUTD>", args={"active": False}, quick=True),
    image("blocks", "tags", "<lora:demo:0.8:lbw=OUTD>", quick=True),
    image("schedule", "tags", SCHEDULED, quick=True),
    image("curve", "tags", "<lora:demo:0@0,1@1:lbw=NONE@0,ALL@100%>", quick=True),
    image("elements", "tags", "<lora:demo_locon:1:lbw=ALL:lbwe=ATTNDEEPOFF>"),
    image("te and unet", "tags", "<lora:demo:te=0.2:unet=1.3:lbw=MIDD> <lora:demo:0.3:INALL>"),
    image("random", "tags", f"<lora:demo:1:lbw={RANDOM}>", quick=True),
    image("editing", "tags", EDITED, sampler_name="Heun"),
    image("batch", "tags", SCHEDULED, batch_size=2, n_iter=2, steps=2),
    image("hires", "tags", "<lora:demo:1:lbw=OUTD:hr=0.3:hrlbw=INALL>", **HIRES),
    image("inline 1", "presets", "<lora:demo:1:lbw=MINE>", args={"presets": f"MINE:{HALF}"}, quick=True),
    image("inline 2", "presets", "<lora:demo:1:lbw=MINE>", args={"presets": f"MINE:{VALUES['A']}"}, quick=True),
    image("default preset", "presets", "<lora:demo:1>", args={"default_preset": "OUTD"}, quick=True),
    image("default inline", "presets", "<lora:demo:1>", args={"presets": f"OUTD:{HALF}", "default_preset": "OUTD"}),
    image("inline rules", "presets", "<lora:demo:1:lbwe=MINE>", args={"elements": "MINE:OUT03-OUT05:attn:0"}),
    image("own picture", "presets", SCHEDULED, args={"schedule_picture": True}, quick=True),
    image("no such preset", "wrong", "<lora:demo:1:lbw=NOPE>", quick=True),
    image("no such file", "wrong", "<lora:nowhere:1:lbw=OUTD> <lora:demo:1>", quick=True),
    image("wrong numbers", "wrong", "<lora:demo:1:lbw=1,2,3:stop=x> <lora:demo2:1:lbwe=NOPE>"),
    image("wrong object", "wrong", "<lora:demo:1>", args={"nope": 1}, quick=True),
    with_settings("plain by the host", "<lora:demo:1>", lbw_plain_loras=False, quick=True),
    with_settings("no editing", EDITED, lbw_prompt_editing=False, quick=True),
    with_settings("in RAM", SCHEDULED, lbw_base_weights="ram", quick=True),
    with_settings("lean", SCHEDULED, lbw_base_weights="lean"),
    with_settings("functional", SCHEDULED, lora_functional=True),
    with_settings("other model", SCHEDULED, sd_model_checkpoint="other-sd1", quick=True),
    with_settings("other kind", "<lora:demo_sdxl:1:lbw=OUT0-OUT2=1,NONE>", sd_model_checkpoint="demo-sdxl"),
    with_settings("other kind, wrong file", "<lora:demo:1:lbw=OUTD>", sd_model_checkpoint="demo-sdxl"),
    plot("plot of values", "plots", mode=1, x_values="0,1", y_values="IN04-OUT05"),
    plot("plot of seeds", "plots", mode=1, x_type="seed", x_values="5,6", y_type="none"),
    plot("analyzer", "plots", mode=2, analyzer_blocks="BASE,IN05,OUT03-OUT05", analyzer_range="0,1"),
]  # fmt: skip

TAGS = f"{SCHEDULED} <lora:demo_locon:1:lbw={HALF}> <lora:demo:1:lbw=NOPE> {EDITED}"
LOCON = f"<lora:demo_locon:0.5:lbw={HALF}:lbwe=ATTNDEEPOFF> <lora:demo:0@0,1@1>"
PAGE = {"prompt": TAGS, "steps": 9, "sampler": "Euler a", "denoising": None, "hires": None, "theme": "dark"}
QUESTIONS = [
    Ask("parse", "parse", PARSE, {"prompt": TAGS, "steps": 5}, by_model=True, waits=False, is_quick=True),
    Ask("parse inline", "parse", PARSE, {"prompt": "<lora:demo:1:lbw=MINE>", "presets": f"MINE:{HALF}", "steps": 3},
        by_model=True, waits=False),
    Ask("bake", "bake", BAKE, {"prompt": LOCON, "name": "new", "step": 5, "steps": 11}, by_model=True, is_quick=True),
    Ask("bake to a rank", "bake", BAKE, {"prompt": SCHEDULED, "name": "new", "rank": 2, "dtype": "fp32"},
        by_model=True),
    Ask("bake nothing", "bake", BAKE, {"prompt": "<lora:nowhere:1>"}, by_model=True),
    Ask("look", "bake", f"{BAKE}/look", {"prompt": LOCON, "rank": 2}, by_model=True),
    Ask("rule sets", "routes", "/lbw/v1/elements", waits=False),
    Ask("blocks of the model", "routes", "/lbw/v1/blocks", by_model=True, waits=False, is_quick=True),
    Ask("blocks of flux", "routes", "/lbw/v1/blocks?model=flux", waits=False),
    Ask("strengths", "routes", "/lbw/v1/strengths?name=demo_locon", by_model=True),
    Ask("strengths of nothing", "routes", "/lbw/v1/strengths?name=nowhere", by_model=True),
    Ask("strengths.png", "routes", "/lbw/v1/strengths.png?name=demo&theme=dark", by_model=True, is_quick=True),
    Ask("model", "routes", "/internal/lbw/model", by_model=True, waits=False),
    Ask("families", "panel", f"{PANEL}/families", waits=False),
    Ask("hits", "panel", f"{PANEL}/hits", {"text": "A:M00:attn:1"}, by_model=True, waits=False),
    Ask("panel's strengths", "panel", f"{PANEL}/strengths", {"name": "demo", "theme": "light"}, by_model=True),
    Ask("panel's schedule", "panel", f"{PANEL}/schedule", {
        "asked": json.dumps(PAGE), "presets": "", "elements": "", "default_preset": "",
    }, by_model=True, waits=False, is_quick=True),
    Ask("add", "panel", f"{PANEL}/add", {"text": "", "weights": HALF, "name": "NEW"}, waits=False),
]  # fmt: skip

WAITED_FOR = ("another model has been loaded meanwhile", "no model is loaded")
"""What may be told while the host changes the model."""


def form(answer: requests.Response) -> str:
    """What of an answer has to be the same each time, as JSON."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind == "application/octet-stream":
        return json.dumps([answer.status_code, *_of_file(answer.content)])
    if kind != "application/json":
        return json.dumps([answer.status_code, kind, hashlib.sha256(answer.content).hexdigest()])
    found = answer.json()
    if isinstance(found, dict) and "info" in found and "images" in found:
        info = json.loads(found["info"])
        of_user = ("all_prompts", "all_seeds", "infotexts", "extra_generation_params", "sd_model_name")
        digests = [hashlib.sha256(each.encode()).hexdigest() for each in found["images"]]
        found = {**{name: info[name] for name in of_user}, "images": digests}
    return json.dumps([answer.status_code, found], sort_keys=True)


def _of_file(content: bytes) -> tuple[dict[str, str], str]:
    """A baked file without its date."""
    end = 8 + int.from_bytes(content[:8], "little")
    said = json.loads(content[8:end])["__metadata__"]
    dated = {name: value for name, value in said.items() if name != "modelspec.date"}
    return dated, hashlib.sha256(content[end:]).hexdigest()


_OF_FILES = re.compile(r"&lt;lora:\w+&gt;: lbw=[\d.,]+: \d+ values have none [^;]*; expected [^;<]*(?:; )?")
"""A warning on a page of what a file has."""


def without_files(text: str) -> str:
    """An answer that does not wait, as it is while an image is made: what is in files is not told then."""
    found = json.loads(text)
    if not isinstance(found[1], dict):
        return text
    for tag in found[1].get("tags", ()):
        tag["zero_blocks"] = None
    if "warnings" in found[1]:
        found[1]["warnings"] = [each for each in found[1]["warnings"] if "where the LoRA has parts" not in each]
    if "html" in found[1]:
        found[1]["html"] = _OF_FILES.sub("", found[1]["html"])
    return json.dumps(found, sort_keys=True)


@dataclass
class Report:
    """``counts`` are {kind: {result: how many}}."""

    family: str
    clients: int
    seed: int
    seconds: float = 0.0
    alone: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    server: dict[str, list[int]] = field(default_factory=dict)
    """What the server's process has, before and after: threads, open files, MB of memory."""
    faults: list[str] = field(default_factory=list)


class Tasks:
    """The tasks that have been begun, and those of them that somebody may have interrupted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._hit: set[str] = set()
        self.interrupting = threading.Lock()
        """Held from before somebody interrupts until it is known whom that may have hit."""

    @contextmanager
    def under_way(self, task: str) -> Iterator[None]:
        with self._lock:
            self._under_way.add(task)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.remove(task)

    def listed(self) -> list[str]:
        with self._lock:
            return sorted(self._under_way)

    def may_be_hit(self, tasks: list[str]) -> None:
        with self._lock:
            self._hit.update(tasks)

    def is_hit(self, task: str) -> bool:
        with self.interrupting, self._lock:
            return task in self._hit


class Place:
    """A server, what it answers alone, and what is noted of it.

    Args:
        is_quick: whether a part of the catalogue is enough.
    """

    def __init__(self, server: Server, report: Report, *, is_quick: bool) -> None:
        self.server, self.report, self.is_quick = server, report, is_quick
        self.tasks = Tasks()
        self.alone: dict[str, set[str]] = {}
        self._lock = threading.Lock()
        images = [ask for ask in IMAGES if ask.is_quick or not is_quick]
        questions = [ask for ask in QUESTIONS if ask.is_quick or not is_quick]
        self.catalogue = images + questions
        assert len({ask.name for ask in self.catalogue}) == len(self.catalogue)
        self.checkpoints = CHECKPOINTS[: 2 if is_quick else 3]

    def ask(self, ask: Ask, **more: Any) -> requests.Response:
        return self.send(ask.path, None if ask.body is None else {**ask.body, **more})

    def send(self, path: str, body: Any = None, **query: str) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            method = "GET" if body is None else "POST"
            headers = {"Connection": "close"}
            return session.request(
                method, self.server.url + path, json=body, params=query, timeout=LIMIT_S, headers=headers
            )

    def note(self, kind: str, result: str, seconds: float) -> None:
        with self._lock:
            counts = self.report.counts.setdefault(kind, {})
            counts[result] = counts.get(result, 0) + 1
            self.report.slowest_s[kind] = round(max(self.report.slowest_s.get(kind, 0.0), seconds), 1)

    def fault(self, what: str) -> None:
        with self._lock:
            self.report.faults.append(what)
        print(f"FAULT: {what[:2000]}", flush=True)

    def make_alone(self) -> None:
        """The answers to compare with."""
        picture = self.send(IMAGE, SMALL).json()["images"][0]
        fields = {"init_images": [picture], "denoising_strength": 0.6}
        self.catalogue.append(image("from an image", "tags", SCHEDULED, quick=True, **fields))
        for ask in self.catalogue:
            if not ask.by_model:
                self.alone[ask.name] = {self._once(ask)}
        for checkpoint in self.checkpoints:
            self._use(checkpoint)
            for ask in self.catalogue:
                if ask.by_model:
                    self.alone.setdefault(ask.name, set()).add(self._once(ask))
            self._ask_without_editing()
        self._use(self.checkpoints[0])

    def _ask_without_editing(self) -> None:
        """What does not wait is answered with the settings in force, which may be those of a request under way."""
        for is_edited in (False, True):
            self.send("/sdapi/v1/options", {"lbw_prompt_editing": is_edited})
            for ask in self.catalogue:
                if not is_edited and ask.by_model and not ask.waits and EDITED in json.dumps(ask.body):
                    self.alone[ask.name].add(self._once(ask))

    def make_again(self) -> None:
        """What is left in force by all that was done would be seen in an image."""
        for ask in self.catalogue:
            if not ask.by_model and (ask.kind != "wrong" or not self.is_quick):
                found = self._once(ask)
                if found not in self.alone[ask.name]:
                    self.fault(f"afterwards, alone, {ask.name}: {difference(found, self.alone[ask.name])}")

    def _use(self, checkpoint: str) -> None:
        self.send(IMAGE, {**SMALL, "steps": 1, "override_settings": {"sd_model_checkpoint": checkpoint}})

    def _once(self, ask: Ask) -> str:
        self.report.alone += 1
        return form(self.ask(ask))

    def judge(self, ask: Ask, answer: requests.Response, task: str = "") -> str:
        """What an answer is: ``right``, or why it may be another one; else it is a fault."""
        found, known = form(answer), self.alone[ask.name]
        if found in known:
            return "right"
        if answer.status_code == 200 and self.tasks.is_hit(task):
            return "interrupted"
        if not ask.waits and without_files(found) in {without_files(each) for each in known}:
            return "right, but for files"
        if ask.by_model and any(text in found for text in WAITED_FOR):
            return "model changed"
        self.fault(f"{ask.name}: {difference(found, known)}")
        return "FAULT"

    def of_process(self) -> dict[str, int]:
        pid = self.server.process.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return {
            "threads": len(os.listdir(f"/proc/{pid}/task")), "open files": len(os.listdir(f"/proc/{pid}/fd")),
            "MB": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6),
        }  # fmt: skip


def difference(found: str, known: set[str]) -> str:
    """Where an answer begins to be another one than the nearest that is known."""

    def alike(other: str) -> int:
        return next((at for at, pair in enumerate(zip(found, other, strict=False)) if len({*pair}) > 1), len(other))

    nearest = max(known, key=alike)
    at = alike(nearest)
    return f"...{found[max(at - 120, 0) : at + 300]} INSTEAD OF ...{nearest[max(at - 20, 0) : at + 300]}"


class Client:
    """One user, who does one thing after the other.

    It has a preset, a LoRA file and that file's own default, which nobody else writes.
    """

    def __init__(self, place: Place, number: int, seed: int) -> None:
        self.place, self.number = place, number
        self.choice = random.Random(seed * 1000 + number)
        self.name = f"user{number}"
        self._count = 0
        self._saved: str | None = None
        self.things: list[tuple[Callable[[], None], float]] = [
            (self.ask_anything, 10), (self.play, 1.5), (self.bake_on_page, 1.5), (self.save_preset, 2),
            (self.save_own_default, 2), (self.look_for_files, 0.5), (self.go_away, 1), (self.interrupt, 1),
        ]  # fmt: skip

    def task(self) -> str:
        self._count += 1
        return f"task({self.name}-{self._count}-{self.choice.randrange(10**9)})"

    def prepare(self) -> None:
        """What its own preset gives in an image, alone."""
        for state in VALUES:
            self._save(state)
            self.place.alone[f"{self.name} {state}"] = {form(self.place.ask(self._own_image(state)))}
        if len({*map(str, (self.place.alone[f"{self.name} {state}"] for state in VALUES))}) < len(VALUES):
            self.place.fault(f"{self.name}: its image is the same whatever its preset is")

    def _own_image(self, state: str) -> Ask:
        """By the file's presets: a host has a request without them get those that its page was built with."""
        tag = f"<lora:demo:1:lbw={self.name.upper()}>"
        return image(f"{self.name} {state}", "own preset", tag, args={"presets": ""})

    def run(self, until: float) -> None:
        weights = [weight for _thing, weight in self.things]
        while time.monotonic() < until:
            (thing, _weight), = self.choice.choices(self.things, weights)
            begun = time.monotonic()
            try:
                thing()
            except Exception as error:  # a server that is gone is a fault, too
                self.place.fault(f"{self.name}, {thing.__name__}: {type(error).__name__}: {error}")
                self.place.note(thing.__name__, "FAULT", time.monotonic() - begun)

    def _timed(self, ask: Ask) -> None:
        begun, task = time.monotonic(), self.task()
        is_image = ask.path.startswith("/sdapi/")
        with self.place.tasks.under_way(task) if is_image else nullcontext():
            answer = self.place.ask(ask, **({"force_task_id": task} if is_image else {}))
        self.place.note(ask.kind, self.place.judge(ask, answer, task), time.monotonic() - begun)

    def ask_anything(self) -> None:
        kinds = sorted({ask.kind for ask in self.place.catalogue})
        kind = self.choice.choice(kinds)
        self._timed(self.choice.choice([ask for ask in self.place.catalogue if ask.kind == kind]))

    def play(self) -> None:
        """Make an image, move its LoRA while it is made, and have it made again by its infotext."""
        begun, task, sent = time.monotonic(), self.task(), {1.0}
        fields = {**SMALL, "steps": MOVED_STEPS, "seed": self.choice.randrange(100)}
        body = {**fields, "prompt": "a cat <lora:demo:1>", "force_task_id": task}
        answers: list[requests.Response] = []
        with self.place.tasks.under_way(task):
            maker = threading.Thread(target=lambda: answers.append(self.place.send(IMAGE, body)))
            maker.start()
            path = self.choice.choice(["/lbw/v1/live", "/internal/lbw/live"])
            while maker.is_alive():
                shown = self.place.send(path, id_task=task)
                if shown.status_code == 200 and shown.json()["running"] and shown.json()["loras"]:
                    strength = round(self.choice.uniform(-1, 2), 6)
                    move = {"id_task": task, "moves": [{"index": 0, "strength": strength}]}
                    moved = self.place.send(path, move)
                    sent.update({strength} if moved.status_code == 200 else ())
                    if moved.status_code not in (200, 404, 409, 422):
                        self.place.fault(f"{self.name}: a move is answered {moved.status_code}: {moved.text}")
                elif shown.status_code not in (200, 404):
                    self.place.fault(f"{self.name}: live is answered {shown.status_code}: {shown.text}")
                if self.place.send(path, id_task=f"{task}x").status_code != 404:
                    self.place.fault(f"{self.name}: a task that is not known is answered")
                time.sleep(self.choice.uniform(0.02, 0.3))
            maker.join()
        result = self._of_played(answers[0], task, fields, sent)
        self.place.note("moved", result, time.monotonic() - begun)

    def _of_played(self, answer: requests.Response, task: str, fields: dict[str, Any], sent: set[float]) -> str:
        if answer.status_code != 200:
            self.place.fault(f"{self.name}: moved: {answer.status_code} {answer.text}")
            return "FAULT"
        prompt = json.loads(answer.json()["info"])["infotexts"][0].partition("\n")[0]
        strengths = {float(number) for number in re.findall(r"(?:^|,)(-?[\d.]+)(?=@)", prompt.partition("unet=")[2])}
        if strange := strengths - sent:
            self.place.fault(f"{self.name}: strengths {strange} that it did not send: {prompt}")
            return "FAULT"
        if self.place.tasks.is_hit(task):
            return "interrupted"
        known = form(answer)
        for _ in range(5):
            other = self.task()
            with self.place.tasks.under_way(other):
                again = self.place.send(IMAGE, {**fields, "prompt": prompt, "force_task_id": other})
            is_hit = self.place.tasks.is_hit(other)
            if not is_hit:
                break
        if form(again) != known and not is_hit:
            self.place.fault(f"{self.name}: moved, made again: {difference(form(again), {known})}")
            return "FAULT"
        return "right" if "unet=" in prompt else "right, not moved"

    def bake_on_page(self) -> None:
        """As the panel does: begin, ask for the state, and fetch the file."""
        ask = next(ask for ask in self.place.catalogue if ask.name == "bake")
        begun = time.monotonic()
        answer = self.place.send("/internal/lbw/bake", {**(ask.body or {}), "action": "download"})
        result = "too many"
        if answer.status_code == 200:
            result = self._fetched(ask, answer.json()["job"])
        elif answer.status_code != 429:
            self.place.fault(f"{self.name}: a baking is answered {answer.status_code}: {answer.text}")
        self.place.note("bake on page", result, time.monotonic() - begun)

    def _fetched(self, ask: Ask, job: str) -> str:
        is_unwanted = self.choice.random() < 0.2
        while (shown := self.place.send("/internal/lbw/bake", job=job).json())["state"] in ("waiting", "running"):
            time.sleep(0.2)
            if is_unwanted:
                self.place.send("/internal/lbw/bake/cancel", {"job": job})
        if is_unwanted and shown["state"] == "cancelled":
            return "cancelled"
        if shown["state"] != "done":
            if any(text in shown["message"] for text in WAITED_FOR):
                return "model changed"
            self.place.fault(f"{self.name}: a baking came to {shown}")
            return "FAULT"
        return self.place.judge(ask, self.place.send("/internal/lbw/bake/file", job=job))

    def _save(self, state: str) -> None:
        """As the panel does, until nobody has come between."""
        line = f"{self.name.upper()}:"
        while True:
            found = self.place.send(f"{PANEL}/file", {"file": "presets", "step": "reload"}).json()
            own = [each for each in found["text"].splitlines() if each.startswith(line)]
            if own != ([] if self._saved is None else [self._saved]):
                self.place.fault(f"{self.name}: its preset is {own}, and it saved {self._saved}")
            new = line + VALUES[state]
            lines = [new if each.startswith(line) else each for each in found["text"].splitlines()]
            text = "\n".join(lines if own else [*lines, new]) + "\n"
            question = {"file": "presets", "step": "save", "text": text, "loaded": found["loaded"]}
            answer = self.place.send(f"{PANEL}/file", question).json()
            if "Saved." in answer["html"]:
                self._saved = line + VALUES[state]
                return
            if not answer["is_changed"]:
                self.place.fault(f"{self.name}: a preset is not saved: {answer['html'][:300]}")
                return

    def save_preset(self) -> None:
        """What was saved counts in the next image."""
        begun, state = time.monotonic(), self.choice.choice([*VALUES])
        self._save(state)
        listed = {each["name"]: each["values"] for each in self.place.send("/lbw/v1/presets").json()["presets"]}
        if listed.get(self.name.upper()) != VALUES[state]:
            self.place.fault(f"{self.name}: the presets have {listed.get(self.name.upper())}")
        self.place.note("presets saved", "right", time.monotonic() - begun)
        self._timed(self._own_image(state))

    def save_own_default(self) -> None:
        begun, weights = time.monotonic(), self.choice.choice(["", "OUTD", "INS:stop=3", HALF])
        question = {"name": self.name, "in_tag": "", "weights": weights}
        said = self.place.send(f"{PANEL}/own", question).json()["html"]
        found = self.place.send(f"/lbw/v1/own_default?name={self.name}")
        is_right = found.json().get("weights") == weights and "Not saved" not in said
        if not is_right:
            self.place.fault(f"{self.name}: its own default is {found.text}, it saved {weights!r} and was told {said}")
        self.place.note("own defaults saved", "right" if is_right else "FAULT", time.monotonic() - begun)

    def look_for_files(self) -> None:
        """By the panel; the host's own button does so without waiting for anybody."""
        begun = time.monotonic()
        names = self.place.send(f"{PANEL}/networks", {"renewed": True}).json()["names"]
        if self.name not in names:
            self.place.fault(f"{self.name}: its file is not listed: {names}")
        self.place.note("files looked for", "right", time.monotonic() - begun)

    def go_away(self) -> None:
        """Ask for something, and hang up."""
        ask = self.choice.choice([ask for ask in self.place.catalogue if ask.body is not None])
        task = self.task()
        more = {"force_task_id": task} if ask.path.startswith("/sdapi/") else {}
        body = json.dumps({**(ask.body or {}), **more}).encode()
        head = f"POST {ask.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.place.server.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(self.choice.uniform(0, 1.5))
        self.place.note("gone away", ask.kind, 0)

    def interrupt(self) -> None:
        """Interrupt what runs, and note whom that may have hit: where it is known who ran, nobody else."""
        tasks = self.place.tasks
        with tasks.interrupting:
            waiting = tasks.listed()
            task = next(filter(self._is_active, waiting), None)
            if task is None:
                return
            how = self.choice.choice(["interrupt", "interrupt", "skip"])
            self.place.send(f"/sdapi/v1/{how}", {})
            tasks.may_be_hit([task] if self._is_active(task) else waiting + tasks.listed())
        self.place.note("interrupting", how, 0)

    def _is_active(self, task: str) -> bool:
        return bool(self.place.send("/internal/progress", {"id_task": task, "live_preview": False}).json()["active"])


@contextmanager
def own_files(folder: Path, names: list[str]) -> Iterator[None]:
    """There is a LoRA file for each client, with another alias than that which it is a copy of."""
    with safe_open(folder / "demo.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        metadata = file.metadata()
    for name in names:
        save_file(tensors, folder / f"{name}.safetensors", {**metadata, "ss_output_name": name})
    try:
        yield
    finally:
        for path in [path for name in names for path in folder.glob(f"{name}.*")]:
            path.unlink()


def crowd(server: Server, report: Report, seconds: float, *, is_quick: bool) -> None:
    """Let clients loose on a server, and note in ``report`` what comes of it."""
    begun = time.monotonic()
    place = Place(server, report, is_quick=is_quick)
    clients = [Client(place, number, report.seed) for number in range(report.clients)]
    folder = server.data / "models" / "Lora"
    logged = len(server.log.read_text())
    settings = place.send("/sdapi/v1/options").json()
    with kept((PRESETS_FILE, RULE_SETS_FILE)), own_files(folder, [client.name for client in clients]):
        place.send("/sdapi/v1/refresh-loras", {})
        for client in clients:
            client.prepare()
        place.make_alone()  # then, because messages list all presets
        before = place.of_process()
        print(f"{report.alone} answers alone in {time.monotonic() - begun:.0f} s", flush=True)
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        place.make_again()
    place.send("/sdapi/v1/refresh-loras", {})
    after = place.of_process()
    report.server = {name: [before[name], after[name]] for name in before}
    expect_nothing_left(place, settings, server.log.read_text()[logged:])
    report.seconds = round(time.monotonic() - begun, 1)


def expect_nothing_left(place: Place, settings: dict[str, Any], log: str) -> None:
    changed = {name: value for name, value in place.send("/sdapi/v1/options").json().items()
               if value != settings.get(name) and name != "sd_checkpoint_hash"}  # fmt: skip
    if changed:
        place.fault(f"settings that were others before: {changed}")
    for each in re.findall(r"Traceback.*?\n(?=\S)[^\n]*", log, re.DOTALL):
        place.fault(f"in the server's log: {each[-1500:]}")
    if place.server.process.poll() is not None:
        place.fault("the server is gone")


def print_table(report: Report) -> None:
    results = sorted({result for counts in report.counts.values() for result in counts if "gone" not in result})
    for kind, counts in sorted(report.counts.items()):
        told = ", ".join(f"{result} {counts[result]}" for result in results if result in counts)
        print(f"{kind:20} {sum(counts.values()):6}  slowest {report.slowest_s[kind]:5.1f} s  {told}")
    total: Counter[str] = Counter()
    for counts in report.counts.values():
        total.update(counts)
    print(f"{report.family}: {sum(total.values())} by {report.clients} clients in {report.seconds} s; "
          f"{report.alone} alone; {len(report.faults)} faults; the server's {report.server}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CLIENTS} clients for {QUICK_S:.0f} s")
    parser.add_argument("--family", default=os.environ.get("WEBUI_FAMILY", "a1111"), help="of WebUIs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds = QUICK_S if options.quick else options.minutes * 60
    report = Report(options.family, QUICK_CLIENTS if options.quick else options.clients, options.seed)
    with (
        tempfile.TemporaryDirectory() as data,
        running_server(Path(data), "--family", options.family) as server,
    ):
        crowd(server, report, seconds, is_quick=options.quick)
    print_table(report)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=1))
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
