"""Infotexts, the lines under an image that say how it was made: quoting, parsing, and putting them into a panel."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from modules import errors, paths, script_callbacks, shared

# Extensions from before 1.8 import this module under its old name.
sys.modules["modules.generation_parameters_copypaste"] = sys.modules[__name__]

_QUOTED_VALUE, _PLAIN_VALUE = r'"(?:[^"\\]|\\.)+"', "[^,]*"
re_param = re.compile(rf"\s*(\w[\w /-]+):\s*({_QUOTED_VALUE}|{_PLAIN_VALUE})(?:,|$)")
re_imagesize = re.compile(r"^(\d+)x(\d+)$")

_WHEN_MISSING: dict[str, Any] = {
    "Clip skip": "1", "Hires resize-1": 0, "Hires resize-2": 0, "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler", "Hires checkpoint": "Use same checkpoint", "Hires prompt": "",
    "Hires negative prompt": "", "Mask mode": "Inpaint masked", "Masked content": "original",
    "Inpaint area": "Whole picture", "Masked area padding": 32, "RNG": "GPU", "Schedule type": "Automatic",
    "Schedule max sigma": 0, "Schedule min sigma": 0, "Schedule rho": 0, "VAE Encoder": "Full", "VAE Decoder": "Full",
    "FP8 weight": "Disable", "Refiner switch by sampling steps": False,
}


class PasteField(tuple):
    """A component and where its value comes from: an infotext key, or a function of the parsed infotext."""

    def __new__(cls, component, target, *, api=None):
        return super().__new__(cls, (component, target))

    def __init__(self, component, target, *, api: str | None = None):
        super().__init__()
        self.api = api
        self.component = component
        self.label: str | None = target if isinstance(target, str) else None
        self.function: Callable | None = target if callable(target) else None


@dataclass(eq=False)
class ParamBinding:
    """A "send to" button: where its text and image come from, and which tab they go to."""

    paste_button: Any
    tabname: str
    source_text_component: Any = None
    source_image_component: Any = None
    source_tabname: str | None = None
    override_settings_component: Any = None
    paste_field_names: list[str] | None = None

    def __post_init__(self):
        self.paste_field_names = self.paste_field_names or []


paste_fields: dict[str, dict] = {}
registered_param_bindings: list[ParamBinding] = []
infotext_to_setting_name_mapping: list[tuple[str, str]] = []


def reset() -> None:
    paste_fields.clear()
    registered_param_bindings.clear()


def quote(text: Any) -> Any:
    """A value as it stands in an infotext: as JSON text if it has a comma, a colon or a line end."""
    return json.dumps(text, ensure_ascii=False) if any(char in str(text) for char in ",:\n") else text


def unquote(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def add_paste_fields(tabname: str, init_img, fields: list | None, override_settings_component=None) -> None:
    """Say what an infotext pasted into a tab fills in."""
    if fields:
        fields[:] = [field if isinstance(field, PasteField) else PasteField(*field) for field in fields]
    paste_fields[tabname] = {
        "init_img": init_img, "fields": fields, "override_settings_component": override_settings_component}


def register_paste_params_button(binding: ParamBinding) -> None:
    registered_param_bindings.append(binding)


def connect_paste_params_buttons() -> None:
    """Bring the registered buttons to life, once all tabs are built."""
    for binding in registered_param_bindings:
        tab = paste_fields[binding.tabname]
        settings = binding.override_settings_component or tab["override_settings_component"]
        if binding.source_image_component is not None and tab["init_img"] is not None:
            binding.paste_button.click(
                fn=lambda image: image, inputs=[binding.source_image_component], outputs=[tab["init_img"]],
                show_progress=False)
        if binding.source_text_component is not None and tab["fields"] is not None:
            connect_paste(
                binding.paste_button, tab["fields"], binding.source_text_component, settings, binding.tabname)


def _split_infotext(text: str) -> tuple[str, str, str]:
    """Prompt, negative prompt, and the line with the parameters, empty where the text has none."""
    *lines, last = text.strip().split("\n")
    if len(re_param.findall(last)) < 3:
        lines, last = [*lines, last], ""
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for line in (line.strip() for line in lines):
        if line.startswith("Negative prompt:"):
            target = negative
            line = line.removeprefix("Negative prompt:").strip()
        target.append(line)
    return "\n".join(prompt).lstrip("\n"), "\n".join(negative).lstrip("\n"), last


def parse_generation_parameters(x: str, skip_fields: list[str] | None = None) -> dict[str, Any]:
    """Parse an infotext. A size `AxB` becomes two keys, "-1" and "-2"; what is missing gets the value it had then."""
    prompt, negative_prompt, parameters = _split_infotext(x)
    result: dict[str, Any] = {}
    for key, value in re_param.findall(parameters):
        value = unquote(value)
        size = re_imagesize.match(value) if isinstance(value, str) else None
        if size:
            result[f"{key}-1"], result[f"{key}-2"] = size.groups()
        else:
            result[key] = value
    result["Prompt"] = prompt
    result["Negative prompt"] = negative_prompt
    for key, value in _WHEN_MISSING.items():
        result.setdefault(key, value)
    for key in shared.opts.infotext_skip_pasting if skip_fields is None else skip_fields:
        result.pop(key, None)
    return result


def _setting_names() -> list[tuple[str, str]]:
    """(infotext key, setting) of every setting that an infotext may carry."""
    declared = [(info.infotext, key) for key, info in shared.opts.data_labels.items() if info.infotext]
    return declared + infotext_to_setting_name_mapping


def create_override_settings_dict(text_pairs: list[str]) -> dict[str, Any]:
    """From the panel's "Clip skip: 2" texts to {"CLIP_stop_at_last_layers": 2}."""
    given = dict(pair.split(":", maxsplit=1) for pair in text_pairs)
    return {
        setting: shared.opts.cast_value(setting, given[key].strip())
        for key, setting in _setting_names() if key in given
    }


def get_override_settings(params: dict, *, skip_fields=None) -> list[tuple[str, str, Any]]:
    """(infotext key, setting, value) for what an infotext has different from the settings now."""
    found = []
    for key, setting in _setting_names():
        if key in (skip_fields or {}) or params.get(key) is None:
            continue
        if setting == "sd_model_checkpoint" and shared.opts.disable_weights_auto_swap:
            continue
        value = shared.opts.cast_value(setting, params[key])
        if value != getattr(shared.opts, setting, None):
            found.append((key, setting, value))
    return found


def last_infotext() -> str:
    """What the last generation noted in params.txt."""
    try:
        with open(os.path.join(paths.data_path, "params.txt"), encoding="utf8") as file:
            return file.read()
    except OSError:
        return ""


def _update_for(component, key, params: dict):
    """The gradio update of one component from a parsed infotext; an empty one where the text does not say."""
    try:
        value = key(params) if callable(key) else params.get(key)
    except Exception:
        errors.report(f"paste function {key} failed", exc_info=True)
        return gr.update()
    if value is None:
        return gr.update()
    if isinstance(value, dict) and value.get("__type__") in ("update", "generic_update"):
        return value
    kind = type(getattr(component, "value", None))
    try:
        if kind is bool:
            return gr.update(value=value not in ("False", False))
        return gr.update(value=float(value) if kind is int else kind(value))
    except (TypeError, ValueError):
        return gr.update()


def connect_paste(button, fields: list, input_comp, override_settings_component, tabname: str) -> None:
    """Let a button parse the infotext in `input_comp`, or the last one if that is empty, into a tab's components."""
    targets = [(component, key) for component, key in fields]
    if override_settings_component is not None:
        handled = {key for _, key in targets if isinstance(key, str)}

        def settings_update(params: dict):
            pairs = [f"{key}: {value}" for key, _, value in get_override_settings(params, skip_fields=handled)]
            return gr.Dropdown.update(value=pairs, choices=pairs, visible=bool(pairs))

        targets.append((override_settings_component, settings_update))

    def paste(prompt: str) -> list:
        if not prompt and not shared.cmd_opts.no_prompt_history:
            prompt = last_infotext()
        params = parse_generation_parameters(prompt)
        script_callbacks.infotext_pasted_callback(prompt, params)
        return [_update_for(component, key, params) for component, key in targets]

    button.click(fn=paste, inputs=[input_comp], outputs=[component for component, _ in targets], show_progress=False)
