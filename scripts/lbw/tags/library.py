"""What tags can refer to: named vectors and rule sets. And the random values of an image that is to be made again."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from lbw.tags import named_weights
from lbw.tags.curves import is_curve, split_keyframes
from lbw.tags.families import Family
from lbw.tags.limits import listed, shortened
from lbw.tags.presets import parse_presets, parse_rule_sets
from lbw.tags.weights import Vector, is_named, is_vector, parse_vector


@dataclass(frozen=True)
class Drawn:
    """The vectors that an image was made with where they had random values: {network name: vectors}."""

    seed: int
    vectors: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Library:
    """What a generation brings besides its tags: presets, {name: texts of its lines}, rule sets, {name: text}, and more
    to go with them.

    ``default_preset`` is the ``lbw=`` of every tag that has none of its own. ``drawn`` are random values of an earlier
    image that is to be made again.
    """

    presets: Mapping[str, tuple[str, ...]]
    rule_sets: Mapping[str, str]
    default_preset: str | None = None
    drawn: Drawn | None = None

    @classmethod
    def read(cls, presets: str, rule_sets: str, default_preset: str) -> Library:
        """The library of texts as their files and arguments have them; lines that cannot be used are left out."""
        return cls(parse_presets(presets)[0], parse_rule_sets(rule_sets)[0], default_preset.strip() or None)

    def names(self, weights: str) -> list[str]:
        """The presets that ``lbw=weights`` names, and those that begin them."""
        found: list[str] = []

        def note(text: str) -> None:
            text = text.strip()
            if text in found:
                return
            if text in self.presets:
                found.append(text)
            for meant in self.texts(text):
                start = meant.partition(",")[0]
                if is_named(meant) and "=" not in start and start not in named_weights.STARTS:
                    note(start)

        with contextlib.suppress(ValueError):
            for name, _ in self.keyframes(weights):
                note(name)
        return found

    def texts(self, weights: str) -> tuple[str, ...]:
        """What ``lbw=weights`` may mean: the lines of the preset of this name, or what stands there."""
        return self.presets.get(weights.strip(), (weights,))

    def knows(self, weights: str) -> bool:
        """Whether ``lbw=weights`` names a preset, or has values."""
        return weights.strip() in self.presets or is_vector(weights) or named_weights.is_written_out(weights)

    def vector(self, weights: str, family: Family) -> Vector:
        """What ``lbw=weights`` means on a model of ``family``.

        Of several lines of a preset the one counts that fits best, and of equals the last. ``ALL`` and ``NONE`` are for
        all blocks where the presets of these names do not fit.

        Raises:
            ValueError: there is no such preset, or what it names cannot be used.
        """
        return self._vector(weights, family, frozenset())

    def _vector(self, weights: str, family: Family, within: frozenset[str]) -> Vector:
        """``within`` are the presets that this one stands in."""
        if not self.knows(weights):
            raise ValueError(f"no preset of this name; expected one of {listed(self.presets)}")

        def vector_of(name: str) -> Vector:
            if name in within:
                raise ValueError(f"{shortened(name)}: a preset that begins with itself")
            try:
                return self._vector(name, family, within | {name})
            except ValueError as error:
                raise ValueError(f"{shortened(name)}: {error}") from None

        fitting, failures = [], []
        for text in self.texts(weights):
            try:
                is_written_out = named_weights.is_written_out(text)
                fitting.append(
                    named_weights.written_out(text, family, vector_of) if is_written_out else parse_vector(text, family)
                )
            except ValueError as error:
                failures.append(error)
        if not fitting and weights.strip() in named_weights.STARTS:
            return named_weights.written_out(weights, family, vector_of)
        if len(failures) > 1 and not fitting:
            raise ValueError(f"none of its {len(failures)} lines is for this model; of the last one, {failures[-1]}")
        if not fitting:
            raise failures[-1]
        return max(reversed(fitting), key=lambda vector: vector.fit)

    def keyframes(self, weights: str) -> list[tuple[str, str]]:
        """(name or vector, position) of each keyframe of ``lbw=weights``; one without position if it is no curve.

        Raises:
            ValueError: there are too many.
        """
        if weights.strip() in self.presets or not is_curve(weights):
            return [(weights, "")]
        return split_keyframes(weights)
