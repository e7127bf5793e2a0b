"""What the routes that bake are asked, and what they answer."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, Field

from lbw.bake.recipe import Dtype
from lbw.request.arguments import ARGUMENTS
from lbw.request.route_models import Question
from lbw.tags.limits import LONGEST_TEXT, MOST_STEPS

LARGEST_RANK = 1024

LONGEST_NAME = 500
"""Characters of a new name, and of a job's secret; how much of it a file can have is another matter."""


class BakeRequest(Question):
    prompt: str = Field(description="tags, or a prompt with tags: all of them become one file", max_length=LONGEST_TEXT)
    name: str = Field("baked", max_length=LONGEST_NAME, description="of the new LoRA, without folder and ending")
    rank: int | None = Field(
        None, ge=1, le=LARGEST_RANK,
        description="what has no exact form becomes a LoRA of this rank at most, and so do LoRAs of more; null: all "
        "stays exact",
    )
    dtype: Dtype = Field(Dtype.FP16, description="of the file's tensors")
    step: int = Field(0, ge=0, lt=MOST_STEPS, description="of a schedule, what counts at this step; the first is 0")
    steps: int = Field(20, ge=1, le=MOST_STEPS, description=f"sampling steps of the pass, at most {MOST_STEPS}")
    # A power of two, because the published schema has its limits as floats, which 2**64 - 1 is none of.
    seed: int = Field(0, ge=0, le=2**63, description="what random values follow")
    presets: str = Field("", max_length=LONGEST_TEXT, description=ARGUMENTS[0].meaning)
    elements: str = Field("", max_length=LONGEST_TEXT, description="element rule sets; empty: those of the file")
    default_preset: str = Field("", max_length=LONGEST_TEXT, description="for every tag that has no lbw= of its own")
    words: bool = Field(False, description="whether the file has the trigger words of its sources, as they have them")


class Action(str, Enum):
    LOOK = "look"
    KEEP = "keep"
    DOWNLOAD = "download"


class PageBakeRequest(BakeRequest):
    action: Action = Field(description="look: make nothing; keep: in the host's LoRA folder; download: to be fetched")
    name: str = Field("", max_length=LONGEST_NAME, description="may be empty for a look")
    words: bool = Field(False, description="as above; with keep, also its sources' picture and what is noted of them")


class JobRequest(Question):
    job: str = Field(max_length=LONGEST_NAME, description="its secret")


class JobBegun(BaseModel):
    job: str = Field(description="a secret: who knows it sees the job, stops it and fetches what it made")


class Place(BaseModel):
    may_keep: bool = Field(description="whether a file may be kept in the host's LoRA folder")
    reason: str = Field(description="why not; else empty")


class BlockLoss(BaseModel):
    block: str | None = Field(description="null: layers in no block")
    parts: int = Field(description="how many were cut to the rank")
    lost_share: float = Field(description="Frobenius norm of what is lost, relative to that of what was cut")


class FormCounts(BaseModel):
    kept: int = Field(description="as the source has them, with the ratio in one factor")
    joined: int = Field(description="several LoRAs side by side in one of a higher rank")
    cut: int = Field(description="LoRAs of the rank that was asked for, which are as near as one can be")
    full: int = Field(description="whole differences")


class Baked(BaseModel):
    """All but the first four, and ``may_keep``, are null, or empty, while it is not done."""

    state: str = Field(description="waiting, running, done, failed or cancelled")
    done: int = Field(description="of total, in the pass over the layers that is under way")
    total: int
    message: str = Field(description="why it failed; else empty")
    warnings: list[str]
    size: int | None = Field(description="bytes of the file")
    layers: FormCounts | None = Field(description="how many layers of the model have each form in the file")
    left_out: int | None = Field(description="layers for which a source has something, and the file has not")
    tags: list[str] = Field(description="what it is made of")
    losses: list[BlockLoss] = Field(description="of each block in which something was cut")
    lost_share: float | None = Field(description="of all that was cut")
    file: str | None = Field(description="the name of the LoRA that was kept")
    may_keep: bool = Field(description="whether a file may be kept in the host's LoRA folder")
