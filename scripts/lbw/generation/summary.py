"""What a generation did, in the lines that a user reads after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lbw.engine.updates import Update, total
from lbw.generation.fits import Fit
from lbw.plan.courses import blocks_at_0, layers_by_kind
from lbw.plan.hits import summaries
from lbw.plan.plan import Pass
from lbw.request.infotext import course, steps_on, strengths_of
from lbw.tags.families import KNOWN, label_ranges
from lbw.tags.limits import shortened
from lbw.tags.weights import BlockWeights


def summarise(
    passes: Sequence[Pass],
    updates: Iterable[Update],
    memory: str,
    fits: Mapping[str, Fit] | None = None,
    lost: Mapping[str, str] | None = None,
) -> str:
    """One line: which LoRAs had which blocks and steps, the time of the switches, and where the base weights were.

    Where the host alone would have made the image, only the LoRAs that had no effect; empty if there are none.

    Args:
        fits: {a LoRA: how much of its file was in force}.
        lost: {a LoRA that was not loaded: why}.
    """
    fits, lost = fits or {}, lost or {}
    words = [f"{shortened(name)}: {reason}" for name, reason in lost.items()]
    if all(each.plan.is_plain for each in passes):
        words = [f"{shortened(name)}: {fit.words}" for name, fit in fits.items() if fit.is_nothing] + words
        return f"{'; '.join(words)} | base weights {memory}" if words else ""
    requests = dict.fromkeys(
        _request(index, at_0, each, fits.get(each.plan.requests[index].name))
        for each in passes
        for index, at_0 in enumerate(blocks_at_0(layers_by_kind(each.plan), each.plan.family))
        if each.plan.requests[index].name not in lost
    )
    count, done = total(updates)
    switches = f"{count} switch{'es' * (count != 1)}"
    return f"{'; '.join([*requests, *words])} | {switches}, {done.seconds * 1000:.1f} ms | base weights {memory}"


def _request(index: int, at_0: Sequence[str], made: Pass, fit: Fit | None) -> str:
    """
    Args:
        at_0: the blocks at 0 in which the network has parts.
    """
    request, weights = made.plan.requests[index], made.plan.weights[index]
    if fit is not None and fit.is_nothing:
        return f"{request.name}: {fit.words}"
    parts = []
    if weights:
        words = [_chosen(weights[0]), _blocks(weights[0], at_0) if len(weights) == 1 else ""]
        if at_0:
            words.append(f"0 in {' '.join(label_ranges(at_0, made.plan.family.labels))}")
        inside = "; ".join(filter(None, words))
        parts.append(f"{shortened(request.weights or '', 40)}{f' ({inside})' if inside else ''}")
    if request.elements is not None and made.plan.rules[index]:
        parts.append(f"rules {shortened(request.elements, 40)}")
    if request.schedule.windows or request.schedule.presence is not None:
        parts.append(f"steps {shortened(steps_on(request.schedule, made), 120)} of {made.steps}")
    if request.has_curve or request.is_played:
        by_hand = ", played by hand" if request.is_played else ""
        parts.append(shortened(strengths_of(request, made), 120) + by_hand)
    parts = parts or ["all blocks"]
    if fit is not None and fit.words:
        parts.append(fit.words)
    return f"{request.name}: {', '.join(parts)}"


def _chosen(weights: BlockWeights) -> str:
    """What a vector by number was read as, if it would be something else on another model."""
    layout = tuple(weights.vector.values)
    if not weights.vector.is_by_number:
        return ""
    meanings = {family.layouts[len(layout)] for family in KNOWN if len(layout) in family.layouts}
    return f"{len(layout)} values for {' '.join(label_ranges(layout, layout))}" if meanings - {layout} else ""


def _blocks(weights: BlockWeights, at_0: Sequence[str]) -> str:
    family, ratios = weights.vector.family, weights.ratios
    names = [*family.labels]
    encoders = [name for name in family.single_encoders if ratios.get(name, ratios["BASE"]) != ratios["BASE"]]
    if encoders:
        names[:1] = family.single_encoders
    on = [name for name in names if ratios[name if name in ratios else "BASE"] != 0]
    if len(on) == len(names) or not (at_0 or encoders):
        return "all blocks"
    return " ".join(label_ranges(on, names)) or "no block"


def changes(made: Pass, layers: Iterable[str]) -> Iterator[str]:
    """Lines that list how strengths change in a pass, and what the element rules hit in a model with ``layers``."""
    layers = list(layers)
    for index, request in enumerate(made.plan.requests):
        if request.has_curve:
            yield f"<lora:{request.name}> {strengths_of(request, made)}"
        if len(made.plan.weights[index]) > 1:
            yield f"<lora:{request.name}:lbw={request.weights}>"
            yield from (f"    {line}" for line in _courses(made, index))
        for words, names in summaries(made.plan.rules[index], layers, made.plan.family):
            yield f"<lora:{request.name}:lbwe={request.elements}> {words}"
            yield from (f"    {name}" for name in names)


def _courses(made: Pass, index: int) -> Iterator[str]:
    """For blocks of a request with equal strengths in all steps, those strengths."""
    blocks: dict[str, set[str]] = {}
    for kind, layers in layers_by_kind(made.plan)[index].items():
        if kind.block is not None:
            blocks.setdefault(course(made.course(layers[0], kind.term)), set()).add(kind.block)
    for strengths, labels in blocks.items():
        yield f"{' '.join(label_ranges(labels, made.plan.family.labels))}: {strengths}"
