"""Lets every call that can fail, fail once, and looks at what comes of it.

    python -m tests.endurance.faults [--kinds KIND ...] [--share S] [--seed S] [--quick] [--json FILE]

A scenario is run once and watched: each place of ours that calls into torch, the file system or the host is a site, and
so is each line of the engine and of a session, where an interrupt may come. It is then run again for each site, with an
error raised there the first time: out of memory and a CUDA error for torch, a full disk and a file that is gone for the
file system, any error for the host, an interrupt for a line. Nothing of this is a list made by hand.

After each, an image has to be the one that it is without the fault, or something has to be told; and the next request
without a fault has to give the image and the weights that it gives alone, with no hook, callback or file of ours left.

Operators (``a + b``) call without Python's knowing, so they are no sites. Ends with 1 where a fault did harm.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import random
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

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from tests.host.measure import changed_layers, copy_weights, forget_conditioning
from tests.host.webui import WebUI

ROOT = Path(__file__).resolve().parents[2]
OURS = str(ROOT / "scripts") + os.sep
INTERRUPTED = tuple(str(ROOT / "scripts" / "lbw" / room) + os.sep for room in ("engine", "generation"))
QUICK_SITES = 30
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
        lambda: torch.OutOfMemoryError("CUDA out of memory (injected)"),
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
        return ""
    if f"{os.sep}torch{os.sep}" in path or f"{os.sep}safetensors{os.sep}" in path:
        return "torch"
    if Path(path).stem in FILE_MODULES:
        return "files"
    return "host" if f"{os.sep}webui{os.sep}" in path else ""


class Watcher:
    """Sees all sites that a scenario comes by; raises an error at one of them, once."""

    def __init__(self, target: Site | None = None, error: BaseException | None = None) -> None:
        self.sites: dict[Site, None] = {}
        self.target, self.error = target, error
        self.has_raised = False

    def _come_by(self, site: Site) -> None:
        self.sites.setdefault(site)
        if site == self.target and not self.has_raised:
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
        """Calls are watched, or lines, or for a target what it needs."""
        if self.target is None or self.target.kind != "interrupt":
            sys.setprofile(self.profile)
        if self.target is None or self.target.kind == "interrupt":
            sys.settrace(self.trace)
        try:
            yield
        finally:
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
        self.make()
        self.rest()
        self.traces = self.what_is_left()

    def make(self) -> np.ndarray:
        """The image of the request."""
        forget_conditioning(self.webui)
        result = self.webui.generate(**REQUEST)
        self.comments = result.comments or ""
        return np.asarray(result.images[0])

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
        scripts = ROOT / "scripts"
        files = {path.name: path.read_bytes() for path in scripts.iterdir() if path.suffix == ".txt"}
        return {"hooks": sum(hooks), "callbacks": callbacks, "files": files, "threads": threading.active_count()}

    def differences(self) -> list[str]:
        layers = self.webui.layers()
        return changed_layers(layers, self.base) + changed_layers(layers, self.biases, "bias")


def watch(bench: Bench) -> tuple[list[Site], np.ndarray]:
    """The sites of a request that begins cold, and its image."""
    watcher = Watcher()
    with watcher.watching():
        image = bench.make()
    bench.rest()
    return list(watcher.sites), image


def inject(bench: Bench, site: Site, error: BaseException, wanted: np.ndarray) -> Outcome:
    watcher = Watcher(site, error)
    bench.listener.lines.clear()
    harm: list[str] = []
    console = StringIO()
    image: np.ndarray | None = None
    raised: BaseException | None = None
    with redirect_stderr(console):
        try:
            with watcher.watching():
                image = bench.make()
        except (Exception, KeyboardInterrupt) as caught:
            raised = caught
    is_told = bool(raised or bench.listener.lines or "injected" in bench.comments + console.getvalue())
    is_right = image is not None and np.array_equal(image, wanted)
    result = "not reached" if not watcher.has_raised else "right" if is_right else "told" if is_told else "silent"
    try:
        if not np.array_equal(bench.make(), wanted):
            harm.append("the next image is another one")
        bench.rest()
    except Exception as caught:
        harm.append(f"the next request fails: {type(caught).__name__}: {caught}")
    if differing := bench.differences():
        harm.append(f"{len(differing)} layers are not pristine, first {differing[0]}")
    for name, value in bench.what_is_left().items():
        if value != bench.traces[name]:
            harm.append(f"{name} are other ones than before")
    return Outcome(site, f"{type(error).__name__}: {error}", result, tuple(harm))


def walk(bench: Bench, kinds: list[str], share: float, most: int | None, seed: int) -> Iterator[Outcome]:
    """The outcome of each fault, of a random share of the sites of some kinds."""
    sites, wanted = watch(bench)
    print("sites:", dict(Counter(site.kind for site in sites)), flush=True)
    choice = random.Random(seed)
    chosen = [site for site in sites if site.kind in kinds and choice.random() < share]
    if most is not None and len(chosen) > most:
        chosen = choice.sample(chosen, most)
    for site in chosen:
        for make_error in ERRORS[site.kind]:
            yield inject(bench, site, make_error(), wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=ERRORS, default=[*ERRORS])
    parser.add_argument("--share", type=float, default=1.0, help="of the sites, at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SITES} sites")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as data:
        bench = Bench(Path(data))
        most = QUICK_SITES if options.quick else None
        for outcome in walk(bench, options.kinds, options.share, most, options.seed):
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
