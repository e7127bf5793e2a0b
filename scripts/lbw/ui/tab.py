"""What the sections of one tab's panel share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tab:
    """txt2img or img2img."""

    name: str

    def id(self, name: str) -> str:
        """An element's id. txt2img has the names that other tools know; an id may stand on a page only once."""
        return name if self.name == "txt2img" else f"{self.name}_{name}"


def on_click_in_browser(button: Any, function: str, inputs: Sequence[Any] = ()) -> None:
    """Run a JavaScript function with the values of ``inputs``, and nothing on the server."""
    button.click(fn=None, inputs=list(inputs), outputs=[], **_in_browser(button, function))


def on_click(
    button: Any, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any], in_browser: str
) -> None:
    """Run ``function`` with what a JavaScript function makes of the values of ``inputs``."""
    button.click(
        function, list(inputs), list(outputs), queue=False, show_progress=False, **_in_browser(button, in_browser)
    )


def _in_browser(button: Any, function: str) -> dict[str, str]:
    # Gradio 3 and Forge name the argument _js, a plain gradio 4 js.
    return {"js" if "js" in inspect.signature(button.click).parameters else "_js": function}
