"""Vectors of a plot's cells: ``R``, ``U`` and ``X`` in them keep their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from lbw.plots.axes import Blocks, Change
from lbw.plots.tags import VARIED
from lbw.tags.families import Family
from lbw.tags.library import Library
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
    if not blocks:
        return replace(vector, values=dict.fromkeys(vector.values, value))
    written = frozenset().union(*(each.written for each in blocks))
    if written - set(vector.values):
        vector = vector.written_out()
    encoders = [name for name in vector.family.encoders if name in written and name not in vector.values]
    values = {**vector.values, **{name: vector.values["BASE"] for name in encoders}}

    def is_selected(name: str) -> bool:
        names = (name, "BASE") if name in encoders else vector.family.groups.get(name, (name,))
        return any(each.selector.selects(names) for each in blocks)

    return replace(
        vector, values={name: value if is_selected(name) else known for name, known in values.items()}
    )


def complement(vector: Vector) -> Vector:
    """1 minus each value. ``R``, ``U`` and ``X`` stay, as in the original extension."""
    values = {name: _complement(value) for name, value in vector.written_out().values.items()}
    return replace(vector.written_out(), values=values)


def _complement(value: str) -> str:
    try:
        return shown(1 - float(value))
    except ValueError:
        return value


def _combined(first: Vector, second: Vector) -> Vector:
    if list(first.values) != list(second.values):
        first, second = first.written_out(), second.written_out()
    values = {
        name: second.values.get(name, value) if is_zero(value) else value for name, value in first.values.items()
    }
    return replace(first, values=values)
