"""Make Weights: block weights by sliders, and as a line of the presets."""

from __future__ import annotations

from typing import Any

from lbw.request.model_routes import family_data
from lbw.tags.families import KNOWN
from lbw.tags.named_weights import as_preset
from lbw.tags.presets import with_preset

_FIRST = ("SD1/SD2", "SDXL", "SD3", "SD3.5 large", "Flux")
"""The families that stand first; the others are in the order of their table."""


def families() -> list[dict[str, Any]]:
    """All families, as the browser knows them."""
    in_order = sorted(KNOWN, key=lambda family: (*_FIRST, family.title).index(family.title))
    return [*map(family_data, in_order)]


def with_made(text: str, weights: str, name: str) -> str:
    """The text of the presets with one more.

    Raises:
        ValueError: it cannot be a preset.
    """
    return with_preset(text, name, as_preset(weights))
