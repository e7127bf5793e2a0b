"""What a prompt's tags come to before an image is made: the plan of a pass on the loaded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from lbw.engine.strengths import Strengths
from lbw.plan import windows
from lbw.plan.plan import Pass, build
from lbw.request.live import Job, Key
from lbw.tags import prompt
from lbw.tags.library import Library
from lbw.tags.limits import MOST_TAGS
from lbw.tags.presence import Presence, Reckoning


class Backend(Protocol):
    """What the API and the panel need to know of the host."""

    def preset_text(self) -> str:
        """The text of the preset file."""
        ...

    def rule_set_text(self) -> str:
        """The text of the file with element rules."""
        ...

    def layer_names(self) -> tuple[str, ...]:
        """The host's names of the layers of the loaded model; none if none is loaded."""
        ...

    def tags(self, text: str, reckoning: Reckoning, warn: prompt.Warn) -> list[tuple[list[str], Presence | None]]:
        """The arguments of each LoRA tag of a prompt, and when in a pass the prompt has it; None: at all times."""
        ...

    def evaluations(self, sampler: str, steps: int) -> int:
        """How many evaluations of the model the host reckons with in so many steps of a sampler."""
        ...

    def steps_from_image(self, steps: int, denoising_strength: float) -> int:
        """How many of ``steps`` the host runs where a pass starts from an image."""
        ...

    def network_names(self, *, renewed: bool) -> list[str]:
        """The names of the network files that the host knows; ``renewed``: that are there now."""
        ...

    def changed_layers(self, name: str) -> tuple[str, ...] | None:
        """The layers of the loaded model for which a network file has parts; None if that is not known."""
        ...

    def strengths(self, name: str) -> Strengths:
        """The strengths of a network file in the loaded model; raises UnmeasurableError."""
        ...

    def own_default(self, name: str) -> str:
        """The block weights that a network file has of its own, empty if none; raises UnknownNetworkError."""
        ...

    def set_own_default(self, name: str, weights: str) -> None:
        """Set or take away a file's own block weights; raises UnknownNetworkError, ValueError or OSError."""
        ...

    def job(self, task: str) -> Job | None:
        """The generation of the host's task with this id, under way or over; None if the id is not known."""
        ...

    def play(self, task: str, strengths: Mapping[Key, float]) -> bool:
        """Move strengths of tags in the generation of a task, in force from its next step on; whether there is one."""
        ...


def preview(
    text: str,
    library: Library,
    backend: Backend,
    warn: prompt.Warn,
    *,
    steps: int,
    sigmas: Sequence[float] = (),
    hires: bool = False,
    seed: int = 0,
    reckoning: Reckoning | None = None,
) -> Pass:
    """The pass of a prompt, as if each network had a part in every layer. What vectors leave out is told of those that
    it really has.

    Args:
        reckoning: what the prompt's editing counts; None: one evaluation a step, and in the hires pass as many steps as
            in the first one.
    """
    found = backend.tags(text, reckoning or Reckoning(steps, steps if hires else None), warn)
    if len(found) > MOST_TAGS:
        warn(f"{len(found)} LoRA tags; expected at most {MOST_TAGS}, the others are left out")
    layers = backend.layer_names()
    if not layers:
        warn("no model is loaded, so there are no groups of layers")
    requests = [
        replace(prompt.parse(items, warn).in_pass(hires).present(presence), written=f"<lora:{':'.join(items)}>")
        for items, presence in found[:MOST_TAGS]
    ]
    names = dict.fromkeys(request.name for request in requests)
    plan = build(
        requests,
        dict.fromkeys(names, layers),
        library,
        warn,
        model_layers=layers,
        seed=seed,
        parts={name: backend.changed_layers(name) or () for name in names},
    )
    made = Pass(plan, steps, tuple(sigmas), is_hires=hires)
    for message in (*windows.told_before(made), *(() if hires else windows.told_of_absence([made]))):
        warn(message)
    return made
