"""The plan of one sampling pass: requests + presets + layers -> one coefficient for each (network, layer, step)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lbw.plan.keyframes import Keyframe, keyframes_of
from lbw.tags.curves import Curve, Shape, constant
from lbw.tags.elements import ElementRule, ratio_of
from lbw.tags.families import Family, family_of_layers, is_text_encoder, label_ranges
from lbw.tags.library import Library
from lbw.tags.limits import shortened
from lbw.tags.positions import Sigmas
from lbw.tags.prompt import LoraRequest, Warn
from lbw.tags.schedule import ALWAYS, Schedule
from lbw.tags.weights import BlockWeights


@dataclass(frozen=True)
class Term:
    """One request's share in one layer: ratio times multiplier times the strength of a schedule.

    ``request`` and ``schedule`` are indices into the plan's tables. ``schedule`` is None for a layer whose strength no
    schedule changes. A ratio that follows a curve is 1 here, and the curve in the schedule.
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
    one network may follow different schedules. ``weights`` are the block weights of each request: none, one, or one for
    each keyframe. ``rules`` are the element rules of each request. ``family`` is that of the model.
    """

    requests: tuple[LoraRequest, ...]
    networks: tuple[str, ...]
    schedules: tuple[Schedule, ...]
    terms: Mapping[str, tuple[Term, ...]]
    weights: tuple[tuple[BlockWeights, ...], ...]
    rules: tuple[tuple[ElementRule, ...], ...]
    family: Family

    def strengths(
        self, step: int, steps: int, sigmas: Sigmas = (), evaluations: Sequence[int] = ()
    ) -> tuple[float, ...]:
        """The value of each schedule: two steps with equal strengths have equal coefficients."""
        return tuple(schedule.strength(step, steps, sigmas, evaluations) for schedule in self.schedules)

    @property
    def depends_on_noise(self) -> bool:
        """Whether a schedule follows the noise level, so that its strengths need to know it."""
        return any(schedule.depends_on_noise for schedule in self.schedules)

    @property
    def is_edited(self) -> bool:
        """Whether a tag is in its prompt at times only, so that its strength may change inside a step."""
        return any(schedule.presence is not None for schedule in self.schedules)

    @cached_property
    def _groups(self) -> tuple[dict[str, int], tuple[tuple[bool, tuple[Term, ...]], ...]]:
        """{layer: group}, and what the layers of each group have in common."""
        numbers: dict[tuple[bool, tuple[Term, ...]], int] = {}
        groups = {
            layer: numbers.setdefault((is_text_encoder(layer), terms), len(numbers))
            for layer, terms in self.terms.items()
        }
        return groups, tuple(numbers)

    def coefficients(
        self, step: int, steps: int, sigmas: Sigmas = (), evaluations: Sequence[int] = ()
    ) -> Coefficients:
        """{layer: one coefficient for each of ``networks``} at ``step`` of ``steps``."""
        strengths = self.strengths(step, steps, sigmas, evaluations)
        return self._sums(lambda share, term: share * _strength(term, strengths))

    def reach(self) -> Coefficients:
        """{layer: the largest magnitude that the coefficient of each of ``networks`` can have, in any step}."""
        largest = [schedule.largest for schedule in self.schedules]
        return self._sums(lambda share, term: abs(share) * _strength(term, largest))

    def _sums(self, part: Callable[[float, Term], float]) -> Coefficients:
        """For each layer and network the sum of what ``part`` makes of its terms, given the share without schedule."""
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
                sums[network] += part((te if text_encoder else unet) * term.ratio, term)
            values.append(tuple(sums))
        return Coefficients(groups, values)

    @property
    def is_plain(self) -> bool:
        """Whether the host would bring the weights to the same strengths by itself, in every step."""
        return len(self.networks) == len(self.requests) and all(request.is_plain for request in self.requests)

    def with_multipliers(self, name: str, te_multiplier: float, unet_multiplier: float) -> Plan:
        """The plan after somebody else changed a network's multipliers: every request for it uses the new ones, but for
        the strength that a hand has set."""
        requests = tuple(
            replace(
                request,
                te_multiplier=te_multiplier,
                unet_multiplier=request.unet_multiplier if request.is_played else unet_multiplier,
            )
            if request.name == name
            else request
            for request in self.requests
        )
        return replace(self, requests=requests)

    def with_request(self, index: int, request: LoraRequest) -> Plan:
        """The plan after a request got another strength and another schedule in the U-Net, as :func:`build` would make
        it. The text encoder, which has run, keeps what it had."""
        own = len(self.requests[index].schedule.curves)
        users: dict[int | None, set[tuple[int, bool]]] = {}
        for of_text_encoder, terms in self._groups[1]:
            for term in terms:
                users.setdefault(term.schedule, set()).add((term.request, of_text_encoder))
        schedules, moved = [*self.schedules], {}
        for number in [number for number, found in users.items() if (index, False) in found]:
            # What stands behind the request's own curves is a block curve.
            of_blocks = () if number is None else self.schedules[number].curves[own:]
            schedule = replace(request.schedule, curves=(*request.schedule.curves, *of_blocks))
            if number is not None and users[number] == {(index, False)}:
                schedules[number] = schedule
            else:
                moved[number] = len(schedules)
                schedules.append(schedule)
        requests = (*self.requests[:index], request, *self.requests[index + 1 :])
        plan = replace(self, requests=requests, schedules=tuple(schedules))
        groups, members = self._groups
        if moved:
            members = tuple((of_te, terms if of_te else _moved(terms, index, moved)) for of_te, terms in members)
            plan = replace(plan, terms={layer: members[group][1] for layer, group in groups.items()})
        vars(plan)["_groups"] = groups, members  # what others have made for these groups stays in use
        return plan


_ROUNDING = 2e-3
"""Of noise levels, which samplers may have in half precision."""


@dataclass(frozen=True)
class Pass:
    """A sampling pass: its plan, how many steps it has, the noise level of each as far as it is known, and whether it
    is the hires pass.

    ``evaluations`` are those of the model in each step, as far as they have been made, where the plan asks for them.

    One ``is_open`` where the solver makes as many steps as it likes: those count that it has made.
    """

    plan: Plan
    steps: int
    sigmas: tuple[float, ...] = ()
    is_open: bool = False
    is_hires: bool = False
    evaluations: tuple[range, ...] = ()

    def with_evaluation(self, step: int, evaluation: int) -> Pass:
        """The pass when the model is about to be evaluated for the ``evaluation``-th time, 0-based, in ``step``."""
        known = self.evaluations[: step + 1] + (range(0),) * (step + 1 - len(self.evaluations))
        first = min(known[step].start, evaluation) if known[step] else evaluation
        return replace(self, evaluations=(*known[:step], range(first, evaluation + 1)))

    def evaluations_of(self, step: int) -> Sequence[int]:
        """Those of a step, as far as they have been made."""
        return self.evaluations[step] if step < len(self.evaluations) else ()

    def strengths(self, schedule: Schedule) -> tuple[float, ...]:
        """The factor of a schedule in each step."""
        return schedule.strengths(self.steps, self.sigmas, self.evaluations)

    def unet_strengths(self, request: LoraRequest) -> tuple[float, ...]:
        """The strength of a request in the U-Net in each step, block weights apart."""
        return request.unet_strengths(self.steps, self.sigmas, self.evaluations)

    def strengths_apart(self, request: LoraRequest, steps: int) -> tuple[float, ...]:
        """The strength of a request in the U-Net in each of the first ``steps`` steps, block weights apart, and the
        brackets of its prompt apart."""
        return request.present(None).unet_strengths(self.steps, self.sigmas)[:steps]

    def with_level(self, step: int, sigma: float) -> Pass:
        """The pass after ``step`` has begun at a noise level, which its sampler may not have told beforehand."""
        known = self.sigmas + (sigma,) * (step + 1 - len(self.sigmas))
        if self.is_open:
            return replace(self, sigmas=(*known[:step], sigma))
        if len(self.sigmas) > step and math.isclose(self.sigmas[step], sigma, rel_tol=_ROUNDING):
            return self
        return replace(self, sigmas=(*known[:step], sigma, *known[step + 1 :]))

    def course(self, layer: str, term: Term) -> tuple[float, ...]:
        """The coefficient that a term of ``layer`` has in each step."""
        request = self.plan.requests[term.request]
        share = (request.te_multiplier if is_text_encoder(layer) else request.unet_multiplier) * term.ratio
        schedule = ALWAYS if term.schedule is None else self.plan.schedules[term.schedule]
        return tuple(share * strength for strength in self.strengths(schedule))

    def text_encoder_ratios(self) -> tuple[tuple[str, tuple[tuple[int, float], ...]], ...]:
        """What a cached text conditioning depends on beyond the tags: all ratios in the text encoder but 1, times the
        value that a curve has at the start of the pass."""
        strengths = self.plan.strengths(0, self.steps, self.sigmas)
        ratios = (
            (layer, tuple((term.request, term.ratio * _strength(term, strengths)) for term in terms))
            for layer, terms in sorted(self.plan.terms.items())
            if is_text_encoder(layer)
        )
        return tuple((layer, pairs) for layer, pairs in ratios if [ratio for _, ratio in pairs] != [1.0])


def _moved(terms: Iterable[Term], request: int, numbers: Mapping[int | None, int]) -> tuple[Term, ...]:
    """The terms, where those of a request have other schedules, {schedule: the one in its place}."""
    return tuple(
        replace(term, schedule=numbers.get(term.schedule, term.schedule)) if term.request == request else term
        for term in terms
    )


def _strength(term: Term, strengths: Sequence[float]) -> float:
    return 1.0 if term.schedule is None else strengths[term.schedule]


def _rules(request: LoraRequest, library: Library, family: Family, warn: Warn) -> tuple[ElementRule, ...]:
    if request.elements is None:
        return ()
    try:
        return library.rules(request.elements, family)
    except ValueError as error:
        where = f"<lora:{shortened(request.name)}>: lbwe={shortened(request.elements)}"
        warn(f"{where}: {error}; the tag works without it")
        return ()


def _warn_of_blocks_left_out(weights: BlockWeights, request: LoraRequest, blocks: set[str], warn: Warn) -> None:
    """Say where a vector by number has no value for blocks in which the network has parts, and that changes something:
    not where the blocks around them are at 0, too."""
    vector = weights.vector
    order = vector.family.labels
    left_out = [
        label for label in order
        if vector.fill == "0" and label in blocks - vector.given and _is_beside_a_ratio(label, weights)
    ]
    if not left_out:
        return
    needed = {*left_out, *vector.family.of_encoders}
    layouts = vector.family.layouts
    counts = [str(count) for count, layout in layouts.items() if needed <= vector.family.labels_in(layout)]
    warn(f"<lora:{shortened(request.name)}>: {request.weights_label}{shortened(request.weights or '')}: "
         f"{len(vector.values)} values have none for {' '.join(label_ranges(left_out, order))} of this "
         f"{vector.family.title} model, where the LoRA has parts, which are 0; expected {' or '.join(counts)} values, "
         "or blocks by name")


def _warn_of_rules_without_effect(
    request: LoraRequest, rules: Sequence[ElementRule], family: Family, model_layers: Collection[str], warn: Warn
) -> None:
    hits = (rule.matches(family.names_of(layer), layer) for layer in model_layers for rule in rules)
    if rules and model_layers and not any(hits):
        warn(f"<lora:{shortened(request.name)}>: lbwe={shortened(request.elements or '')}: its rules are for no layer "
             f"of this {family.title} model, so they have no effect")


def _warn_of_arguments_without_effect(
    passes: Sequence[tuple[LoraRequest, Sequence[Keyframe]]], warn: Warn
) -> None:
    """Say which arguments of a tag are right, but change nothing.

    Args:
        passes: the tag's request and block weights in the first pass, and in the hires pass where that differs.
    """
    request = passes[0][0]
    where = f"<lora:{shortened(request.name)}>"
    has_curve = any(each.has_curve or len(keys) > 1 for each, keys in passes)
    if request.shape is not Shape.LINEAR and not has_curve:
        warn(f"{where}: curve={request.shape.value}: the tag has no curve that changes, so it has no effect")
    values = (value for _, keys in passes for each in keys for value in each.weights.vector.values.values())
    if request.x != 1.0 and not any(value.startswith("X") for value in values):
        warn(f"{where}: x={request.x:g}: its block weights have no X, so it has no effect")


def _is_beside_a_ratio(label: str, weights: BlockWeights) -> bool:
    """Whether the nearest block before or behind one that a vector left out has a value that is not 0. Text encoders
    stand beside the first block for no reason of the model's."""
    order, given = weights.vector.family.labels, weights.vector.given
    place = order.index(label)
    before = next((each for each in reversed(order[:place]) if each in given), None)
    behind = next((each for each in order[place:] if each in given), None)
    encoders = weights.vector.family.of_encoders
    return any(each is not None and each not in encoders and weights.ratios[each] != 0 for each in (before, behind))


def _ratios_function(
    weights: Sequence[BlockWeights | None],
    rules: Sequence[ElementRule],
    family: Family,
    known: dict[tuple[str, float], float],
) -> Callable[[str], tuple[float, ...]]:
    """The ratios of a layer, one for each of ``weights``.

    ``known`` holds what has been computed with the same rules, {(layer, block's ratio)}.
    """
    of_blocks: dict[tuple[str, ...], tuple[float, ...]] = {}

    def after_rules(layer: str, names: tuple[str, ...], block_ratio: float) -> float:
        if (layer, block_ratio) not in known:
            known[layer, block_ratio] = ratio_of(rules, names, layer, block_ratio)
        return known[layer, block_ratio]

    def ratios(layer: str) -> tuple[float, ...]:
        names = family.names_of(layer)
        if names not in of_blocks:
            of_blocks[names] = tuple(1.0 if each is None else each.ratio_of(names) for each in weights)
        if not rules:
            return of_blocks[names]
        return tuple(after_rules(layer, names, ratio) for ratio in of_blocks[names])

    return ratios


def _share(
    request: LoraRequest, keyframes: Sequence[Keyframe], is_text_encoder: bool, ratios: Sequence[float]
) -> tuple[float, Schedule]:
    """The ratio of a layer and its schedule, which has the ratios of a block curve in it: one for each keyframe."""
    schedule = request.te_schedule if is_text_encoder else request.schedule
    ratio = constant(ratios)
    if ratio is not None:
        return ratio, schedule
    positions = tuple(each.position for each in keyframes if each.position is not None)
    schedule = replace(schedule, is_held=is_text_encoder)
    curve = Curve(tuple(ratios), positions, request.shape)
    return 1.0, schedule.with_curve(curve.by_noise(request.levels) if request.levels else curve)


def build(
    requests: Sequence[LoraRequest],
    layers: Mapping[str, Iterable[str]],
    library: Library,
    warn: Warn,
    *,
    model_layers: Collection[str] = (),
    seed: int = 0,
    parts: Mapping[str, Iterable[str]] | None = None,
) -> Plan:
    """Build the plan of a pass.

    Args:
        requests: the tags whose networks are loaded, in the host's order; a name may occur more than once, and then
            all its requests count.
        layers: {network name: the layers that the network has a delta for}.
        library: presets and rule sets, and the default preset.
        warn: gets one message for each argument that cannot be used.
        model_layers: layer names of the model, which tell its family.
        seed: the image's seed, which the random values ``R`` and ``U`` follow.
        parts: {network name: the layers of the model that it really has parts for}, where ``layers`` supposes more.
    """
    family = family_of_layers(model_layers)
    terms: dict[str, list[Term]] = {}
    schedules: dict[Schedule, int] = {}
    resolved, rules = [], []
    known: dict[str | None, dict[tuple[str, float], float]] = {}
    if library.default_preset is not None:
        requests = [
            replace(request, weights=library.default_preset) if request.weights is None else request
            for request in requests
        ]
    for index, request in enumerate(requests):
        keyframes = keyframes_of(request, library, family, seed, warn)
        resolved.append(tuple(each.weights for each in keyframes))
        changed = (layers if parts is None else parts).get(request.name, ())
        blocks = {label for layer in changed if (label := family.block_of(layer))} if keyframes else set()
        for weights in resolved[-1]:
            _warn_of_blocks_left_out(weights, request, blocks, warn)
        rules.append(_rules(request, library, family, warn))
        _warn_of_rules_without_effect(request, rules[-1], family, model_layers, warn)
        passes = [(request, keyframes)]
        if request.hires is not None:
            passes.append((request.hires, keyframes_of(request.hires, library, family, seed, lambda _message: None)))
        if request.hires is not None or not request.differs_by_pass:  # else it has been said in the first pass
            _warn_of_arguments_without_effect(passes, warn)
        ratios = _ratios_function(resolved[-1] or (None,), rules[-1], family, known.setdefault(request.elements, {}))
        made: dict[tuple[bool, tuple[float, ...]], Term] = {}
        for layer in layers.get(request.name, ()):
            key = is_text_encoder(layer), ratios(layer)
            if key not in made:
                ratio, schedule = _share(request, keyframes, *key)
                number = None if schedule == ALWAYS else schedules.setdefault(schedule, len(schedules))
                made[key] = Term(index, ratio, number)
            terms.setdefault(layer, []).append(made[key])
    networks = tuple(dict.fromkeys(request.name for request in requests))
    return Plan(
        tuple(requests),
        networks,
        tuple(schedules),
        {key: tuple(value) for key, value in terms.items()},
        tuple(resolved),
        tuple(rules),
        family,
    )
