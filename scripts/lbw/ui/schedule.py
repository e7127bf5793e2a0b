"""Schedule: the strengths of the prompt's LoRAs over the steps, as a picture before an image is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lbw.pictures import Theme, png
from lbw.pictures.courses import PASSES, draw
from lbw.plan.plan import Pass
from lbw.request.preview import Backend, preview
from lbw.tags.library import Library
from lbw.tags.limits import LONGEST_TEXT, note, shortened
from lbw.tags.presence import Reckoning
from lbw.ui.strengths import picture_html, said_html

_MOST_STEPS = 150


def schedule_html(
    asked: str, presets: str, elements: str, default_preset: str | None, *, backend: Backend
) -> str:
    """The schedule of what the page is set to, with what cannot be used of it; or why there is none.

    Args:
        asked: JSON from the page: prompt, steps, hires pass and theme, see lbw_panel.js.
    """
    warnings: dict[str, None] = {}

    def warn(message: str) -> None:
        note(message, warnings)

    try:
        page = json.loads(asked[:LONGEST_TEXT])
        library = Library.read(presets[:LONGEST_TEXT], elements[:LONGEST_TEXT], default_preset or "")
        passes = _passes(page, library, backend, warn)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return said_html("The page did not say what is asked for; reload it.")
    if not any(made.plan.requests for made in passes):
        return said_html("There is no LoRA tag in the prompt.")
    theme = Theme.DARK if page["theme"] == Theme.DARK.value else Theme.LIGHT
    return picture_html(png(draw(passes, theme)), _in_words(passes)) + said_html("; ".join(warnings))


def _passes(page: dict[str, Any], library: Library, backend: Backend, warn: Callable[[str], None]) -> list[Pass]:
    """The passes that the host will run. A pass from an image runs a part of the steps; hires runs all that it has."""

    def steps_of(value: Any) -> int:
        return min(max(int(value), 1), _MOST_STEPS)

    steps = asked = steps_of(page["steps"])
    first = backend.evaluations(str(page["sampler"]), asked)
    if page["denoising"] is not None:
        steps = backend.steps_from_image(asked, min(max(float(page["denoising"]), 0.0), 1.0))
    reckoning = Reckoning(first, None, first // asked)
    passes = [preview(str(page["prompt"]), library, backend, warn, steps=steps, reckoning=reckoning)]
    if page["hires"] is not None:
        hires = page["hires"]
        steps = steps_of(int(hires["steps"]) or steps)
        evaluations = backend.evaluations(str(hires["sampler"]), steps)
        passes.append(preview(
            str(hires["prompt"] or page["prompt"]), library, backend, warn, steps=steps, hires=True,
            reckoning=Reckoning(first, evaluations, evaluations // steps),
        ))
    return passes


def _in_words(passes: list[Pass]) -> str:
    parts = []
    for title, made in zip(PASSES, passes, strict=False):
        for request in made.plan.requests[:10]:
            numbers = " ".join(f"{strength:.2g}" for strength in made.unet_strengths(request))
            parts.append(f"{title}, {shortened(request.name)}: {shortened(numbers, 400)}")
    return "Strength in the U-Net in each step. " + "; ".join(parts)
