"""Prompts with hostile LoRA tags: read, planned for a model, told in infotext and summary, and read back from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from random import Random
from typing import Any

from lbw.generation.summary import changes, summarise
from lbw.plan.plan import Pass
from lbw.request import infotext
from lbw.request.preview import preview
from lbw.tags.library import Library
from lbw.tags.limits import LONGEST_MESSAGE
from lbw.tags.played import played_tag
from tests.backend import Backend
from tests.endurance.attacks.host import OURS, PRESETS, ROOT, RULE_SETS, Host
from tests.endurance.attacks.mutate import Coverage, Tags
from tests.endurance.attacks.watch import Limits, Report, Watch, short

LIMIT_MS, LIMIT_MB = 50.0, 20.0
FEW_TAGS, OF_MANY = 10, 5
"""Prompts of more tags, of which a hundred count, may take so many times the limit."""
TRACED = 50
"""One in so many is watched for where it leads."""
REPEATED = 20
"""One in so many is done twice."""
ELSEWHERE = 300
"""Are done in another process, too, whose sets have another order."""

_OF_PYTHON = re.compile(
    r"invalid literal|could not convert|object is not|has no attribute|codec can|index out of range|unpack|NoneType|"
    r"Traceback|unhashable|recursion|digits|positional argument|math domain|"
    r"IndexError|KeyError|TypeError|AttributeError"
)
_OF_HOST = "the host fails: "
_TELLS = re.compile(r"<lora:|expected|LoRA|preset|brackets")


class Thin:
    """What the host says, of a model that has but one layer for each block and kind of part: the time is that of tags.

    Args:
        host: whose model it is.
    """

    def __init__(self, host: Host) -> None:
        from lbw.tags.families import family_of_layers

        self._backend = host.backend
        layers = host.backend.layer_names()
        family = family_of_layers(layers)
        by_kind = {(family.names_of(layer), "attn2" in layer): layer for layer in layers}
        self._layers = tuple(by_kind.values())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def layer_names(self) -> tuple[str, ...]:
        return self._layers

    def changed_layers(self, name: str) -> tuple[str, ...] | None:
        return self._layers if name == "demo" else None


def told(text: str, library: Library, backend: Any) -> tuple[list[str], tuple[Any, ...]]:
    """The warnings of a prompt, and all that is made of it."""
    choice = Random(text.encode(errors="surrogatepass"))
    steps, is_hires = choice.choice((1, 2, 4, 8, 8, 8, 8, 20, 20, 150)), choice.random() < 0.2
    sigmas = [14.6 * (1 - step / steps) ** 2 for step in range(steps)] if choice.random() < 0.3 else []
    warnings: list[str] = []
    made = preview(text, library, backend, warnings.append, steps=steps, sigmas=sigmas, hires=is_hires)
    layers = backend.layer_names()
    described = infotext.describe([made], library)
    infotext.recall(infotext.pasted({**described, "Seed": "1"}), library)
    summary = summarise([made], [], "as they are")
    lines = list(changes(made, layers))
    return warnings, (described, summary, lines, [_played(made, request) for request in made.plan.requests])


def _played(made: Pass, request: Any) -> str:
    course = made.strengths_apart(request, made.steps)
    try:
        return played_tag(request.written, course)
    except ValueError as error:
        return str(error)


def faults_of(warnings: list[str]) -> list[str]:
    """What is wrong with messages."""
    found = []
    for message in warnings:
        if not message.strip() or len(message) > LONGEST_MESSAGE or "\n" in message:
            found.append("a message is empty, too long, or of several lines")
        elif _OF_PYTHON.search(message) and _OF_HOST not in message:
            found.append("a message is Python's, not for users")
        elif not _TELLS.search(message):
            found.append("a message does not say what it is about")
    return found


def digest(outcome: Any) -> str:
    return hashlib.sha256(repr(outcome).encode(errors="surrogatepass")).hexdigest()


def run(host: Host, count: int, seed: int) -> Report:
    watch = Watch("tags", limit_ms=LIMIT_MS, limit_mb=LIMIT_MB)
    backend, coverage, tags = Thin(host), Coverage(OURS), Tags(Random(seed))
    sample: list[str] = []
    begun = time.perf_counter()
    for text in tags.corpus:  # what is read once and known then
        told(text, host.library, backend)
    for number in Limits.numbers(count):
        text = tags.next()
        outcome = watch.attempt(
            text, partial(told, text, host.library, backend), times=OF_MANY if text.count(">") > FEW_TAGS else 1
        )
        if outcome is None:
            continue
        for fault in faults_of(outcome[0]):
            watch.report.find(fault, short("; ".join(outcome[0]), 400))
        if number % REPEATED == 0 and repr(told(text, host.library, backend)) != repr(outcome):
            watch.report.find("the second time something else comes of it", short(text))
        if number % TRACED == 0 and coverage.is_new(partial(told, text, host.library, backend)):
            tags.keep(text)
        if len(sample) < ELSEWHERE and number % 100 == 0:
            sample.append(text)
        if number % 10_000 == 9_999:
            rate = (number + 1) / (time.perf_counter() - begun)
            print(
                f"tags: {number + 1}, {rate:.0f} a second, {coverage.ways} ways, "
                f"{len(tags.corpus)} kept, {len(watch.report.findings)} findings",
                flush=True,
            )
    layers = list(backend.layer_names())
    for text, *outcomes in zip(sample, _elsewhere(sample, layers, "1"), _elsewhere(sample, layers, "2"), strict=True):
        if outcomes[0] != outcomes[1]:
            watch.report.find("in another process something else comes of it", short(text))
    return watch.end()


def _elsewhere(texts: list[str], layers: list[str], hash_seed: str) -> list[str]:
    """What comes of prompts in a process of its own, whose sets have an order that depends on the seed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.endurance.attacks.tags"], input=json.dumps([texts, layers]), text=True, cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    found: list[str] = json.loads(done.stdout)
    return found


def _tell_other_process() -> None:
    texts, layers = json.load(sys.stdin)
    library, backend = Library.read(PRESETS, RULE_SETS, ""), Backend(layers)
    json.dump([digest(told(text, library, backend)) for text in texts], sys.stdout)


if __name__ == "__main__":
    _tell_other_process()
