"""The arguments of a generation: their names, types, defaults and meaning, in one table.

The panel's components, the API's ``args`` and the documentation all follow the order of :class:`Arguments`. The first
18 are those of the original extension; later ones are our own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from lbw.plots.axes import AXIS_TYPES
from lbw.tags.limits import LONGEST_TEXT, shortened

TITLE = "LoRA Block Weight"
"""The script's name on the page and in requests."""

MODES = ("Disable", "XYZ plot", "Effective Block Analyzer")
"""The choices of ``mode``, whose value is the index."""


@dataclass(frozen=True)
class Argument:
    """One line of the table.

    ``kind`` is str, bool, int or float; a number has either ``choices`` or a range. ``choices`` are the values of a
    str, or the names of an int's values, counted from 0. ``blank`` is what "" means in a positional list.
    """

    name: str
    kind: type
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = 0
    blank: Any = None

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        if self.choices and self.kind is str:
            return "one of " + ", ".join(json.dumps(choice) for choice in self.choices)
        if self.choices:
            return "one of " + ", ".join(f"{i} ({choice})" for i, choice in enumerate(self.choices))
        words = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}[self.kind]
        return words + (f" from {self.minimum:g} to {self.maximum:g}" if self.kind in (int, float) else "")

    def strict(self, value: Any) -> Any:
        """``value``, if it is of the right type and in range.

        Raises:
            ArgumentError: it is not.
        """
        accepted = (int, float) if self.kind is float else self.kind
        right_type = isinstance(value, accepted) and (self.kind is bool or not isinstance(value, bool))
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ArgumentError(self.name, f"at most {LONGEST_TEXT} characters", value)
        if not right_type or not self._in_range(value):
            raise ArgumentError(self.name, self.expected, value)
        return self.kind(value)

    def lenient(self, value: Any) -> Any:
        """``value`` as a form or a client of the original may write it: ``"20"`` for 20, a choice's name for its index.

        Raises:
            ArgumentError: it means nothing that the argument can be.
        """
        if value is None:
            return self.default
        if value == "":
            return self.blank
        meant = value
        if isinstance(value, str) and self.kind is not str:
            meant = self._from_text(value.strip())
        elif isinstance(value, float) and self.kind is int and value.is_integer():
            meant = int(value)
        elif isinstance(value, int) and self.kind is bool and value in (0, 1):
            meant = bool(value)
        try:
            return self.strict(meant)
        except ArgumentError as error:
            raise ArgumentError(self.name, error.expected, value) from None

    def _from_text(self, text: str) -> Any:
        """The bool or number that a text spells, or the text itself."""
        if self.kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
        if text in self.choices:
            return self.choices.index(text)
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if self.kind is int and number.is_integer() else number

    def _in_range(self, value: Any) -> bool:
        if self.kind is bool:
            return True
        if self.kind is str:
            return is_unicode(value) and (not self.choices or value in self.choices)
        return 0 <= value < len(self.choices) if self.choices else self.minimum <= value <= self.maximum


def is_unicode(text: str) -> bool:
    """Whether a text can be written into a file: JSON can also bring halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class ArgumentError(ValueError):
    """An argument that cannot be used: its key, what was expected, and what came."""

    def __init__(self, key: str, expected: str, value: Any) -> None:
        self.key = key
        self.expected = expected
        self.got = shown(value)
        super().__init__(f"{key}: expected {expected}, got {self.got}")


def shown(value: Any) -> str:
    """A value as JSON has it, cut to a length that fits into a message and a console."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    text = shortened(value) if isinstance(value, str) else value
    return shortened(json.dumps(text, default=repr, ensure_ascii=not (isinstance(text, str) and is_unicode(text))))


def _argument(default: Any, meaning: str, *, blank: Any = None, **limits: Any) -> Any:
    argument = {"kind": type(default), "default": default, "meaning": meaning, **limits}
    return field(default=default, metadata=argument | {"blank": default if blank is None else blank})


def _axis_type(default: str, axis: str) -> Any:
    return _argument(default, f"what varies along {axis}", choices=AXIS_TYPES, blank="none")


@dataclass(frozen=True)
class Arguments:
    """The arguments of one generation, in their order."""

    presets: str = _argument("", "presets, one NAME:values a line; empty: those of the file")
    active: bool = _argument(True, "whether the extension works in this generation")
    mode: int = _argument(0, "what is made: one image, or a plot of many", choices=MODES)
    x_type: str = _axis_type("values", "x")
    x_values: str = _argument("0,0.25,0.5,0.75,1", "values along x, separated by commas", blank="")
    y_type: str = _axis_type("Block ID", "y")
    y_values: str = _argument("IN05-OUT05", "values along y", blank="")
    z_type: str = _axis_type("none", "z, one plot for each")
    z_values: str = _argument("", "values along z")
    analyzer_range: str = _argument("0.5,1", "the two weights that the analyzer compares")
    analyzer_blocks: str = _argument("26ALL", "the blocks that the analyzer looks at")
    seed_count: int = _argument(1, "the analyzer's number of seeds", minimum=1, maximum=100)
    difference_colour: str = _argument("black", "background of the analyzer's differences", choices=("black", "white"))
    threshold: float = _argument(20.0, "differences below it are not shown", minimum=0, maximum=255)
    swap_xy: bool = _argument(False, "swap the analyzer's x and y")
    elements: str = _argument("", "element rule sets, separated by empty lines; empty: those of the file")
    print_changes: bool = _argument(False, "list the layers that element rules change, in the console")
    debug: bool = _argument(False, "tell more in the console")
    default_preset: str = _argument("", "name or values for every LoRA tag that has no lbw= of its own; empty: none")
    pasted: str = _argument("", "what reading an image's parameters brought: presets, rule sets and random values")
    schedule_picture: bool = _argument(False, "add a picture of the LoRAs' strengths over the steps to the images")


ARGUMENTS = tuple(Argument(name=item.name, **item.metadata) for item in fields(Arguments))

PLOT_ARGUMENTS = {
    1: ("mode", "x_type", "x_values", "y_type", "y_values", "z_type", "z_values"),
    2: ("mode", "analyzer_range", "analyzer_blocks", "seed_count", "difference_colour", "threshold", "swap_xy"),
}
"""The arguments that say what a plot is to be, for each mode that makes one."""

PLOT_ARGUMENT_NAMES = tuple(dict.fromkeys(name for names in PLOT_ARGUMENTS.values() for name in names))

_BY_NAME = {argument.name: argument for argument in ARGUMENTS}


def from_positional(values: Sequence[Any], warn: Callable[[str], None]) -> Arguments:
    """Arguments given by their position. Missing ones, None and "" mean the default.

    Args:
        values: any number of values; those behind the last argument are ignored.
        warn: gets one message for each value that cannot be used, for which the default stands in.
    """
    parsed = {}
    for position, (argument, value) in enumerate(zip(ARGUMENTS, values, strict=False), 1):
        try:
            parsed[argument.name] = argument.lenient(value)
        except ArgumentError as error:
            warn(f"argument {position}, {error}; the default {shown(argument.default)} is used")
    return Arguments(**parsed)


def parse(values: Sequence[Any], warn: Callable[[str], None]) -> Arguments:
    """The arguments of a generation: a positional list, or one object in the first one's place.

    Raises:
        ArgumentError: the object has something that cannot be used.
    """
    if values and isinstance(values[0], Mapping):
        return from_object(values[0], from_positional([None, *values[1:]], warn))
    return from_positional(values, warn)


def from_object(values: Mapping[str, Any], base: Arguments | None = None) -> Arguments:
    """Arguments given by name, on top of ``base`` (None: the defaults).

    Raises:
        ArgumentError: a key is unknown, or its value is of the wrong type or out of range.
    """
    for key in values:
        if key not in _BY_NAME:
            raise ArgumentError(str(key), f"one of the keys {', '.join(_BY_NAME)}", values[key])
    named = {key: _BY_NAME[key].strict(value) for key, value in values.items()}
    return replace(base or Arguments(), **named)
