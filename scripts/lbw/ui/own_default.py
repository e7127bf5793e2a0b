"""The default of its own that the LoRA at the cursor has: shown, put into its tag, and made of what its tag says.

lbw_panel.js says which LoRA that is, and does what the buttons say.
"""

from __future__ import annotations

from html import escape

import gradio as gr

from lbw.engine.strengths import UnknownNetworkError
from lbw.request.preview import Backend
from lbw.tags.limits import shortened
from lbw.ui.tab import Tab, on_click


def build(tab: Tab, backend: Backend) -> None:
    shown = gr.HTML(elem_id=tab.id("lbw_own"), value=_row(""), elem_classes=["lbw-own-frame"])
    ask = gr.Button("Show its default", elem_id=tab.id("lbw_own_ask"), visible=False)
    save = gr.Button("Save its default", elem_id=tab.id("lbw_own_save"), visible=False)

    def on_save(name: str, weights: str, in_tag: str) -> str:
        try:
            backend.set_own_default(name, weights)
        except (UnknownNetworkError, ValueError, OSError) as error:
            return own_html(name, in_tag, backend, f"Not saved: {error}.")
        return own_html(name, in_tag, backend, "Saved." if weights else "Removed.")

    on_click(
        ask, lambda name, in_tag: own_html(name, in_tag, backend), [tab.asked, tab.asked], [shown],
        f"() => loraBlockWeight.touched('{tab.name}')",
    )
    on_click(save, on_save, [tab.asked] * 3, [shown], f"() => loraBlockWeight.toSave('{tab.name}')")


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
    data = f'data-name="{escape(name)}" data-weights="{escape(own)}"'
    return f'<div class="lbw-own" role="status" {data}>{content}</div>'
