"""The plan of one sampling pass: requests + presets + layers -> one coefficient for each (network, layer, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from lbw.blocks import LAYOUTS, SDXL_LABELS, Family, block_of, family_of_layers, is_text_encoder
from lbw.elements import ElementRule, parse_rules, ratio_of
from lbw.limits import shortened
from lbw.prompt import LoraRequest, Warn
from lbw.schedule import Schedule
from lbw.weights import BlockWeights, parse_weights, with_drawn, zeroed_sdxl_blocks


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

    def vector(self, weights: str) -> str:
        """The vector that ``lbw=weights`` means: the preset of this name, or what stands there."""
        return self.presets.get(weights.strip(), weights)


@dataclass(frozen=True)
class Term:
    """One request's share in one layer: ratio times multiplier times the strength of a schedule.

    ``request`` and ``schedule`` are indices into the plan's tables. ``schedule`` is None for a layer that no schedule
    switches: the text encoder runs once, before sampling.
    """

    request: int
    ratio: float
    schedule: int | None


class Coefficients(Mapping[str, tuple[float, ...]]):
    """{layer: one coefficient for each network}.

    Layers whose coefficients are equal in every step of a plan are a group: there are some dozens of groups and many
    hundreds of layers, so whoever asks by group asks less.

    Args:
        groups: {layer: its group}. All coefficients of a plan share one such mapping.
        values: the coefficients of each group.
    """

    def __init__(self, groups: Mapping[str, int], values: Sequence[tuple[float, ...]]) -> None:
        self.groups = groups
        self.values_of_groups = values

    def __getitem__(self, layer: str) -> tuple[float, ...]:
        return self.values_of_groups[self.groups[layer]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        return f"Coefficients({dict(self)})"

    @classmethod
    def of(cls, coefficients: Mapping[str, tuple[float, ...]]) -> Coefficients:
        """Coefficients that were not made by a plan: layers with equal values become a group."""
        numbers = {values: number for number, values in enumerate(dict.fromkeys(coefficients.values()))}
        return cls({layer: numbers[values] for layer, values in coefficients.items()}, tuple(numbers))


@dataclass(frozen=True)
class Plan:
    """What the weights should be in each step of a pass.

    ``terms`` maps a layer to the terms that add up in it. A schedule belongs to a term, not to a request, so layers of
    one network may follow different schedules. ``weights`` are the block weights of each request.
    """

    requests: tuple[LoraRequest, ...]
    networks: tuple[str, ...]
    schedules: tuple[Schedule, ...]
    terms: Mapping[str, tuple[Term, ...]]
    weights: tuple[BlockWeights | None, ...]

    def strengths(self, step: int, steps: int) -> tuple[float, ...]:
        """The value of each schedule: two steps with equal strengths have equal coefficients."""
        return tuple(schedule.strength(step, steps) for schedule in self.schedules)

    @cached_property
    def _groups(self) -> tuple[dict[str, int], tuple[tuple[bool, tuple[Term, ...]], ...]]:
        """{layer: group}, and what the layers of each group have in common."""
        numbers: dict[tuple[bool, tuple[Term, ...]], int] = {}
        groups = {
            layer: numbers.setdefault((is_text_encoder(layer), terms), len(numbers))
            for layer, terms in self.terms.items()
        }
        return groups, tuple(numbers)

    def coefficients(self, step: int, steps: int) -> Coefficients:
        """{layer: one coefficient for each of ``networks``} at ``step`` of ``steps``."""
        strengths = self.strengths(step, steps)
        index = {name: i for i, name in enumerate(self.networks)}
        multipliers = [
            (index[request.name], request.te_multiplier, request.unet_multiplier) for request in self.requests
        ]
        groups, members = self._groups
        values = []
        for text_encoder, terms in members:
            sums = [0.0] * len(self.networks)
            for term in terms:
                network, te, unet = multipliers[term.request]
                strength = 1.0 if term.schedule is None else strengths[term.schedule]
                sums[network] += (te if text_encoder else unet) * term.ratio * strength
            values.append(tuple(sums))
        return Coefficients(groups, values)

    @property
    def is_plain(self) -> bool:
        """Whether the host would bring the weights to the same strengths by itself, in every step."""
        return len(self.networks) == len(self.requests) and all(request.is_plain for request in self.requests)

    def with_multipliers(self, name: str, te_multiplier: float, unet_multiplier: float) -> Plan:
        """The plan after somebody else changed a network's multipliers: every request for it uses the new ones."""
        requests = tuple(
            replace(request, te_multiplier=te_multiplier, unet_multiplier=unet_multiplier)
            if request.name == name
            else request
            for request in self.requests
        )
        return replace(self, requests=requests)

    def text_encoder_ratios(self) -> tuple[tuple[str, tuple[tuple[int, float], ...]], ...]:
        """What a cached text conditioning depends on beyond the tags' text: all ratios in the text encoder but 1."""
        ratios = (
            (layer, tuple((term.request, term.ratio) for term in terms))
            for layer, terms in sorted(self.terms.items())
            if is_text_encoder(layer)
        )
        return tuple((layer, pairs) for layer, pairs in ratios if [ratio for _, ratio in pairs] != [1.0])


def _names(names: Iterable[str]) -> str:
    return shortened(", ".join(names), 400) or "none"


def _weights(request: LoraRequest, library: Library, seed: int, warn: Warn) -> BlockWeights | None:
    """The block weights of a request; None, with a warning, where it names something that cannot be used.

    Random values depend on the seed and the network's name alone, so that other tags do not change them.
    """
    if request.weights is None:
        return None
    vector = library.vector(request.weights)
    where = f"<lora:{shortened(request.name)}>: lbw={shortened(request.weights)}"
    if "," not in vector:
        warn(f"{where}: no preset of this name; expected one of {_names(library.presets)}; all blocks are 1")
        return None
    if library.drawn is not None and library.drawn.seed == seed:
        drawn = (with_drawn(vector, request.x, text) for text in library.drawn.vectors.get(request.name, ()))
        vector = next((text for text in drawn if text is not None), vector)
    try:
        return parse_weights(vector, request.x, Random(f"{seed}/{request.name}"))
    except ValueError as error:
        warn(f"{where}: {error}; all blocks are 1")
        return None


def _rules(request: LoraRequest, library: Library, warn: Warn) -> tuple[ElementRule, ...]:
    if request.elements is None:
        return ()
    text = library.rule_sets.get(request.elements.strip())
    where = f"<lora:{shortened(request.name)}>: lbwe={shortened(request.elements)}"
    if text is None:
        warn(f"{where}: no rule set of this name; expected one of {_names(library.rule_sets)}; "
             "the tag works without it")
        return ()
    try:
        return parse_rules(text)
    except ValueError as error:
        warn(f"{where}: {error}; the tag works without it")
        return ()


def _check_family(weights: BlockWeights, family: Family, is_sdxl: bool, request: LoraRequest, warn: Warn) -> bool:
    """Whether the vector is for this model; warns where it is not, and where it zeroes blocks by being too short."""
    where = f"<lora:{shortened(request.name)}>: lbw={shortened(request.weights or '')}"
    if weights.family is not family:
        warn(f"{where}: a vector for {weights.family.value} models does not fit "
             f"this {family.value} model; all blocks are 1")
        return False
    zeroed = zeroed_sdxl_blocks(weights) if is_sdxl else ()
    if zeroed:
        warn(f"{where}: {len(weights.given)} values are for SD1 and leave "
             f"{', '.join(zeroed)} of this SDXL model at 0; expected {len(LAYOUTS[12])} or {len(SDXL_LABELS)} values")
    return True


def _ratio_function(
    weights: BlockWeights | None, rules: Sequence[ElementRule], family: Family, known: dict[tuple[str, float], float]
) -> Callable[[str], float]:
    """The ratio of a layer; ``known`` holds what has been computed with the same rules, {(layer, block's ratio)}."""

    def ratio(layer: str) -> float:
        label = block_of(layer, family)
        block_ratio = 1.0 if weights is None or label is None else weights.ratios.get(label, 1.0)
        if not rules:
            return block_ratio
        if (layer, block_ratio) not in known:
            known[layer, block_ratio] = ratio_of(rules, label, layer, block_ratio)
        return known[layer, block_ratio]

    return ratio


def build(
    requests: Sequence[LoraRequest],
    layers: Mapping[str, Iterable[str]],
    library: Library,
    warn: Warn,
    *,
    model_layers: Iterable[str] = (),
    is_sdxl: bool = False,
    seed: int = 0,
) -> Plan:
    """Build the plan of a pass.

    Args:
        requests: the tags whose networks are loaded, in the host's order; a name may occur more than once, and then
            all its requests count.
        layers: {network name: the layers that the network has a delta for}.
        library: presets and rule sets, and the default preset.
        warn: gets one message for each argument that cannot be used.
        model_layers: layer names of the model, which tell its family.
        is_sdxl: whether to warn of SDXL blocks that a vector leaves at 0.
        seed: the image's seed, which the random values ``R`` and ``U`` follow.
    """
    family = family_of_layers(model_layers)
    terms: dict[str, list[Term]] = {}
    schedules = tuple(dict.fromkeys(request.schedule for request in requests))
    resolved = []
    known: dict[str | None, dict[tuple[str, float], float]] = {}
    if library.default_preset is not None:
        requests = [
            replace(request, weights=library.default_preset) if request.weights is None else request
            for request in requests
        ]
    for index, request in enumerate(requests):
        weights = _weights(request, library, seed, warn)
        if weights is not None and not _check_family(weights, family, is_sdxl, request, warn):
            weights = None
        resolved.append(weights)
        ratio = _ratio_function(
            weights, _rules(request, library, warn), family, known.setdefault(request.elements, {})
        )
        schedule = schedules.index(request.schedule)
        for layer in layers.get(request.name, ()):
            term = Term(index, ratio(layer), None if is_text_encoder(layer) else schedule)
            terms.setdefault(layer, []).append(term)
    networks = tuple(dict.fromkeys(request.name for request in requests))
    return Plan(
        tuple(requests),
        networks,
        schedules,
        {key: tuple(value) for key, value in terms.items()},
        tuple(resolved),
    )
