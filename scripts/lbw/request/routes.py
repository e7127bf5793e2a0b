"""The HTTP API: what a client can ask about presets, tags, blocks and the strength of a LoRA.

Nothing here writes a file or touches a weight. The routes exist where the host's own API does, behind the same
dependencies, so behind the same ``--api-auth``. Those in :mod:`lbw.request.live_routes` are for the page, too, and so
are those in :mod:`lbw.request.bake_routes`; that in :mod:`lbw.request.model_routes` is for the page alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from lbw.engine.strengths import Norms, Strengths, UnknownNetworkError, UnmeasurableError
from lbw.pictures import Theme, png
from lbw.pictures.strengths import draw
from lbw.plan.courses import Kind, blocks_at_0, layers_by_kind
from lbw.plan.plan import Pass
from lbw.request import bake_routes, live_routes, model_routes
from lbw.request.arguments import TITLE
from lbw.request.bake import BakeBackend
from lbw.request.check import check_request
from lbw.request.preview import Backend, preview
from lbw.request.refusals import Route
from lbw.request.route_models import (
    FAMILIES,
    Blocks,
    Group,
    Keyframe,
    LineProblem,
    Model,
    OwnDefault,
    ParseAnswer,
    ParseRequest,
    Preset,
    Presets,
    RuleSet,
    RuleSets,
    Strength,
    StrengthsAnswer,
    Tag,
)
from lbw.tags.families import Family, family_of_layers, usual_layout
from lbw.tags.library import Library
from lbw.tags.limits import note
from lbw.tags.presence import Reckoning
from lbw.tags.presets import Problem, parse_presets, parse_rule_sets
from lbw.tags.schedule import ALWAYS
from lbw.tags.weights import is_named, split_vector

MOST_COEFFICIENTS = 1_000_000
"""Numbers in one answer."""

LONGEST_NAME = 500
"""Characters of a network's name."""


def _strength(norms: Norms, block: str | None = None, element: str | None = None) -> Strength:
    return Strength(
        block=block, element=element, layers=norms.layers, delta_norm=norms.delta, weight_norm=norms.weight,
        strength=norms.strength,
    )


def _answer(strengths: Strengths) -> StrengthsAnswer:
    return StrengthsAnswer(
        name=strengths.name,
        total=_strength(strengths.total),
        blocks=[_strength(norms, block) for block, norms in strengths.by_block().items()],
        elements=[_strength(norms, element=element) for element, norms in strengths.by_element().items()],
        cells=[_strength(norms, *cell) for cell, norms in strengths.by_cell().items()],
        warnings=list(strengths.messages),
    )


def _measured(backend: Backend, name: str) -> Strengths:
    """
    Raises:
        HTTPException: 404 for a name that the host does not know, 409 where the file cannot be measured now.
    """
    try:
        return backend.strengths(name)
    except UnmeasurableError as error:
        raise HTTPException(404 if isinstance(error, UnknownNetworkError) else 409, str(error)) from None


def _own_default(backend: Backend, name: str) -> OwnDefault:
    """
    Raises:
        HTTPException: 404 for a name that the host does not list.
    """
    try:
        return OwnDefault(name=name, weights=backend.own_default(name))
    except UnknownNetworkError as error:
        raise HTTPException(404, str(error)) from None


def _problems(problems: Iterable[Problem]) -> list[LineProblem]:
    return [LineProblem(line=problem.line, reason=problem.reason) for problem in problems]


def _preset(name: str, values: str) -> Preset:
    blocks = () if is_named(values) else usual_layout(len(split_vector(values)))
    return Preset(name=name, values=values, blocks=list(blocks))


def _blocks(family: Family) -> Blocks:
    return Blocks(
        model=next((key for key, each in FAMILIES.items() if each.title == family.title), "unknown"),
        title=family.title,
        blocks=list(family.labels),
        groups={name: list(labels) for name, labels in family.groups.items()},
        text_encoders=list(family.encoders),
        layouts={str(length): list(layout) for length, layout in family.layouts.items()},
    )


def _ratio(made: Pass, kind: Kind) -> float | None:
    """The ratio of layers of a kind; None where it follows a curve, which is in the schedule then."""
    term, request = kind.term, made.plan.requests[kind.term.request]
    schedule = ALWAYS if term.schedule is None else made.plan.schedules[term.schedule]
    return term.ratio if schedule == (request.te_schedule if kind.is_text_encoder else request.schedule) else None


def _zero_blocks(
    made: Pass, kinds: Sequence[Mapping[Kind, Sequence[str]]], backend: Backend
) -> list[list[str] | None]:
    """For each tag, the blocks at 0 in which its network has parts; None where that is not known."""
    family = made.plan.family
    names = {request.name for request in made.plan.requests}
    changed = {name: backend.changed_layers(name) for name in names}
    has_parts_in = {name: layers and {*map(family.block_of, layers)} for name, layers in changed.items()}
    return [
        None if (blocks := has_parts_in[request.name]) is None else [label for label in at_0 if label in blocks]
        for request, at_0 in zip(made.plan.requests, blocks_at_0(kinds, family), strict=True)
    ]


def _tag(
    made: Pass, index: int, kinds: Mapping[Kind, Sequence[str]], zero_blocks: list[str] | None, library: Library
) -> Tag:
    request, weights = made.plan.requests[index], made.plan.weights[index]
    positions = [position for _, position in library.keyframes(request.weights or "")] if weights else []
    return Tag(
        name=request.name,
        te_multiplier=request.te_strength(made.steps, made.sigmas),
        unet_multiplier=request.unet_multiplier,
        values=list(weights[0].values) if len(weights) == 1 else None,
        blocks=list(weights[0].vector.values) if len(weights) == 1 else None,
        keyframes=[
            Keyframe(position=position, values=list(each.values))
            for position, each in zip(positions, weights, strict=True)
        ],
        zero_blocks=zero_blocks,
        strengths=list(made.strengths(request.schedule)),
        groups=[
            Group(
                block=kind.block,
                ratio=_ratio(made, kind),
                layers=len(layers),
                coefficients=list(made.course(layers[0], kind.term)),
            )
            for kind, layers in kinds.items()
        ],
    )


def _reckoning(asked: ParseRequest, backend: Backend) -> Reckoning:
    steps = asked.asked_steps or asked.steps
    evaluations = backend.evaluations(asked.sampler, steps)
    first = backend.evaluations(asked.sampler, asked.first_steps or steps) if asked.hires else evaluations
    return Reckoning(first, evaluations if asked.hires else None, evaluations // steps)


def parse_prompt(asked: ParseRequest, backend: Backend) -> ParseAnswer:
    """The plan of a prompt's tags on the loaded model, as if each network had a part in every layer.

    Raises:
        HTTPException: the answer would be too large.
    """
    warnings: dict[str, None] = {}

    def warn(message: str) -> None:
        note(message, warnings)

    library = Library.read(
        asked.presets or backend.preset_text(), asked.elements or backend.rule_set_text(), asked.default_preset
    )
    made = preview(
        asked.prompt, library, backend, warn,
        steps=asked.steps, sigmas=asked.sigmas, hires=asked.hires, seed=asked.seed,
        reckoning=_reckoning(asked, backend),
    )
    kinds = layers_by_kind(made.plan)
    if sum(1 + len(each) for each in kinds) * asked.steps > MOST_COEFFICIENTS:
        raise HTTPException(422, f"more than {MOST_COEFFICIENTS} coefficients; expected fewer tags, rules or steps")
    tags = [
        _tag(made, index, each, at_0, library)
        for index, (each, at_0) in enumerate(zip(kinds, _zero_blocks(made, kinds, backend), strict=True))
    ]
    return ParseAnswer(tags=tags, warnings=list(warnings))


def _host_routes(app: FastAPI) -> list[APIRoute]:
    """The routes that make images."""
    paths = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img")
    return [route for route in app.routes if isinstance(route, APIRoute) and route.path in paths]


def add(app: FastAPI, backend: BakeBackend) -> None:
    """Add the routes to the host's application, and the check to its routes that make images."""
    makers = _host_routes(app)
    of_api = makers[0].dependencies if makers else None
    live_routes.add(app, backend, of_api)
    bake_routes.add(app, backend, of_api)
    model_routes.add(app, backend)
    if not makers:
        return  # the host runs without its API
    for route in makers:
        check = get_parameterless_sub_dependant(depends=Depends(check_request), path=route.path_format)
        route.dependant.dependencies.append(check)

    def get(path: str, model: type[BaseModel] | None, **more: Any) -> Callable[[Any], Any]:
        def add_route(endpoint: Any) -> Any:
            app.router.add_api_route(
                f"/lbw/v1/{path}", endpoint, methods=["GET"], response_model=model, tags=[TITLE],
                dependencies=makers[0].dependencies, route_class_override=Route, **more,
            )  # fmt: skip
            return endpoint

        return add_route

    @get("presets", Presets)
    def presets() -> Presets:
        """The presets of the server's file."""
        found, problems = parse_presets(backend.preset_text())
        lines = [_preset(name, values) for name, texts in found.items() for values in texts]
        return Presets(presets=lines, problems=_problems(problems))

    @get("elements", RuleSets)
    def elements() -> RuleSets:
        """The element rule sets of the server's file."""
        found, problems = parse_rule_sets(backend.rule_set_text())
        return RuleSets(
            rule_sets=[RuleSet(name=name, rules=rules) for name, rules in found.items()], problems=_problems(problems)
        )

    @get("blocks", Blocks)
    def blocks(model: Model | None = Query(None, description="the loaded one, if not given")) -> Blocks:  # noqa: B008
        """The blocks of a kind of model, and what the values of a vector stand for."""
        return _blocks(family_of_layers(backend.layer_names()) if model is None else FAMILIES[model.value])

    network = Query(..., max_length=LONGEST_NAME, description="of a LoRA file that the server knows, as in a tag")

    @get("own_default", OwnDefault)
    def own_default(name: str = network) -> OwnDefault:
        """The block weights that the user has noted for a LoRA file, in the host's file beside it."""
        return _own_default(backend, name)

    @get("strengths", StrengthsAnswer)
    def strengths(name: str = network) -> StrengthsAnswer:
        """How strong a LoRA file is in each block and element of the loaded model, without an image."""
        return _answer(_measured(backend, name))

    @get("strengths.png", None, response_class=Response, responses={200: {"content": {"image/png": {}}}})
    def strengths_picture(name: str = network, theme: Theme = Theme.LIGHT) -> Response:
        """The same as a picture."""
        return Response(png(draw(_measured(backend, name), theme)), media_type="image/png")

    def parse(asked: ParseRequest) -> ParseAnswer:
        """What the LoRA tags of a prompt come to, on the loaded model: ratios, coefficients of each step, warnings."""
        return parse_prompt(asked, backend)

    app.router.add_api_route(
        "/lbw/v1/parse", parse, methods=["POST"], response_model=ParseAnswer, tags=[TITLE],
        dependencies=makers[0].dependencies, route_class_override=Route,
    )  # fmt: skip
