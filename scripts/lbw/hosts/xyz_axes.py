"""Axes in the host's own X/Y/Z plot: each sets what the LoRA tags of a cell's prompt say.

What a cell's axes say is kept on its processing object, and brought into its prompt when all of them have spoken. The
tags that are meant are those with ``lbw=XYZ`` or ``lbwe=XYZ``, or else all LoRA tags.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import reduce
from operator import and_
from typing import Any

from lbw.hosts import comments
from lbw.hosts.preset_files import preset_text
from lbw.hosts.request import library_of, put, with_varied_rules
from lbw.hosts.serving import adapter
from lbw.hosts.settings import NAME
from lbw.plots.axes import Change, Meaning, read_change
from lbw.plots.tags import TagChange, has_mark, rewritten
from lbw.plots.vectors import changed, varied_base
from lbw.request.arguments import Arguments
from lbw.request.arguments import parse as parse_arguments
from lbw.tags.families import family_of_layers
from lbw.tags.library import VARIED
from lbw.tags.presets import parse_presets
from modules import scripts

_CHANGES = "lora_block_weight_axes"
"""The attribute of the host's processing object that holds the changes of its axes."""

_SCRIPT = "xyz_grid.py"


def _at_value(text: str, meaning: Meaning) -> Change:
    blocks, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"blocks at value {text!r}: expected BLOCKS=VALUE, such as IN05-OUT05=0.5")
    return read_change("Block ID", blocks.strip(), meaning) & read_change("values", value.strip(), meaning)


def _axis(kind: str) -> Callable[[str, Meaning], Change]:
    return lambda text, meaning: read_change(kind, text, meaning)


_AXES: dict[str, Callable[[str, Meaning], Change]] = {
    "[LBW] preset": _axis("Original Weights"),
    "[LBW] blocks at value": _at_value,
    "[LBW] weights": _axis("Original Weights"),
    "[LBW] elements": _axis("elements"),
    "[LBW] start": _axis("start"),
    "[LBW] stop": _axis("stop"),
}


def add() -> None:
    """Add the axes to the host's X/Y/Z plot, if it is loaded and lacks them."""
    for data in scripts.scripts_data:
        options = getattr(data.module, "axis_options", None)
        if os.path.basename(data.path) == _SCRIPT and isinstance(options, list):
            known = {option.label for option in options}
            options += [_option(data.module, label) for label in _AXES if label not in known]


def _option(module: Any, label: str) -> Any:
    read = _AXES[label]

    def apply(p: Any, text: str, _all: Sequence[str]) -> None:
        setattr(p, _CHANGES, (*vars(p).get(_CHANGES, ()), read(text, _meaning_in(p))))

    def confirm(p: Any, texts: Sequence[str]) -> None:
        for text in texts:
            read(text, _meaning_in(p))

    choices = (lambda: list(parse_presets(preset_text())[0])) if label == "[LBW] preset" else None
    return module.AxisOption(label, str, apply, confirm=confirm, choices=choices)


def _meaning_in(p: Any) -> Meaning:
    """What names mean in a request: those of our own arguments in it."""
    script = next(script for script in p.scripts.alwayson_scripts if script.title() == NAME)
    values = p.script_args[script.args_from : script.args_to]
    arguments = parse_arguments(values, lambda _message: None)
    return Meaning(library_of(arguments), family_of_layers(adapter.layers()), draw=lambda: 0)


def apply(p: Any, arguments: Arguments, place: slice) -> None:
    """Bring what a cell's axes say into its prompt and arguments.

    Args:
        place: where in the host's list of all scripts' arguments ours are.
    """
    changes: tuple[Change, ...] = vars(p).pop(_CHANGES, ())
    if not changes:
        return
    if not arguments.active:
        comments.tell(p, "not active, so that its axes change nothing")
        return
    change = reduce(and_, changes)
    names = library_of(arguments)
    family = family_of_layers(adapter.layers())
    base = varied_base(names, family, lambda message: comments.tell(p, message))

    def weights(own: str | None) -> str | None:
        if not change.originals and change.value is None:
            is_filled_in = own == VARIED and VARIED not in names.presets
            return base.text if is_filled_in else None
        with contextlib.suppress(ValueError):  # a curve, or what cannot be used
            return changed(names.vector(own or arguments.default_preset.strip(), family), change).text
        return changed(base, change).text

    tags = TagChange(
        weights, elements=VARIED if change.rules is not None else None, start=change.start, stop=change.stop
    )
    prompts = p.prompt if isinstance(p.prompt, list) else [p.prompt]
    hr_prompt = getattr(p, "hr_prompt", "")
    everywhere = not any(map(has_mark, [*prompts, hr_prompt]))
    prompts = [rewritten(text, tags, everywhere=everywhere) for text in prompts]
    p.prompt = prompts if isinstance(p.prompt, list) else prompts[0]
    if hr_prompt:
        p.hr_prompt = rewritten(hr_prompt, tags, everywhere=everywhere)
    if change.rules is not None:
        put(p, with_varied_rules(arguments, change.rules), place)
