"""The HTTP API: what a client can ask about presets and tags, and the check of a request before the host begins it.

Nothing here writes a file or touches a weight. The routes exist where the host's own API does, behind the same
dependencies, so behind the same ``--api-auth``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConstrainedFloat, Field

from lbw import api
from lbw.blocks import (
    FLUX_LABELS,
    LAYOUTS,
    SDXL_LABELS,
    UNET_LABELS,
    Family,
    family_of_layers,
)
from lbw.courses import Kind, layers_by_kind
from lbw.library import Library
from lbw.limits import LARGEST_NUMBER, LONGEST_TEXT
from lbw.pictures import Theme, png
from lbw.pictures.strengths import draw
from lbw.plan import Pass
from lbw.presets import Problem, parse_presets, parse_rule_sets
from lbw.preview import Backend, preview
from lbw.schedule import ALWAYS
from lbw.strengths import Norms, Strengths, UnknownNetworkError, UnmeasurableError

TITLE = "LoRA Block Weight"
MOST_COEFFICIENTS = 1_000_000
"""Numbers in one answer."""

LONGEST_NAME = 500
"""Characters of a network's name."""


class Model(str, Enum):
    """The kinds of model that have blocks of their own."""

    SD = "sd"
    SDXL = "sdxl"
    FLUX = "flux"


_LABELS = {Model.SD: UNET_LABELS, Model.SDXL: SDXL_LABELS, Model.FLUX: FLUX_LABELS}


class LineProblem(BaseModel):
    line: int = Field(description="the line of the text, counted from 1")
    reason: str


class Preset(BaseModel):
    name: str
    values: str = Field(description="the values as the file has them")
    blocks: list[str] = Field(description="the block of each value")


class Presets(BaseModel):
    presets: list[Preset]
    problems: list[LineProblem] = Field(description="lines that look like presets and cannot be used")


class RuleSet(BaseModel):
    name: str
    rules: str = Field(description="rules blocks:elements:ratio, separated by commas or line ends")


class RuleSets(BaseModel):
    rule_sets: list[RuleSet]
    problems: list[LineProblem] = Field(description="rule sets that cannot be used")


class Blocks(BaseModel):
    model: Model
    blocks: list[str] = Field(description="the blocks of this kind of model, in their order")
    layouts: dict[str, list[str]] = Field(description="the block of each value, for each length of a vector")


class NoiseLevel(ConstrainedFloat):
    ge = 0
    le = LARGEST_NUMBER


class ParseRequest(BaseModel):
    prompt: str = Field(description="a prompt, or tags alone", max_length=LONGEST_TEXT)
    steps: int = Field(20, ge=1, le=150)
    sigmas: list[NoiseLevel] = Field(
        [], max_items=150, description="the noise level of each step; empty: those of a usual schedule"
    )
    hires: bool = Field(False, description="whether the hires pass is meant, not the first one")
    seed: int = Field(0, ge=0, le=2**64 - 1, description="what random values follow")
    presets: str = Field("", max_length=LONGEST_TEXT, description=api.ARGUMENTS[0].meaning)
    elements: str = Field("", max_length=LONGEST_TEXT, description="element rule sets; empty: those of the file")
    default_preset: str = Field("", max_length=LONGEST_TEXT, description="for every tag that has no lbw= of its own")

    class Config:
        extra = "forbid"


class Keyframe(BaseModel):
    position: str = Field(description="as in the tag; empty where the weights do not change")
    values: list[float] = Field(description="the resolved block weights")


class Group(BaseModel):
    block: str | None = Field(description="null: layers in no block")
    ratio: float | None = Field(description="null: it follows a curve")
    layers: int = Field(description="how many of the model's layers have this ratio")
    coefficients: list[float] = Field(description="multiplier times ratio times strength, for each step")


class Tag(BaseModel):
    name: str
    te_multiplier: float = Field(description="at the start of the pass, when the text encoder runs")
    unet_multiplier: float = Field(description="1 where the strength is a curve")
    values: list[float] | None = Field(description="the resolved block weights; null: none, or a curve")
    keyframes: list[Keyframe] = Field(description="the block weights over time")
    strengths: list[float] = Field(description="of the schedule, for each step; it acts on the U-Net")
    groups: list[Group]


class ParseAnswer(BaseModel):
    tags: list[Tag]
    warnings: list[str]


class Strength(BaseModel):
    block: str | None = Field(description="null: layers in no block")
    element: str | None = Field(description="the word that rules find a layer by; null: none that is known")
    layers: int = Field(description="how many of the model's layers the network changes there")
    delta_norm: float = Field(description="Frobenius norm of what the network adds to their weights at strength 1")
    weight_norm: float = Field(description="Frobenius norm of these weights")
    strength: float = Field(description="the one divided by the other")


class StrengthsAnswer(BaseModel):
    name: str
    total: Strength
    blocks: list[Strength] = Field(description="all blocks of the model, over all elements")
    elements: list[Strength] = Field(description="over all blocks")
    cells: list[Strength] = Field(description="each element of each block that the network changes")
    warnings: list[str] = Field(description="what of the file is left out")


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


def _problems(problems: Iterable[Problem]) -> list[LineProblem]:
    return [LineProblem(line=problem.line, reason=problem.reason) for problem in problems]


def _layouts(model: Model) -> dict[str, list[str]]:
    is_flux = model is Model.FLUX
    return {str(size): list(labels) for size, labels in LAYOUTS.items() if (labels is FLUX_LABELS) == is_flux}


def _ratio(made: Pass, kind: Kind) -> float | None:
    """The ratio of layers of a kind; None where it follows a curve, which is in the schedule then."""
    term, request = kind.term, made.plan.requests[kind.term.request]
    schedule = ALWAYS if term.schedule is None else made.plan.schedules[term.schedule]
    return term.ratio if schedule == (request.te_schedule if kind.is_text_encoder else request.schedule) else None


def _tag(made: Pass, index: int, kinds: Mapping[Kind, Sequence[str]], library: Library) -> Tag:
    request, weights = made.plan.requests[index], made.plan.weights[index]
    positions = [position for _, position in library.keyframes(request.weights or "")] if weights else []
    return Tag(
        name=request.name,
        te_multiplier=request.te_strength(made.steps, made.sigmas),
        unet_multiplier=request.unet_multiplier,
        values=list(weights[0].values) if len(weights) == 1 else None,
        keyframes=[
            Keyframe(position=position, values=list(each.values))
            for position, each in zip(positions, weights, strict=True)
        ],
        strengths=list(request.schedule.strengths(made.steps, made.sigmas)),
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


def parse_prompt(asked: ParseRequest, backend: Backend) -> ParseAnswer:
    """The plan of a prompt's tags on the loaded model, as if each network had a part in every layer.

    Raises:
        HTTPException: the answer would be too large.
    """
    warnings: dict[str, None] = {}

    def warn(message: str) -> None:
        warnings[message] = None

    library = Library.read(
        asked.presets or backend.preset_text(), asked.elements or backend.rule_set_text(), asked.default_preset
    )
    made = preview(
        asked.prompt, library, backend, warn,
        steps=asked.steps, sigmas=asked.sigmas, hires=asked.hires, seed=asked.seed,
    )
    kinds = layers_by_kind(made.plan)
    if sum(map(len, kinds)) * asked.steps > MOST_COEFFICIENTS:
        raise HTTPException(422, f"more than {MOST_COEFFICIENTS} coefficients; expected fewer tags, rules or steps")
    tags = [_tag(made, index, each, library) for index, each in enumerate(kinds)]
    return ParseAnswer(tags=tags, warnings=list(warnings))


def _refusal(path: tuple[str | int, ...], expected: str, value: Any) -> HTTPException:
    """HTTP 422 in the form of the host's own answers to a wrong type."""
    key = f"argument {path[-1] + 1}" if isinstance(path[-1], int) else path[-1]
    got = api.shown(value)
    message = f"{key}: expected {expected}, got {got}"
    detail = {"loc": ["body", *path], "msg": message, "type": "value_error", "expected": expected, "got": got}
    return HTTPException(422, [detail])


def _is_repeatable(value: Any) -> bool:
    """Whether the host's answer, which repeats the request, can hold a value: JSON is read more widely than written."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str) and not api.is_unicode(item):
            return False
        if isinstance(item, (int, float)) and not -(2**63) <= item < 2**63:
            return False
        if isinstance(item, Mapping):
            rest += [*item, *item.values()]
        elif isinstance(item, list):
            rest += item
    return True


def check_arguments(body: Any) -> None:
    """Refuse what a request has for this script and cannot be used, before the host does anything.

    Raises:
        HTTPException: 422, which names the key, what was expected and what came.
    """
    scripts = body.get("alwayson_scripts") if isinstance(body, Mapping) else None
    for name, given in scripts.items() if isinstance(scripts, Mapping) else ():
        if name.lower() != TITLE.lower():
            continue
        path = ("alwayson_scripts", name)
        if not isinstance(given, Mapping):
            raise _refusal(path, "an object with the key args", given)
        args = given.get("args", [])
        if not isinstance(args, list):
            raise _refusal((*path, "args"), "a list", args)
        for position, value in enumerate(args):
            if not _is_repeatable(value) and not isinstance(args[0], Mapping):
                raise _refusal((*path, "args", position), "numbers of at most 64 bits and whole characters", value)
        if args and isinstance(args[0], Mapping):
            if len(args) > 1:
                raise _refusal((*path, "args"), "one object, or a list of values", args)
            try:
                api.from_object(args[0])
            except api.ArgumentError as error:
                raise _refusal((*path, "args", 0, error.key), error.expected, args[0][error.key]) from None


def accept_script_name(body: Any) -> None:
    """Take ``script_name`` and ``script_args``, which the original's plots are asked for with, as always-on arguments.

    The host itself would refuse the name, because the script is not one of the menu.
    """
    if isinstance(body, dict) and str(body.get("script_name")).lower() == TITLE.lower():
        del body["script_name"]
        scripts = body.get("alwayson_scripts") or {}
        if isinstance(scripts, Mapping):
            body["alwayson_scripts"] = {**scripts, TITLE: {"args": body.pop("script_args", [])}}


async def _check_request(request: Request) -> None:
    try:
        body = await request.json()
    except ValueError:
        return  # the host answers what is no JSON
    accept_script_name(body)
    check_arguments(body)


def _host_routes(app: FastAPI) -> list[APIRoute]:
    """The routes that make images."""
    paths = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img")
    return [route for route in app.routes if isinstance(route, APIRoute) and route.path in paths]


def add(app: FastAPI, backend: Backend) -> None:
    """Add the routes to the host's application, and the check to its routes that make images."""
    makers = _host_routes(app)
    if not makers:
        return  # the host runs without its API
    for route in makers:
        check = get_parameterless_sub_dependant(depends=Depends(_check_request), path=route.path_format)
        route.dependant.dependencies.append(check)

    def get(path: str, model: type[BaseModel]) -> Callable[[Any], Any]:
        return app.get(f"/lbw/v1/{path}", response_model=model, tags=[TITLE], dependencies=makers[0].dependencies)

    @get("presets", Presets)
    def presets() -> Presets:
        """The presets of the server's file."""
        found, problems = parse_presets(backend.preset_text())
        return Presets(
            presets=[
                Preset(name=name, values=values, blocks=list(LAYOUTS[values.count(",") + 1]))
                for name, values in found.items()
            ],
            problems=_problems(problems),
        )

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
        if model is None:
            family = family_of_layers(backend.layer_names())
            model = Model.FLUX if family is Family.FLUX else Model.SDXL if backend.is_sdxl() else Model.SD
        return Blocks(model=model, blocks=list(_LABELS[model]), layouts=_layouts(model))

    network = Query(..., max_length=LONGEST_NAME, description="of a LoRA file that the server knows, as in a tag")

    @get("strengths", StrengthsAnswer)
    def strengths(name: str = network) -> StrengthsAnswer:
        """How strong a LoRA file is in each block and element of the loaded model, without an image."""
        return _answer(_measured(backend, name))

    @app.get("/lbw/v1/strengths.png", response_class=Response, responses={200: {"content": {"image/png": {}}}},
             tags=[TITLE], dependencies=makers[0].dependencies)
    def strengths_picture(name: str = network, theme: Theme = Theme.LIGHT) -> Response:
        """The same as a picture."""
        return Response(png(draw(_measured(backend, name), theme)), media_type="image/png")

    @app.post(
        "/lbw/v1/parse", response_model=ParseAnswer, tags=[TITLE], dependencies=makers[0].dependencies
    )
    def parse(asked: ParseRequest) -> ParseAnswer:
        """What the LoRA tags of a prompt come to, on the loaded model: ratios, coefficients of each step, warnings."""
        return parse_prompt(asked, backend)
