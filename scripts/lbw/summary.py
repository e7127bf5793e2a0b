"""What a generation did, in the lines that a user reads after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lbw.blocks import label_ranges, labels_of
from lbw.elements import parse_rules
from lbw.engine import Update
from lbw.hits import summaries
from lbw.infotext import steps_on
from lbw.limits import shortened
from lbw.plan import Library, Plan
from lbw.prompt import LoraRequest
from lbw.schedule import ALWAYS
from lbw.weights import BlockWeights


def summarise(passes: Sequence[tuple[Plan, int]], updates: Iterable[Update], memory: str) -> str:
    """One line: which LoRAs had which blocks and steps, the time of the switches, and where the base weights were.

    Empty where the host alone would have made the image.
    """
    if all(plan.is_plain for plan, _ in passes):
        return ""
    requests = dict.fromkeys(
        _request(request, weights, steps)
        for plan, steps in passes
        for request, weights in zip(plan.requests, plan.weights, strict=True)
    )
    switches = [update for update in updates if update.layers_updated]
    milliseconds = sum(update.seconds for update in switches) * 1000
    count = f"{len(switches)} switch{'es' * (len(switches) != 1)}"
    return f"{'; '.join(requests)} | {count}, {milliseconds:.1f} ms | base weights {memory}"


def _request(request: LoraRequest, weights: BlockWeights | None, steps: int) -> str:
    parts = []
    if weights is not None:
        parts.append(f"{shortened(request.weights or '', 40)} ({_blocks(weights)})")
    if request.elements is not None:
        parts.append(f"rules {shortened(request.elements, 40)}")
    if request.schedule != ALWAYS:
        parts.append(f"steps {steps_on(request.schedule, steps)} of {steps}")
    return f"{request.name}: {', '.join(parts) or 'all blocks'}"


def _blocks(weights: BlockWeights) -> str:
    on = [label for label, ratio in weights.ratios.items() if ratio != 0]
    if len(on) == len(weights.given):
        return "all blocks"
    return " ".join(label_ranges(on, labels_of(weights.family))) or "no block"


def changes(plan: Plan, library: Library, layers: Iterable[str]) -> Iterator[str]:
    """Lines that list what the element rules of each request hit in a model with ``layers``."""
    layers = list(layers)
    for request in plan.requests:
        rules = library.rule_sets.get((request.elements or "").strip())
        if rules is None:
            continue
        try:
            found = summaries(parse_rules(rules), layers)
        except ValueError:
            continue
        for words, names in found:
            yield f"<lora:{request.name}:lbwe={request.elements}> {words}"
            yield from (f"    {name}" for name in names)
