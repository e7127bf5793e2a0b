"""What a sampling pass comes to: the strength of each tag in each step, and in each block where blocks differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lbw.plan.plan import Pass, Plan, Term
from lbw.tags.families import Family, is_text_encoder

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


@dataclass(frozen=True)
class Kind:
    """What layers of one request have in common that have the same course: block, term, and which part of the model.

    ``block`` is None for layers in no block.
    """

    block: str | None
    term: Term
    is_text_encoder: bool


def layers_by_kind(plan: Plan) -> list[dict[Kind, list[str]]]:
    """For each request, the layers of each kind."""
    found: list[dict[Kind, list[str]]] = [{} for _ in plan.requests]
    for layer, terms in plan.terms.items():
        label, is_te = plan.family.block_of(layer), is_text_encoder(layer)
        for term in terms:
            found[term.request].setdefault(Kind(label, term, is_te), []).append(layer)
    return found


def blocks_at_0(requests: Iterable[Iterable[Kind]], family: Family) -> list[tuple[str, ...]]:
    """For each request, the blocks in which its network has parts, all of which have the ratio 0 at all times.

    Args:
        requests: the kinds of its layers.
    """
    found = []
    for kinds in requests:
        present = {kind.block for kind in kinds}
        on = {kind.block for kind in kinds if kind.term.ratio != 0}
        found.append(tuple(label for label in family.labels if label in present - on))
    return found


def courses(made: Pass) -> list[Course]:
    """The course of each tag of a pass. Layers in no block are left out."""
    result = []
    for request, kinds in zip(made.plan.requests, layers_by_kind(made.plan), strict=True):
        blocks: dict[str, list[tuple[Strengths, int]]] = {}
        in_text_encoder = set()
        for kind, layers in kinds.items():
            if kind.block is not None:
                blocks.setdefault(kind.block, []).append((made.course(layers[0], kind.term), len(layers)))
                if kind.is_text_encoder:
                    in_text_encoder.add(kind.block)
        strengths = made.unet_strengths(request)
        means = {label: _mean(blocks[label]) for label in made.plan.family.labels if label in blocks}
        differ = any(means[label] != strengths for label in means.keys() - in_text_encoder)
        result.append(Course(request.name, strengths, means if differ else {}))
    return result


def _mean(found: Sequence[tuple[Strengths, int]]) -> Strengths:
    """The mean over the layers of a block, given the strengths of each kind and how many layers it has."""
    if len(found) == 1:
        return found[0][0]
    total = sum(count for _strengths, count in found)
    return tuple(
        sum(strength * count for strength, (_, count) in zip(step, found, strict=True)) / total
        for step in zip(*(strengths for strengths, _count in found), strict=True)
    )
