"""Makes gradio tell scripts of every component that it makes, and accept the host's `tooltip` argument.

The spelling of the module's name is the host's.
"""

from __future__ import annotations

import gradio as gr

from modules import patches, script_callbacks, scripts


def _announced(original, takes_tooltip: bool):
    """A constructor that runs the before- and after-component callbacks around `original`."""

    def init(self, *args, **kwargs):
        if takes_tooltip:
            self.webui_tooltip = kwargs.pop("tooltip", None)
        if scripts.scripts_current is not None:
            scripts.scripts_current.before_component(self, **kwargs)
        script_callbacks.before_component_callback(self, **kwargs)

        original(self, *args, **kwargs)
        _add_style_classes(self)

        script_callbacks.after_component_callback(self, **kwargs)
        if scripts.scripts_current is not None:
            scripts.scripts_current.after_component(self, **kwargs)

    return init


def _add_style_classes(component) -> None:
    component.elem_classes = [f"gradio-{component.get_block_name()}", *(component.elem_classes or [])]
    if getattr(component, "multiselect", False):
        component.elem_classes.append("multiselect")


def _patch_constructor(cls: type, takes_tooltip: bool) -> None:
    patches.patch(__name__, obj=cls, field="__init__", replacement=_announced(cls.__init__, takes_tooltip))


_patch_constructor(gr.components.IOComponent, takes_tooltip=True)
_patch_constructor(gr.blocks.BlockContext, takes_tooltip=False)


def _config_with_tooltip(original):
    def get_config(self):
        tooltip = getattr(self, "webui_tooltip", None)
        return {**original(self), **({"webui_tooltip": tooltip} if tooltip else {})}

    return get_config


patches.patch(
    __name__, obj=gr.blocks.Block, field="get_config", replacement=_config_with_tooltip(gr.blocks.Block.get_config))
