"""Lets components of gradio 4 take what those of gradio 3 took, as Forge does for the extensions that it loads.

A component takes ``tooltip``, and ignores arguments that it does not know; its events take ``_js`` for ``js``.
"""

from __future__ import annotations

import inspect
from functools import wraps

import gradio as gr
from gradio import component_meta

# It would write a .pyi file beside each file with a component in it.
component_meta.create_or_modify_pyi = lambda *_: None


class Event:
    """An event of a component, to be called with ``_js`` or ``js``."""

    def __init__(self, original):
        self.original = original
        self.has_trigger = original.has_trigger
        self.event_name = original.event_name
        self.callback = original.callback

    @property
    def __self__(self):
        return getattr(self.original, "__self__", None)

    def __call__(self, *args, **kwargs):
        if "_js" in kwargs:
            kwargs["js"] = kwargs.pop("_js")
        return self.original(*args, **kwargs)


def _constructor(original):
    known = inspect.signature(original).parameters

    @wraps(original)
    def init(self, *args, tooltip=None, **kwargs):
        original(self, *args, **{name: value for name, value in kwargs.items() if name in known})
        self.webui_tooltip = tooltip
        self.elem_classes = [f"gradio-{self.get_block_name()}", *(self.elem_classes or [])]
        for event in self.EVENTS:
            setattr(self, str(event), Event(getattr(self, str(event))))

    return init


def _config(original):
    def get_config(self, *args, **kwargs):
        tooltip = getattr(self, "webui_tooltip", None)
        return {**original(self, *args, **kwargs), **({"webui_tooltip": tooltip} if tooltip else {})}

    return get_config


for _name in {*gr.components.__all__, *gr.layouts.__all__}:
    _class = getattr(gr, _name, None)
    if getattr(_class, "EVENTS", None):
        _class.__init__ = _constructor(_class.__init__)
gr.blocks.Block.get_config = _config(gr.blocks.Block.get_config)
