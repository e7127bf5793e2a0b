"""Block weights over time: what ``lbw=OUTD`` or ``lbw=NONE@0,OUTD@0.5`` of a tag comes to, with its random values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from lbw.tags.families import Family
from lbw.tags.library import Library
from lbw.tags.limits import shortened
from lbw.tags.positions import Position, parse_places
from lbw.tags.prompt import LoraRequest, Warn
from lbw.tags.weights import BlockWeights, Vector, draw, has_random_value, with_drawn


@dataclass(frozen=True)
class Keyframe:
    """Block weights at a position; without one where they are the same all the time."""

    weights: BlockWeights
    position: Position | None = None


def keyframes_of(
    request: LoraRequest, library: Library, family: Family, seed: int, warn: Warn
) -> tuple[Keyframe, ...]:
    """The block weights of a request on a model of ``family``; none, with a warning, where it names something that
    cannot be used.

    Random values depend on the seed and the network's name alone, so that other tags do not change them.
    """
    if request.weights is None:
        return ()
    where = f"<lora:{shortened(request.name)}>: {request.weights_label}{shortened(request.weights)}"
    try:
        pairs = library.keyframes(request.weights)
        positions: Sequence[Position | None] = [None]
        if pairs != [(request.weights, "")]:
            positions = parse_places([position for _, position in pairs])
    except ValueError as error:
        warn(f"{where}: {error}; all blocks are 1")
        return ()
    drawn: list[str] = []
    if library.drawn is not None and library.drawn.seed == seed:
        drawn += library.drawn.vectors.get(request.name, ())
    random = Random(f"{seed}/{request.name}".encode(errors="surrogatepass"))  # a name may have half a character
    keyframes = []
    for (name, _), position in zip(pairs, positions, strict=True):
        shown = "" if position is None else f"{shortened(name, 40)!r}: "
        try:
            vector = library.vector(name, family)
        except ValueError as error:
            warn(f"{where}: {shown}{error}; all blocks are 1")
            return ()
        for note in vector.notes:
            warn(f"{where}: {shown}{note}")
        # The vector as it was written goes along, so that an infotext has its random values once more.
        weights = draw(_redrawn(vector, request.x, drawn), request.x, random)
        keyframes.append(Keyframe(replace(weights, vector=vector), position))
    return tuple(keyframes)


def _redrawn(vector: Vector, x: float, drawn: list[str]) -> Vector:
    """A vector with the values that were drawn for it at an earlier time, which are used up; as it is if none were."""
    items = [*vector.values.values()]
    if not has_random_value(items):
        return vector
    for index, text in enumerate(drawn):
        found = with_drawn(items, x, text)
        if found is not None:
            del drawn[index]
            return replace(vector, values=dict(zip(vector.values, found, strict=True)))
    return vector
