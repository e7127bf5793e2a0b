"""Effective Block Analyzer: how much of an image each block changes, measured by turning one down at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lbw.plots.axes import Change, Meaning, Point, read_change, split_values
from lbw.tags.families import Family
from lbw.tags.limits import MOST_CELLS, number, shortened
from lbw.tags.named_weights import as_preset
from lbw.tags.prompt import Warn
from lbw.tags.weights import Vector, shown

PRESET_NAME = "ANALYZED"

_DEFAULT_RANGE = (0.5, 1.0)


@dataclass(frozen=True)
class Inquiry:
    """What is to be analyzed.

    Args:
        weight: of the block that is examined.
        other_weight: of all others.
        points: the blocks to be examined, one or several at a time.
        family: of the model.
        layout: of the vector that the result is written as.
    """

    weight: float
    other_weight: float
    points: tuple[Point, ...]
    family: Family
    layout: tuple[str, ...]

    def original(self) -> Change:
        """What the image is made with that others are compared to."""
        values = dict.fromkeys(self.family.labels, shown(self.other_weight))
        return Change(originals=(Vector(self.family, values, frozenset(values)),))

    def examined(self, point: Point) -> Change:
        return self.original() & point.change & Change(value=shown(self.weight))


def read_inquiry(weights: str, blocks: str, meaning: Meaning, warn: Warn) -> Inquiry:
    """What the analyzer's two texts ask for.

    Args:
        weights: ``0.5,1``, of the block and of all others.
        blocks: as the values of an axis of type Block ID, or all of a layout: ``17ALL``.
        warn: gets one message for each thing that cannot be used.
    """
    weight, other_weight = _read_range(weights, warn)
    name, family = blocks.strip(), meaning.family
    whole = re.fullmatch(r"(\d{1,3})ALL", name)
    layout = family.layouts.get(int(whole[1])) if whole else family.labels
    if layout is None:
        warn(f"blocks {name}: not for this {family.title} model; all its blocks are examined")
        layout = family.labels
    values = [name for name in layout if all(map(family.has, family.expand(name)))] if whole else split_values(blocks)
    points = []
    for value in values[:MOST_CELLS]:
        try:
            points.append(Point(value, read_change("Block ID", value, meaning)))
        except ValueError as error:
            warn(f"blocks: {error}; it is left out")
    return Inquiry(weight, other_weight, tuple(points), family, layout)


def _read_range(text: str, warn: Warn) -> tuple[float, float]:
    try:
        weight, other_weight = map(number, text.split(","))
    except ValueError:
        default = ",".join(map(shown, _DEFAULT_RANGE))
        warn(f"range {shortened(text)!r}: expected two numbers, such as {default}, which is used")
        return _DEFAULT_RANGE
    return weight, other_weight


def difference(image: Image.Image, original: Image.Image, threshold: float, colour: str) -> tuple[Image.Image, float]:
    """How two images of one size differ.

    Args:
        threshold: differences of a colour value, 0 to 255, up to it do not count.
        colour: ``black`` or ``white``, where nothing differs.

    Returns:
        The differences as a picture, and how many of the colour values count, in percent.
    """
    values = [np.asarray(each.convert("RGB"), dtype=np.int16) for each in (image, original)]
    differences = np.abs(values[0] - values[1]).astype(np.uint8)
    percent = float(np.mean(differences > threshold) * 100)
    return Image.fromarray(255 - differences if colour == "white" else differences), percent


def preset(inquiry: Inquiry, percents: Mapping[str, float]) -> str | None:
    """A preset in which each block has its share of the strongest one's effect.

    Args:
        percents: of each point, by its label; one that is missing was not measured.

    Blocks that were not examined are 1. None, if nothing had an effect.
    """
    strongest = max(percents.values(), default=0.0)
    if strongest == 0:
        return None
    family = inquiry.family
    encoders = [name for name in family.single_encoders if any(point.label.upper() == name for point in inquiry.points)]
    values: dict[str, str] = {}
    for name in (*inquiry.layout, *encoders):
        names = (name, "BASE") if name in encoders else family.expand(name)
        found = [
            percents[point.label] for point in inquiry.points for blocks in point.change.blocks
            if point.label in percents and blocks.selector.selects(names)
        ]
        values[name] = shown(round(max(found) / strongest, 2)) if found else "1"
    return f"{PRESET_NAME}:{as_preset(Vector(family, values, family.labels_in(inquiry.layout)).text)}"
