"""What the panel asks the server, and what it is answered."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, Field

from lbw.pictures import Theme
from lbw.request.route_models import Question
from lbw.tags.limits import LONGEST_TEXT

LONGEST_NAME = 500
"""Characters of a name."""

LONGEST_VERSION = 100
"""Characters of the version of a file."""


class File(str, Enum):
    PRESETS = "presets"
    ELEMENTS = "elements"


class Step(str, Enum):
    CHECK = "check"
    RELOAD = "reload"
    SAVE = "save"


class FileQuestion(Question):
    file: File
    step: Step
    text: str = Field("", max_length=LONGEST_TEXT)
    loaded: str | None = Field(None, max_length=LONGEST_VERSION, description="the version that the text was made from")


class FileAnswer(BaseModel):
    html: str
    loaded: str | None
    text: str | None = Field(description="null: it stays")
    is_changed: bool = Field(description="whether somebody else wrote the file, so that saving writes over that")


class Texts(BaseModel):
    presets: str
    elements: str
    elements_version: str


class AddQuestion(Question):
    text: str = Field(max_length=LONGEST_TEXT, description="the presets")
    weights: str = Field(max_length=LONGEST_TEXT)
    name: str = Field(max_length=LONGEST_NAME)


class AddAnswer(BaseModel):
    text: str | None = Field(description="the presets with one more; null: it was not added")
    said: str


class HitsQuestion(Question):
    text: str = Field(max_length=LONGEST_TEXT, description="the rule sets")


class OwnQuestion(Question):
    name: str = Field(max_length=LONGEST_TEXT, description="of the LoRA at the cursor")
    in_tag: str = Field(max_length=LONGEST_TEXT, description="the block weights of its tag")
    weights: str | None = Field(None, max_length=LONGEST_TEXT, description="what to save; null: nothing")


class NetworksQuestion(Question):
    renewed: bool


class NetworksAnswer(BaseModel):
    names: list[str]


class StrengthsQuestion(Question):
    name: str = Field(max_length=LONGEST_NAME)
    theme: Theme


class ScheduleQuestion(Question):
    asked: str = Field(max_length=LONGEST_TEXT, description="what the page is set to, see lbw_panel.js")
    presets: str = Field(max_length=LONGEST_TEXT)
    elements: str = Field(max_length=LONGEST_TEXT)
    default_preset: str = Field(max_length=LONGEST_TEXT)


class Html(BaseModel):
    html: str
