"""What tags can refer to: named vectors and rule sets. And the random values of an image that is to be made again."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from lbw.tags.curves import is_curve, split_keyframes
from lbw.tags.presets import parse_presets, parse_rule_sets


@dataclass(frozen=True)
class Drawn:
    """The vectors that an image was made with where they had random values: {network name: vectors}."""

    seed: int
    vectors: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Library:
    """What a generation brings besides its tags: named vectors and rule sets, {name: text}, and more to go with them.

    ``default_preset`` is the ``lbw=`` of every tag that has none of its own. ``drawn`` are random values of an earlier
    image that is to be made again.
    """

    presets: Mapping[str, str]
    rule_sets: Mapping[str, str]
    default_preset: str | None = None
    drawn: Drawn | None = None

    @classmethod
    def read(cls, presets: str, rule_sets: str, default_preset: str) -> Library:
        """The library of texts as their files and arguments have them; lines that cannot be used are left out."""
        return cls(parse_presets(presets)[0], parse_rule_sets(rule_sets)[0], default_preset.strip() or None)

    def names(self, weights: str) -> list[str]:
        """The presets that ``lbw=weights`` names."""
        with contextlib.suppress(ValueError):
            return [name.strip() for name, _ in self.keyframes(weights) if name.strip() in self.presets]
        return []

    def vector(self, weights: str) -> str:
        """The vector that ``lbw=weights`` means: the preset of this name, or what stands there."""
        return self.presets.get(weights.strip(), weights)

    def keyframes(self, weights: str) -> list[tuple[str, str]]:
        """(name or vector, position) of each keyframe of ``lbw=weights``; one without position if it is no curve.

        Raises:
            ValueError: there are too many.
        """
        if weights.strip() in self.presets or not is_curve(weights):
            return [(weights, "")]
        return split_keyframes(weights)
