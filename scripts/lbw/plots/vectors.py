"""Vectors of a plot's cells: ``R``, ``U`` and ``X`` in them keep their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from lbw.plots.axes import Blocks, Change
from lbw.tags.families import Family
from lbw.tags.library import VARIED, Library
from lbw.tags.prompt import Warn
from lbw.tags.weights import Vector, is_zero, shown


def varied_base(library: Library, family: Family, warn: Warn) -> Vector:
    """The vector that a plot changes in tags with ``lbw=XYZ``: that of the preset, or else 1 in all blocks."""
    try:
        return library.vector(VARIED if VARIED in library.presets else "1", family)
    except ValueError as error:
        warn(f"preset {VARIED}: {error}; all blocks are 1")
        return library.vector("1", family)


def changed(base: Vector, change: Change) -> Vector:
    """The vector of a cell.

    Args:
        base: what it is made from, unless ``change`` brings original vectors.

    Several original vectors are combined: in each block the first one counts that is not 0. Where blocks are to be
    changed that the layout lacks, the vector is written out for all blocks of its family, which does not change what it
    means.
    """
    vector = reduce(_combined, change.originals or (base,))
    return vector if change.value is None else _with_value(vector, change.value, change.blocks)


def _with_value(vector: Vector, value: str, blocks: Sequence[Blocks]) -> Vector:
    if vector.fill != "0":  # with 0, it stays as short as the original's, which changes what it has values for
        vector = vector.complete()
    if not blocks:
        return replace(vector, values=dict.fromkeys(vector.values, value))
    written = frozenset().union(*(each.written for each in blocks))
    if written - set(vector.values):
        vector = vector.complete()
    values = {**vector.values}
    selectors = [each.selector for each in blocks]
    for encoder in vector.family.single_encoders:
        if encoder in written:
            values.setdefault(encoder, values["BASE"])

    def is_selected(name: str) -> bool:
        names = (name, "BASE") if name in vector.family.single_encoders else vector.family.expand(name)
        return any(selector.selects(names) for selector in selectors)

    return replace(vector, values={name: value if is_selected(name) else known for name, known in values.items()})


def complement(vector: Vector) -> Vector:
    """1 minus each value. ``R``, ``U`` and ``X`` stay, as in the original extension."""
    vector = vector.complete()
    return replace(vector, values={name: _complement(value) for name, value in vector.values.items()})


def _complement(value: str) -> str:
    try:
        return shown(1 - float(value))
    except ValueError:
        return value


def _combined(first: Vector, second: Vector) -> Vector:
    if list(first.values) != list(second.values):
        first, second = first.complete(), second.complete()

    def value(name: str) -> str:
        """An encoder that a vector does not name has the value of all."""
        one, two = (values.get(name, values.get("BASE", "0")) for values in (first.values, second.values))
        return two if is_zero(one) else one

    return replace(first, values={name: value(name) for name in (*first.values, *second.values)})
