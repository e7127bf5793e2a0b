"""Arguments whose fields are drawn by our own JavaScript, and not before their section is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr


def undrawn(component: Any) -> Any:
    """Have the page keep a component's value and draw nothing for it. To the server and the host it stays what it is.

    Gradio draws components by the name of their kind, and those of a state as nothing at all.
    """
    component.get_block_name = lambda: "state"
    component.get_expected_parent = lambda: None  # else a frame is drawn around it
    if hasattr(gr.State, "get_component_class_id"):  # gradio 4 asks for the code of a kind by this
        component.component_class_id = gr.State.get_component_class_id()
    return component
