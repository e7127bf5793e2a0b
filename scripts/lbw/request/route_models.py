"""What the HTTP API is asked, and what it answers."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, confloat

from lbw.request.arguments import ARGUMENTS
from lbw.tags.families import KNOWN, SD1, Family
from lbw.tags.limits import LARGEST_NUMBER, LONGEST_TEXT, MOST_STEPS, MOST_TAGS


def _key(family: Family) -> str:
    """What the API calls a family; it has known SD1's by a shorter name from the first."""
    return "sd" if family is SD1 else re.sub("[^a-z0-9]+", "_", family.title.lower())


FAMILIES = {_key(family): family for family in KNOWN}
"""The kinds of model by the names that the API has for them."""

Model = Enum("Model", {key.upper(): key for key in FAMILIES}, type=str)  # type: ignore[misc]


# A docstring would be in the published schema of each.
class Question(BaseModel):
    class Config:
        extra = "forbid"


class LineProblem(BaseModel):
    line: int = Field(description="the line of the text, counted from 1")
    reason: str


class Preset(BaseModel):
    name: str
    values: str = Field(description="a line of it, as the file has it; a name may have several")
    blocks: list[str] = Field(
        description="the block of each value, as in the original, or in all models that have such a vector; else none"
    )


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
    model: str = Field(description="the kind of model; unknown: none of those that can be asked for")
    title: str = Field(description="what it is called in messages")
    blocks: list[str] = Field(description="the blocks of this kind of model, in their order")
    groups: dict[str, list[str]] = Field(description="names for several blocks")
    text_encoders: list[str] = Field(description="names of single text encoders")
    layouts: dict[str, list[str]] = Field(description="the block of each value, for each length of a vector")


if TYPE_CHECKING:
    NoiseLevel = float
    TagStrength = float
else:  # a type that pydantic 1 and 2 both have
    NoiseLevel = confloat(ge=0, le=LARGEST_NUMBER)
    TagStrength = confloat(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)


class ParseRequest(Question):
    prompt: str = Field(description="a prompt, or tags alone", max_length=LONGEST_TEXT)
    steps: int = Field(20, ge=1, le=MOST_STEPS, description=f"sampling steps of the pass, at most {MOST_STEPS}")
    sigmas: list[NoiseLevel] = Field(
        [], max_items=MOST_STEPS, description="the noise level of each step; empty: those of a usual schedule"
    )
    hires: bool = Field(False, description="whether the hires pass is meant, not the first one")
    sampler: str = Field(
        "", max_length=200, description="its name, for the prompt's brackets: of some, two evaluations count for a step"
    )
    asked_steps: int | None = Field(
        None, ge=1, le=MOST_STEPS,
        description="for the prompt's brackets, where the pass runs a part of the steps, as in img2img; null: steps",
    )
    first_steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="the first pass's, for brackets in a hires pass; null: steps"
    )
    # A power of two, because the published schema has its limits as floats, which 2**64 - 1 is none of.
    seed: int = Field(0, ge=0, le=2**63, description="what random values follow")
    presets: str = Field("", max_length=LONGEST_TEXT, description=ARGUMENTS[0].meaning)
    elements: str = Field("", max_length=LONGEST_TEXT, description="element rule sets; empty: those of the file")
    default_preset: str = Field("", max_length=LONGEST_TEXT, description="for every tag that has no lbw= of its own")


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
    blocks: list[str] | None = Field(description="the block of each value, or the text encoder; null as values")
    keyframes: list[Keyframe] = Field(description="the block weights over time")
    zero_blocks: list[str] | None = Field(
        description="the blocks at 0 in which the network has parts; null: the file could not be read now"
    )
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


class OwnDefault(BaseModel):
    name: str
    weights: str = Field(description="what stands behind lbw= in a tag, with further arguments; empty: none")


class StrengthsAnswer(BaseModel):
    name: str
    total: Strength
    blocks: list[Strength] = Field(description="all blocks of the model, over all elements")
    elements: list[Strength] = Field(description="over all blocks")
    cells: list[Strength] = Field(description="each element of each block that the network changes")
    warnings: list[str] = Field(description="what of the file is left out")


LONGEST_TASK = 200
"""Characters of the id of a task."""


class LiveLora(BaseModel):
    index: int
    name: str
    tag: str = Field(description="as its prompt has it")
    strength: float = Field(description="in the U-Net in this step, block weights apart")
    next: float | None = Field(description="what it was moved to, in force from the next step on; null: nothing waits")
    played: bool = Field(description="whether it was moved")
    course: list[float] = Field(description="the strength in each step so far")
    in_prompt: bool = Field(description="false while the brackets of the prompt have the tag off")
    played_tag: str | None = Field(
        description="the tag that repeats what was played; null: nothing was, or more than a tag has room for"
    )


class Live(BaseModel):
    running: bool = Field(description="false: the task is over, and this is its last pass")
    pass_title: str = Field(description="first or hires")
    step: int = Field(description="the one under way, counted from 0")
    steps: int
    batch: int = Field(description="the one under way, counted from 0")
    batches: int
    loras: list[LiveLora]


class Move(Question):
    index: int | None = Field(None, description="of a LoRA in the answer; or its name")
    name: str | None = Field(None, max_length=LONGEST_TEXT, description="if one tag alone has it")
    strength: TagStrength = Field(description="in the U-Net, block weights apart; until the next move, or the end")


class MoveRequest(Question):
    id_task: str = Field(max_length=LONGEST_TASK, description="the host's id of the task, as for GET")
    moves: list[Move] = Field(max_items=MOST_TAGS)
