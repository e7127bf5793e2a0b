"""What tags can refer to: named vectors and rule sets. And the random values of an image that is to be made again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property

from lbw.tags import named_weights
from lbw.tags.curves import is_curve, split_keyframes
from lbw.tags.elements import ElementRule, parse_rules
from lbw.tags.families import Family
from lbw.tags.limits import MOST_NESTED_PRESETS, listed, shortened
from lbw.tags.presets import parse_presets, parse_rule_sets, unusable_lines
from lbw.tags.slips import narrow
from lbw.tags.weights import Vector, is_named, is_value, is_vector, parse_vector

VARIED, INVERSE = "XYZ", "ZYX"
"""Names that mark what a plot fills in, unless a preset is called so."""

FILLED_IN = f"it is filled in by the {VARIED} plot, which is off"


@dataclass(frozen=True)
class Drawn:
    """The vectors that an image was made with where they had random values: {network name: vectors}.

    ``hires`` are those of the hires pass, of networks for which they were others.
    """

    seed: int
    vectors: Mapping[str, tuple[str, ...]]
    hires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_MOST_COMPARED, _LONGEST_COMPARED = 1000, 60
"""How many names, and of how many characters, are compared with one that is wrong: whoever asks may have sent both."""


def _nearest(name: str, names: Iterable[str]) -> str:
    """What was expected instead of a name, the nearest first."""
    names = list(names)
    short = {each.lower(): each for each in names[:_MOST_COMPARED] if len(each) <= _LONGEST_COMPARED}
    found = get_close_matches(name.strip().lower(), short, n=1) if len(name) <= _LONGEST_COMPARED else []
    nearest = "".join(f"the nearest is {short[each]}; " for each in found)
    return f"{nearest}expected one of {listed(names)}"


@dataclass
class _Names:
    """The names of a file, found in any case, and with the signs of any keyboard."""

    names: Collection[str]

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        alike: dict[str, list[str]] = {}
        for name in self.names:
            alike.setdefault(narrow(name).lower(), []).append(name)
        return alike

    def find(self, name: str) -> str:
        """A name as the file has it, where one alone differs in nothing but that; else as it stands."""
        name = name.strip()
        alike = [] if name in self.names else self._alike.get(narrow(name).lower(), [])
        return alike[0] if len(alike) == 1 else name


@dataclass
class _Reading:
    """Presets that others begin with are read once each, however many lines name them."""

    family: Family
    depth: int = 0
    known: dict[str, Vector | ValueError] = field(default_factory=dict)

    def once(self, name: str, read: Callable[[], Vector]) -> Vector:
        """
        Raises:
            ValueError: the preset cannot be used, begins with itself, or too many begin with one another.
        """
        if name not in self.known:
            self.known[name] = ValueError("a preset that begins with itself")
            if self.depth == MOST_NESTED_PRESETS:
                raise ValueError(f"more than {MOST_NESTED_PRESETS} presets that begin with one another")
            self.depth += 1
            try:
                self.known[name] = read()
            except ValueError as error:
                self.known[name] = error
            finally:
                self.depth -= 1
        found = self.known[name]
        if isinstance(found, ValueError):
            raise found
        return found


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
    unusable: Mapping[str, str] = field(default_factory=dict)
    """{name: what is wrong} of lines that look like presets and are none."""
    _known: dict[tuple[str, Family], tuple[str, Vector]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def read(cls, presets: str, rule_sets: str, default_preset: str) -> Library:
        """The library of texts as their files and arguments have them; lines that cannot be used are left out."""
        found = parse_presets(presets)[0]
        default = _Names(found).find(default_preset)
        return cls(
            found,
            parse_rule_sets(rule_sets)[0],
            (default if default in found else narrow(default).strip()) or None,
            unusable=unusable_lines(presets),
        )

    @cached_property
    def _preset_names(self) -> _Names:
        return _Names(self.presets)

    @cached_property
    def _rule_set_names(self) -> _Names:
        return _Names(self.rule_sets)

    def in_pass(self, is_hires: bool) -> Library:
        """What it is in one of the passes of an image."""
        if not is_hires or self.drawn is None or not self.drawn.hires:
            return self
        return replace(self, drawn=replace(self.drawn, vectors={**self.drawn.vectors, **self.drawn.hires}))

    def names(self, weights: str) -> list[str]:
        """The presets that ``lbw=weights`` names, and those that begin them."""
        try:
            rest = [name.strip() for name, _ in reversed(self.keyframes(weights))]
        except ValueError:
            return []
        seen: dict[str, None] = {}
        while rest:
            name = self.name_of(rest.pop())
            if name in seen:
                continue
            seen[name] = None
            starts = [text.partition(",")[0].strip() for text in self.texts(name) if is_named(text)]
            rest += [start for start in reversed(starts) if "=" not in start and start not in named_weights.STARTS]
        return [name for name in seen if name in self.presets]

    def texts(self, weights: str) -> tuple[str, ...]:
        """What ``lbw=weights`` may mean: the lines of the preset of this name, or what stands there."""
        return self.presets.get(self.name_of(weights), (weights,))

    def name_of(self, weights: str) -> str:
        """The name of a preset as its file has it; of what is none, what stands there."""
        is_its_own = weights.strip() in named_weights.STARTS or is_value(weights.strip())
        return weights.strip() if is_its_own else self._preset_names.find(weights)

    def rule_set_name(self, elements: str) -> str:
        """The name of a set of element rules as its file has it; of what is none, what stands there."""
        return self._rule_set_names.find(elements)

    def rules(self, elements: str, family: Family) -> tuple[ElementRule, ...]:
        """What ``lbwe=elements`` means on a model of ``family``: a set's name, or rules.

        Raises:
            ValueError: there is no such set, or its rules cannot be used.
        """
        name = self.rule_set_name(elements)
        if name not in self.rule_sets and ":" not in elements:
            if name == VARIED:
                raise ValueError(FILLED_IN)
            raise ValueError(f"no rule set of this name; {_nearest(elements, self.rule_sets)}")
        return parse_rules(self.rule_sets.get(name, elements), family)

    def missing(self, weights: str) -> str:
        """Why ``lbw=weights``, which :meth:`knows` does not know, is no preset."""
        fault = self.unusable.get(_Names(self.unusable).find(weights))
        if fault is None and weights.strip() in (VARIED, INVERSE):
            return FILLED_IN
        return fault or f"no preset of this name; {_nearest(weights, self.presets)}"

    def knows(self, weights: str) -> bool:
        """Whether ``lbw=weights`` names a preset, or has values."""
        return self.name_of(weights) in self.presets or is_vector(weights) or named_weights.is_named_or_for_all(weights)

    def vector(self, weights: str, family: Family) -> Vector:
        """What ``lbw=weights`` means on a model of ``family``.

        Of several lines of a preset the one counts that fits best, and of equals the last. ``ALL`` and ``NONE`` are for
        all blocks where the presets of these names do not fit.

        Raises:
            ValueError: there is no such preset, or what it names cannot be used.
        """
        return self._read(weights, family)[1]

    def line(self, name: str, family: Family) -> str | None:
        """The line of a preset that counts on a model of ``family``; None if none does."""
        with contextlib.suppress(ValueError):
            return self._read(name, family)[0]
        return None

    def _read(self, weights: str, family: Family) -> tuple[str, Vector]:
        """The text that counts, and what it means."""
        if (weights, family) not in self._known:
            self._known[weights, family] = self._find(weights, _Reading(family))
        return self._known[weights, family]

    def _find(self, weights: str, reading: _Reading) -> tuple[str, Vector]:
        if not self.knows(weights):
            raise ValueError(self.missing(weights))

        def vector_of(name: str) -> Vector:
            try:
                return reading.once(name, lambda: self._find(name, reading)[1])
            except ValueError as error:
                raise ValueError(f"{shortened(name)}: {error}") from None

        def read(text: str) -> Vector:
            if named_weights.is_named_or_for_all(text):
                return named_weights.parse_named(text, reading.family, vector_of)
            return parse_vector(text, reading.family)

        fitting, failures = [], []
        for text in self.texts(weights):
            try:
                fitting.append((text, read(text)))
            except ValueError as error:
                failures.append(error)
        if fitting:
            return max(reversed(fitting), key=lambda found: found[1].fit)
        if weights.strip() in named_weights.STARTS:
            return weights, read(weights)
        if len(failures) == 1:
            raise failures[0]
        raise ValueError(f"none of its {len(failures)} lines is for this model; of the last one, {failures[-1]}")

    def keyframes(self, weights: str) -> list[tuple[str, str]]:
        """(name or vector, position) of each keyframe of ``lbw=weights``; one without position if it is no curve.

        Raises:
            ValueError: there are too many.
        """
        if weights.strip() in self.presets or not is_curve(weights):
            return [(weights, "")]
        return split_keyframes(weights)
