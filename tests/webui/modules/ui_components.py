"""Gradio components in the forms that the host and its extensions use."""

from __future__ import annotations

import itertools

import gradio as gr


class FormComponent:
    """Mixin: gradio puts neighbours that expect a Form into one frame without gaps."""

    def get_expected_parent(self):
        return gr.components.Form


gr.Dropdown.get_expected_parent = FormComponent.get_expected_parent


class ToolButton(FormComponent, gr.Button):
    """A narrow button for one symbol."""

    def __init__(self, *args, **kwargs):
        classes = kwargs.pop("elem_classes", [])
        super().__init__(*args, elem_classes=["tool", *classes], **kwargs)

    def get_block_name(self) -> str:
        return "button"


class ResizeHandleRow(gr.Row):
    """A row whose two columns have a handle between them where the page's style offers one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.elem_classes.append("resize-handle-row")

    def get_block_name(self) -> str:
        return "row"


class FormRow(FormComponent, gr.Row):
    def get_block_name(self) -> str:
        return "row"


class FormColumn(FormComponent, gr.Column):
    def get_block_name(self) -> str:
        return "column"


class FormGroup(FormComponent, gr.Group):
    def get_block_name(self) -> str:
        return "group"


class FormHTML(FormComponent, gr.HTML):
    def get_block_name(self) -> str:
        return "html"


class FormColorPicker(FormComponent, gr.ColorPicker):
    def get_block_name(self) -> str:
        return "colorpicker"


class DropdownMulti(FormComponent, gr.Dropdown):
    """A dropdown of which several items can be chosen."""

    def __init__(self, **kwargs):
        super().__init__(multiselect=True, **kwargs)

    def get_block_name(self) -> str:
        return "dropdown"


class DropdownEditable(FormComponent, gr.Dropdown):
    """A dropdown that takes text of its user's own."""

    def __init__(self, **kwargs):
        super().__init__(allow_custom_value=True, **kwargs)

    def get_block_name(self) -> str:
        return "dropdown"


class InputAccordion(gr.Checkbox):
    """An accordion that is an input: true while it is open.

    It is a hidden checkbox, which carries the value, and an accordion, which carries the looks; the page's script keeps
    the two in step. Used as a context, it opens the accordion.
    """

    _numbers = itertools.count()

    def __init__(self, value, **kwargs):
        self.accordion_id = kwargs.get("elem_id") or f"input-accordion-{next(self._numbers)}"

        super().__init__(value, **{**kwargs, "elem_id": f"{self.accordion_id}-checkbox", "visible": False})
        self.change(fn=None, inputs=[self], _js=f"checked => inputAccordionChecked('{self.accordion_id}', checked)")
        self.accordion = gr.Accordion(**{
            **kwargs, "elem_id": self.accordion_id, "label": kwargs.get("label", "Accordion"),
            "elem_classes": ["input-accordion"], "open": value,
        })

    def extra(self) -> gr.Column:
        """A place in the accordion's title line for more components."""
        return gr.Column(elem_id=f"{self.accordion_id}-extra", elem_classes="input-accordion-extra", min_width=0)

    def __enter__(self) -> InputAccordion:
        self.accordion.__enter__()
        return self

    def __exit__(self, *exc_info) -> None:
        self.accordion.__exit__(*exc_info)

    def get_block_name(self) -> str:
        return "checkbox"
