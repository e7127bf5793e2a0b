"""Vectors of a plot's cells, as texts: ``R``, ``U`` and ``X`` in them keep their meaning."""

from __future__ import annotations

from functools import reduce

from lbw.plots.axes import Change
from lbw.plots.tags import VARIED
from lbw.tags.blocks import LAYOUTS, Family, family_of_layout, labels_of
from lbw.tags.library import Library
from lbw.tags.prompt import Warn
from lbw.tags.weights import ones, shown

_Values = dict[str, str]
"""{block label: value}, in the order of a layout."""


def varied_base(library: Library, family: Family, warn: Warn) -> str:
    """The vector that a plot changes in tags with ``lbw=XYZ``: that of the preset, or else 1 in all blocks."""
    try:
        return library.written(VARIED, family) if VARIED in library.presets else ones(family)
    except ValueError as error:
        warn(f"preset {VARIED}: {error}; all blocks are 1")
        return ones(family)


def is_vector(text: str) -> bool:
    """Whether a text has as many values as a layout."""
    return text.count(",") + 1 in LAYOUTS


def changed(base: str, change: Change) -> str:
    """The vector of a cell.

    Args:
        base: what it is made from, unless ``change`` brings original vectors. Both have a length that a layout has.

    Several original vectors are combined: in each block the first one counts that is not 0. Where blocks are to be
    changed that the layout lacks, the vector is written out for all blocks of its family, which does not change what it
    means.
    """
    values = reduce(_combined, map(_split, change.originals or (base,)))
    if change.value is not None:
        written = frozenset().union(*(blocks.written for blocks in change.blocks))
        if written & (set(_all_labels(values)) - set(values)):
            values = _written_out(values)
        selectors = [blocks.selector for blocks in change.blocks]
        values = {
            label: change.value if not selectors or any(one.selects(label in one.words) for one in selectors) else value
            for label, value in values.items()
        }
    return ",".join(values.values())


def complement(vector: str) -> str:
    """1 minus each value. ``R``, ``U`` and ``X`` stay, as in the original extension."""
    return ",".join(map(_complement, vector.split(",")))


def _complement(value: str) -> str:
    try:
        return shown(1 - float(value))
    except ValueError:
        return value


def _split(vector: str) -> _Values:
    values = [value.strip() for value in vector.split(",")]
    return dict(zip(LAYOUTS[len(values)], values, strict=True))


def _all_labels(values: _Values) -> tuple[str, ...]:
    return labels_of(family_of_layout(len(values)))


def _written_out(values: _Values) -> _Values:
    return {label: values.get(label, "0") for label in _all_labels(values)}


def _combined(first: _Values, second: _Values) -> _Values:
    if list(first) != list(second):
        first, second = _written_out(first), _written_out(second)
    return {label: second.get(label, value) if _is_zero(value) else value for label, value in first.items()}


def _is_zero(value: str) -> bool:
    try:
        return float(value) == 0
    except ValueError:
        return False
