"""The components that the panel takes from a host.

Gradio 4 sends to the page what the signature of a constructor names, so these have the signature of gradio's own.
"""

from __future__ import annotations

from functools import wraps

import gradio as gr

from modules import gradio_extensions  # noqa: F401  (changes gradio before the first component is made)


class FormComponent:
    def get_expected_parent(self):
        return gr.components.Form


gr.Dropdown.get_expected_parent = FormComponent.get_expected_parent


class ToolButton(gr.Button, FormComponent):
    @wraps(gr.Button.__init__)
    def __init__(self, value="", *, elem_classes=None, **kwargs):
        super().__init__(value=value, elem_classes=["tool", *(elem_classes or [])], **kwargs)

    def get_block_name(self) -> str:
        return "button"


class FormRow(gr.Row, FormComponent):
    def get_block_name(self) -> str:
        return "row"


class InputAccordionImpl(gr.Checkbox):
    """A hidden checkbox with the value, and an accordion that is open while it is checked."""

    @wraps(gr.Checkbox.__init__)
    def __init__(self, value=None, setup=False, **kwargs):
        if not setup:  # gradio 4 makes a copy of each component, with the arguments of the first
            super().__init__(value=value, **kwargs)
            return
        self.accordion_id = kwargs["elem_id"]
        super().__init__(value=value, **{**kwargs, "elem_id": f"{self.accordion_id}-checkbox", "visible": False})
        self.change(fn=None, inputs=[self], _js=f"checked => inputAccordionChecked('{self.accordion_id}', checked)")
        self.accordion = gr.Accordion(**{**kwargs, "elem_classes": ["input-accordion"], "open": value})

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, *exc_info):
        self.accordion.__exit__(*exc_info)

    def get_block_name(self) -> str:
        return "checkbox"


def InputAccordion(value=None, **kwargs):
    return InputAccordionImpl(value=value, setup=True, **kwargs)
