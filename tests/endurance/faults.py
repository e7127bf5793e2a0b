"""Lets every call that can fail, fail once, and looks at what comes of it.

    python -m tests.endurance.faults [--scenarios NAME ...] [--kinds KIND ...] [--share S] [--part I/N] [--seed S]
                                     [--quick] [--json FILE]

A scenario is run once and watched: each place of ours that calls into torch, the file system or the host is a site, and
so is each line of the engine and of a session, where an interrupt may come. It is then run again for each site, with an
error raised there the first time: out of memory and a CUDA error for torch, a full disk and a file that is gone for the
file system, any error for the host, an interrupt for a line. Nothing of this is a list made by hand.

The scenarios: an image whose LoRAs are in memory; one whose files are read anew; the preset files shown, checked, saved
and a default of a LoRA set and removed; a file baked. After each fault, what comes of the scenario has to be what comes
of it without, or something has to be told, by more than a bare error 500; a preset file is the old or the new one. The
next time without a fault has to give what it gives alone, an image the right weights, with no hook, callback, thread or
file of ours left.

Operators (``a + b``) call without Python's knowing, so they are no sites. Ends with 1 where a fault did harm.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from tests.host.measure import changed_layers, copy_weights, forget_conditioning
from tests.host.webui import WebUI

ROOT = Path(__file__).resolve().parents[2]
OURS = str(ROOT / "scripts") + os.sep
DRIVER = str(ROOT / "scripts" / "lbw" / "engine" / "kernels" / "nvrtc.py")
"""Calls the compiler and the driver of CUDA, by pointers, of which Python does not tell."""
INTERRUPTED = tuple(str(ROOT / "scripts" / "lbw" / room) + os.sep for room in ("engine", "generation"))
QUICK_SITES = 2
INJECTED = "(injected)"
NEVER_FAILS = {"__exit__", "release"}
"""Of the host's locks: what cannot be let go is nothing to come back from."""
LONGEST = 300
"""Characters of what is shown of a difference."""
FILE_MODULES = {"io", "_io", "posix", "os", "pathlib", "shutil", "tempfile", "nt", "posixpath", "genericpath"}
PROMPT = "a red cat <lora:t_lora:1:lbw=OUTALL:stop=2> <lora:t_locon:0@0,1@1>"
REQUEST: dict[str, Any] = {"prompt": PROMPT, "steps": 4}


@dataclass(frozen=True)
class Site:
    """A place where something can fail."""

    file: str
    line: int
    callee: str
    """What is called there; empty for an interrupt."""
    kind: str
    """``torch``, ``files``, ``host`` or ``interrupt``."""


@dataclass(frozen=True)
class Outcome:
    site: Site
    error: str
    result: str
    """``right``: the image is the right one; ``told``: it is not, or there is none, and that is told; ``silent``."""
    harm: tuple[str, ...] = ()
    """What is wrong afterwards."""


ERRORS: dict[str, tuple[Callable[[], BaseException], ...]] = {
    "torch": (
        lambda: torch.cuda.OutOfMemoryError("CUDA out of memory (injected)"),
        lambda: RuntimeError("CUDA error: an illegal memory access was encountered (injected)"),
    ),
    "files": (
        lambda: OSError(errno.ENOSPC, "No space left on device (injected)"),
        lambda: FileNotFoundError(errno.ENOENT, "No such file or directory (injected)"),
    ),
    "host": (lambda: RuntimeError("the host's own trouble (injected)"),),
    "interrupt": (KeyboardInterrupt,),
}


def kind_of_call(function: Any) -> str:
    """What a function of C belongs to; empty where it cannot fail in a way that is looked for here."""
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None) or getattr(getattr(function, "__objclass__", None), "__module__", "")
    module = module or (owner.__name__ if type(owner) is type(sys) else type(owner).__module__)
    if module.startswith("torch") or isinstance(owner, torch.Tensor):
        return "torch"
    return "files" if module in FILE_MODULES or function is open else ""


def kind_of_frame(frame: FrameType) -> str:
    """The same of a function of Python, by the file where it is."""
    path = frame.f_code.co_filename
    if path.startswith(OURS):
        return "torch" if path == DRIVER else ""
    if f"{os.sep}torch{os.sep}" in path or f"{os.sep}safetensors{os.sep}" in path:
        return "torch"
    if Path(path).stem in FILE_MODULES:
        return "files"
    if frame.f_code.co_name in NEVER_FAILS:
        return ""
    return "host" if f"{os.sep}webui{os.sep}" in path else ""


class Watcher:
    """Sees all sites that a scenario comes by; raises an error at one of them, once."""

    def __init__(self, target: Site | None = None, error: BaseException | None = None) -> None:
        self.sites: dict[Site, None] = {}
        self._lock = threading.Lock()
        self.target, self.error = target, error
        self.has_raised = False

    def _come_by(self, site: Site) -> None:
        self.sites.setdefault(site)
        if site != self.target:
            return
        with self._lock:
            if self.has_raised:
                return
            self.has_raised = True
        assert self.error is not None
        raise self.error

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and frame.f_code.co_filename.startswith(OURS):
            kind, callee = kind_of_call(argument), getattr(argument, "__name__", "?")
            caller = frame
        elif event == "call" and frame.f_back and frame.f_back.f_code.co_filename.startswith(OURS):
            kind, callee, caller = kind_of_frame(frame), frame.f_code.co_name, frame.f_back
        else:
            return
        if kind:
            self._come_by(Site(caller.f_code.co_filename.removeprefix(OURS), caller.f_lineno, callee, kind))

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(INTERRUPTED):
            return None
        if event == "line":
            self._come_by(Site(frame.f_code.co_filename.removeprefix(OURS), frame.f_lineno, "", "interrupt"))
        return self.trace

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Calls are watched, of threads that begin meanwhile too, or lines of this one; for a target what it needs."""
        if self.target is None or self.target.kind != "interrupt":
            threading.setprofile(self.profile)
            sys.setprofile(self.profile)
        if self.target is None or self.target.kind == "interrupt":
            sys.settrace(self.trace)
        try:
            yield
        finally:
            threading.setprofile(None)
            sys.setprofile(None)
            sys.settrace(None)


class Listener(logging.Handler):
    """What our logger says."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Bench:
    """The stand-in, and what it is like when nothing has gone wrong."""

    def __init__(self, data: Path) -> None:
        os.environ["WEBUI_DATA"] = str(data)  # the stand-in fixes its folders when it is imported, which is now
        from tests.host.conftest import write_test_loras

        self.webui = WebUI(data)
        layers = self.webui.layers()
        self.base, self.biases = copy_weights(layers), copy_weights(layers, "bias")
        write_test_loras(self.webui.lora_folder, layers)
        self.listener = Listener()
        logging.getLogger("lbw").addHandler(self.listener)
        self.comments = ""
        self.make()
        self.rest()
        self.wanted = self.make()
        self.rest()
        self.traces = self.what_is_left()

    def make(self) -> bytes:
        """The image of the request."""
        forget_conditioning(self.webui)
        result = self.webui.generate(**REQUEST)
        self.comments = result.comments or ""
        image: bytes = result.images[0].tobytes()
        return image

    def rest(self) -> None:
        """A generation without LoRAs: the next one begins cold, as far as the host lets it."""
        self.webui.generate(prompt="nothing", steps=1)

    def what_is_left(self) -> dict[str, Any]:
        """What faults may not leave behind."""
        from modules import script_callbacks

        hooks = [
            len(getattr(module, name)) for module in self.webui.shared.sd_model.modules()
            for name in ("_forward_hooks", "_forward_pre_hooks")
        ]  # fmt: skip
        callbacks = {name: len(found) for name, found in script_callbacks.callback_map.items()}
        folders = (ROOT / "scripts", self.webui.lora_folder)
        files = {path.name: hash(path.read_bytes()) for folder in folders for path in folder.glob("*.*")}
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("lbw")]
        return {"hooks": sum(hooks), "callbacks": callbacks, "files": files, "threads": threads}

    def harm(self) -> list[str]:
        """What is wrong now."""
        found: list[str] = []
        try:
            if self.make() != self.wanted:
                found.append("the next image is another one")
            self.rest()
        except Exception as error:
            found.append(f"the next image fails: {type(error).__name__}: {error}")
        layers = self.webui.layers()
        if differing := changed_layers(layers, self.base) + changed_layers(layers, self.biases, "bias"):
            found.append(f"{len(differing)} layers are not pristine, first {differing[0]}")
        left = self.what_is_left()
        for name, before in self.traces.items():
            if left[name] != before:
                found.append(f"{name} were {str(before)[:LONGEST]}, are {str(left[name])[:LONGEST]}")
        return found


class Scenario:
    """What a user does; the base is an image whose LoRAs the host has in memory."""

    kinds: tuple[str, ...] = ("torch", "files", "host", "interrupt")

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def prepare(self) -> None:
        """What is done before, without faults."""

    def run(self) -> bytes:
        """What comes of it.

        Raises:
            BrokenError: something is broken that has to be whole after any fault.
        """
        return self.bench.make()

    def is_told(self) -> bool:
        """Whether the user reads of a fault in the last run, beside the console."""
        return INJECTED in self.bench.comments


class BrokenError(Exception):
    """Something is broken that has to be whole."""


class Cold(Scenario):
    """An image whose LoRAs are read anew, and ours with them: the files are younger than what is known of them."""

    def prepare(self) -> None:
        for path in self.bench.webui.lora_folder.glob("*.safetensors"):
            os.utime(path)


class Routes(Scenario):
    """Questions to our routes, over HTTP."""

    kinds = ("torch", "files", "host")  # nobody can interrupt a thread of the server

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        from lbw.hosts.backend import Backend
        from lbw.request import routes as api_routes
        from lbw.ui import routes as panel_routes

        app = FastAPI()
        app.post("/sdapi/v1/txt2img")(lambda: None)  # without the host's API, ours is not served
        backend = Backend()
        self.folder = Path(tempfile.mkdtemp(dir=bench.webui.data))
        self.files = {self.folder / "presets.txt": b"MINE:1,0,0,0,1\n", self.folder / "rules.txt": b"RULE:M00::1\n"}
        panel_routes.add(app, *self.files, backend)
        api_routes.add(app, backend)
        self.client = TestClient(app, raise_server_exceptions=False)
        self.answers: list[str] = []
        self.is_refused = False

    def prepare(self) -> None:
        self.answers.clear()
        self.is_refused = False
        for path, content in self.files.items():
            path.write_bytes(content)

    def ask(self, path: str, **values: Any) -> bytes:
        """An answer to a question; to one without values, if there are none."""
        answer = self.client.post(path, json=values) if values else self.client.get(path)
        content = answer.content
        self.answers.append(content.decode("latin-1"))  # of a file, too: what its user has to know is in its metadata
        # A client over a real connection is told of a file that breaks off.
        is_whole = len(content) == int(answer.headers.get("content-length", len(content)))
        self.is_refused |= not answer.is_success or not is_whole
        if answer.status_code == 500 and "detail" not in answer.text:
            raise BrokenError(f"{path} answers 500: {answer.text[:80]}")
        return content

    def is_told(self) -> bool:
        return self.is_refused or any(INJECTED in answer for answer in self.answers)


class Presets(Routes):
    """The panel's questions about files: shown, checked, saved; and a LoRA's own default set and taken away."""

    def run(self) -> bytes:
        from lbw.ui.routes import PATH

        found = [self.ask(f"{PATH}/texts")]
        for file in ("presets", "elements"):
            question = {"file": file, "text": "NEW:1,1,1\n" if file == "presets" else "NEW:OUT::1\n"}
            found += [
                self.ask(f"{PATH}/file", **question, step=step, loaded=None) for step in ("reload", "check", "save")
            ]
        for weights in ("OUTD", ""):
            found.append(self.ask(f"{PATH}/own", name="t_lora", weights=weights, in_tag=""))
        contents = [path.read_bytes() for path in self.files]
        for (path, old), new in zip(self.files.items(), contents, strict=True):
            if new not in (old, b"NEW:1,1,1\n", b"NEW:OUT::1\n"):
                raise BrokenError(f"{path.name} is {new!r}")
        if others := {*self.folder.iterdir()} - {*self.files}:
            raise BrokenError(f"{others} are left in the folder")
        return b"\n".join(found + contents)


class Bake(Routes):
    """A file with two LoRAs joined, for a client of the API."""

    def run(self) -> bytes:
        from lbw.request.bake_routes import PATH

        made = self.ask(PATH, prompt="<lora:t_lora:0.5:lbw=OUTALL> <lora:t_locon:1>", name="baked", rank=4)
        return re.sub(rb'"modelspec.date":"[^"]*"', b"", made)


SCENARIOS: dict[str, type[Scenario]] = {"image": Scenario, "cold": Cold, "presets": Presets, "bake": Bake}


def watch(scenario: Scenario) -> tuple[list[Site], bytes]:
    """The sites of a scenario, and what comes of it."""
    scenario.prepare()
    watcher = Watcher()
    with watcher.watching():
        found = scenario.run()
    scenario.bench.rest()
    return list(watcher.sites), found


def inject(scenario: Scenario, site: Site, error: BaseException, wanted: bytes) -> Outcome:
    watcher = Watcher(site, error)
    lines = scenario.bench.listener.lines
    lines.clear()
    harm: list[str] = []
    console = StringIO()
    found: bytes | None = None
    raised: BaseException | None = None
    scenario.prepare()
    with redirect_stderr(console):
        try:
            with watcher.watching():
                found = scenario.run()
        except BrokenError as broken:
            harm.append(str(broken))
        except (Exception, KeyboardInterrupt) as caught:
            raised = caught
    is_told = bool(raised or lines or INJECTED in console.getvalue() or scenario.is_told())
    result = "right" if found == wanted else "told" if is_told else "silent"
    if not watcher.has_raised:
        result = "not reached"
    try:
        scenario.prepare()
        if scenario.run() != wanted:
            harm.append("the same comes to something else the next time")
    except Exception as caught:
        harm.append(f"the same fails the next time: {type(caught).__name__}: {caught}")
    scenario.bench.rest()
    return Outcome(site, f"{type(error).__name__}: {error}", result, (*harm, *scenario.bench.harm()))


def walk(
    scenario: Scenario, kinds: list[str], share: float, part: tuple[int, int], most: int | None, seed: int
) -> Iterator[Outcome]:
    """The outcome of each fault, of a random share of the sites of some kinds, and of these of one part of so many."""
    scenario.prepare()
    scenario.run()  # what is read, imported or made once only
    scenario.bench.traces = scenario.bench.what_is_left()
    sites, wanted = watch(scenario)
    print(type(scenario).__name__, "sites:", dict(Counter(site.kind for site in sites)), flush=True)
    choice = random.Random(seed)
    possible = {*kinds} & {*scenario.kinds}
    chosen = [site for site in sites if site.kind in possible and choice.random() < share][part[0] - 1 :: part[1]]
    if most is not None and len(chosen) > most:
        chosen = choice.sample(chosen, most)
    for site in chosen:
        for make_error in ERRORS[site.kind]:
            yield inject(scenario, site, make_error(), wanted)


def part_of(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    return int(number), int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=[*SCENARIOS])
    parser.add_argument("--kinds", nargs="+", choices=ERRORS, default=[*ERRORS])
    parser.add_argument("--share", type=float, default=1.0, help="of the sites, at random")
    parser.add_argument("--part", type=part_of, default=(1, 1), metavar="I/N", help="of N that run at once, the I-th")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SITES} sites of each scenario")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as data:
        bench = Bench(Path(data))
        most = QUICK_SITES if options.quick else None
        for name in options.scenarios:
            scenario = SCENARIOS[name](bench)
            for outcome in walk(scenario, options.kinds, options.share, options.part, most, options.seed):
                outcomes.append(outcome)
                if outcome.harm or outcome.result == "silent":
                    print(f"FAULT: {outcome}", flush=True)
                if options.json and len(outcomes) % 50 == 0:
                    options.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    table = Counter((outcome.site.kind, outcome.result, bool(outcome.harm)) for outcome in outcomes)
    print(f"{len(outcomes)} faults in {time.perf_counter() - begun:.0f} s")
    for (kind, result, is_harmed), count in sorted(table.items()):
        print(f"{kind:10} {result:12} {'HARM' if is_harmed else '':5} {count:5}")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    sys.exit(any(outcome.harm or outcome.result == "silent" for outcome in outcomes))


if __name__ == "__main__":
    main()
