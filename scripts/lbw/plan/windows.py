"""Windows of a pass in which a LoRA is never on: what its user is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lbw.plan.plan import Pass
from lbw.tags.limits import shortened
from lbw.tags.prompt import LoraRequest


def told_before(made: Pass) -> Iterator[str]:
    """What can be told before a pass begins; of one that makes as many steps as it likes, this is not all."""
    for request in made.plan.requests:
        schedule, steps, sigmas = request.schedule, made.steps, made.sigmas
        if made.is_open:
            steps, sigmas = len(request.levels), request.levels
        is_comparable = schedule.has_one_unit or not made.is_open
        if is_comparable and schedule.is_empty(steps, sigmas):
            yield f"{_tag(request)}: its start is not before its stop, so it is never on in the U-Net"
        elif not made.is_open:
            yield from _late_start(request, made)


def told_after(made: Pass) -> Iterator[str]:
    """What can be told only when all steps of a pass have been made."""
    if made.is_open:
        for request in made.plan.requests:
            yield from _late_start(request, made)


def _late_start(request: LoraRequest, made: Pass) -> Iterator[str]:
    late = request.schedule.late_start(made.steps, made.sigmas)
    if late is not None and not request.schedule.is_empty(made.steps, made.sigmas):
        title = "hires pass" if made.is_hires else "pass"
        count = f"{made.steps} step{'s' * (made.steps != 1)}"
        yield f"{_tag(request)}: start={late}: the {title} has {count}; it is never on in the U-Net"


def told_of_absence(passes: Sequence[Pass]) -> Iterator[str]:
    """Which tags their prompts' brackets have in no step of the passes of a batch."""
    present: dict[str, bool] = {}
    for made in passes:
        for request in made.plan.requests:
            presence = request.schedule.presence
            steps = range(made.steps)
            is_there = presence is None or any(presence.share(step, made.evaluations_of(step)) for step in steps)
            present[request.name] = present.get(request.name, False) or is_there
    for name in (name for name, is_there in present.items() if not is_there):
        yield f"<lora:{shortened(name)}>: its brackets in the prompt have it in no step of the image"


def _tag(request: LoraRequest) -> str:
    return f"<lora:{shortened(request.name)}>"
