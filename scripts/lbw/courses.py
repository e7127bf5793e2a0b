"""What a sampling pass comes to: the strength of each tag in each step, and in each block where blocks differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lbw.blocks import block_of, family_of_layers, is_text_encoder, labels_of
from lbw.plan import Pass, Term

Strengths = tuple[float, ...]
"""One for each step."""


@dataclass(frozen=True)
class Course:
    """One tag's strengths in the U-Net, block weights apart, and with them in each block.

    A block's are the mean of its layers, which differ only where element rules say so. ``blocks`` is empty where all
    blocks of the U-Net have the tag's own strengths.
    """

    name: str
    strengths: Strengths
    blocks: Mapping[str, Strengths]


def courses(made: Pass) -> list[Course]:
    """The course of each tag of a pass. Layers in no block are left out."""
    family = family_of_layers(made.plan.terms)
    found: list[dict[str, dict[tuple[Term, bool], tuple[str, int]]]] = [{} for _ in made.plan.requests]
    for layer, terms in made.plan.terms.items():
        label = block_of(layer, family)
        for term in terms if label is not None else ():
            assert label is not None
            kinds, key = found[term.request].setdefault(label, {}), (term, is_text_encoder(layer))
            kinds[key] = (layer, kinds.get(key, (layer, 0))[1] + 1)
    result = []
    for request, blocks in zip(made.plan.requests, found, strict=True):
        strengths = request.unet_strengths(made.steps, made.sigmas)
        means = {label: _mean(made, blocks[label]) for label in labels_of(family) if label in blocks}
        in_unet = [
            means[label] for label, kinds in blocks.items() if not any(is_te for _term, is_te in kinds)
        ]
        result.append(Course(request.name, strengths, means if set(in_unet) - {strengths} else {}))
    return result


def _mean(made: Pass, kinds: Mapping[tuple[Term, bool], tuple[str, int]]) -> Strengths:
    """The mean over the layers of a block; layers of one kind have the same course."""
    if len(kinds) == 1:
        (((term, _is_te), (layer, _count)),) = kinds.items()
        return made.course(layer, term)
    total = sum(count for _layer, count in kinds.values())
    parts = [(made.course(layer, term), count) for (term, _is_te), (layer, count) in kinds.items()]
    return tuple(sum(course[step] * count for course, count in parts) / total for step in range(made.steps))
