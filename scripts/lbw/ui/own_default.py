"""The default of its own that the LoRA at the cursor has: shown, put into its tag, and made of what its tag says.

lbw_own_default.js says which LoRA that is, and does what the buttons say.
"""

from __future__ import annotations

from html import escape

from lbw.engine.strengths import UnknownNetworkError
from lbw.request.preview import Backend
from lbw.tags.limits import shortened


def save_own(name: str, weights: str, in_tag: str, backend: Backend) -> str:
    """Make ``weights`` a LoRA's own default, or take it away; returns what is shown of it then."""
    try:
        backend.set_own_default(name, weights)
    except (UnknownNetworkError, ValueError, OSError) as error:
        return own_html(name, in_tag, backend, f"Not saved: {error}.")
    return own_html(name, in_tag, backend, "Saved." if weights else "Removed.")


def own_html(name: str, in_tag: str, backend: Backend, message: str = "") -> str:
    """What a LoRA's own default is and what can be done with it; nothing where there is neither a default nor block
    weights to make one of.

    Args:
        in_tag: the block weights of its tag.
    """
    try:
        own = backend.own_default(name)
    except UnknownNetworkError:
        return _row("", name)
    buttons = {
        "put": own and own != in_tag and "Use its default",
        "save": in_tag and own != in_tag and "Save the tag's weights as its default",
        "remove": own and "Remove its default",
    }
    if not any(buttons.values()) and not message:
        return _row("", name)
    made = "".join(
        f'<button type="button" class="lbw-button" data-own="{key}">{text}</button>'
        for key, text in buttons.items() if text
    )
    default = f'<span>Its default:</span> <code translate="no">lbw={escape(shortened(own))}</code>' if own else ""
    said = f"<span>{escape(message)}</span>" if message else ""
    return _row(f'<b translate="no">{escape(shortened(name))}</b> {default} {made} {said}', name, own)


def _row(content: str, name: str = "", own: str = "") -> str:
    data = f'data-lora="{escape(name)}" data-weights="{escape(own)}"'
    return f'<div class="lbw-own" role="status" {data}>{content}</div>'
