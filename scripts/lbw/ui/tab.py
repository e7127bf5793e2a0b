"""What the parts of one tab's panel share."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tab:
    """txt2img or img2img."""

    name: str

    def id(self, name: str) -> str:
        """An element's id. txt2img has the names that other tools know; an id may stand on a page only once."""
        return name if self.name == "txt2img" else f"{self.name}_{name}"


def on_click(button: Any, components: Sequence[Any], in_browser: str) -> None:
    """Give components the values that a JavaScript function returns, which has theirs as arguments."""
    # Gradio 3 and Forge name the argument _js, a plain gradio 4 js.
    name = "js" if "js" in inspect.signature(button.click).parameters else "_js"
    button.click(None, [], list(components), queue=False, show_progress=False, **{name: in_browser})
