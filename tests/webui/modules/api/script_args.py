"""The one flat list of arguments that all scripts of a tab share: its defaults, and what a request sets in it."""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi.exceptions import HTTPException

from modules import infotext_utils
from modules.script_runner import ScriptRunner
from modules.script_types import Script


def script_name_to_index(name: str, scripts: list[Script]) -> int:
    """Position of the script with this title, in any case; HTTP 422 if there is none."""
    try:
        return [script.title().lower() for script in scripts].index(name.lower())
    except (ValueError, AttributeError) as error:
        raise HTTPException(status_code=422, detail=f"Script '{name}' not found") from error


def init_default_script_args(runner: ScriptRunner) -> list:
    """What the page would send if nobody touched it. Position 0 is the script chosen in the menu: none."""
    script_args: list[Any] = [None] * max([1, *(script.args_to for script in runner.scripts)])
    script_args[0] = 0
    with gr.Blocks():  # components can only be made inside of one
        for script in runner.scripts:
            controls = script.ui(script.is_img2img)
            if controls:
                script_args[script.args_from:script.args_to] = [control.value for control in controls]
    return script_args


def init_script_args(request, defaults: list, runner: ScriptRunner, from_infotext: dict[int, Any]) -> list:
    """Fill in a request's arguments: those from its infotext, of its selectable script, of scripts that always run.

    `script_args` replaces the selectable script's share whatever its length, so that a list of a wrong length shifts
    the arguments of the scripts behind it. For a script that always runs, as many values count as both sides have.
    """
    script_args = defaults.copy()
    for index, value in from_infotext.items():
        script_args[index] = value

    if request.script_name:
        index = script_name_to_index(request.script_name, runner.selectable_scripts)
        script = runner.selectable_scripts[index]
        script_args[script.args_from:script.args_to] = request.script_args
        script_args[0] = index + 1

    for name, given in (request.alwayson_scripts or {}).items():
        if not name:
            raise HTTPException(status_code=422, detail=f"always on script {name} not found")
        script = runner.scripts[script_name_to_index(name, runner.scripts)]
        if not script.alwayson:
            detail = f"{name} is a script of the menu, it cannot be always on"
            raise HTTPException(status_code=422, detail=detail)
        if "args" in given:
            values = given["args"][:script.args_to - script.args_from]
            script_args[script.args_from:script.args_from + len(values)] = values
    return script_args


def apply_infotext(request, tabname: str, runner: ScriptRunner) -> dict[int, Any]:
    """Set what the request's `infotext` says and the request itself does not.

    Returns:
        script arguments from the infotext, by position.
    """
    if not request.infotext:
        return {}
    params = infotext_utils.parse_generation_parameters(request.infotext)
    fields = infotext_utils.paste_fields[tabname]["fields"]
    own = request.dict(exclude_unset=True)

    for field in fields:
        if field.api and field.api not in own:
            value = _pasted_value(request, field, params)
            if value is not None:
                setattr(request, field.api, value)

    overrides = {setting: value for _, setting, value in infotext_utils.get_override_settings(params)}
    request.override_settings = {**overrides, **(request.override_settings or {})}

    positions = {component: index for index, component in enumerate(runner.inputs)}
    pasted = {
        positions[field.component]: _pasted_value(request, field, params)
        for field in fields if field.component in positions
    }
    return {index: value for index, value in pasted.items() if value is not None}


def _pasted_value(request, field, params: dict) -> Any:
    """A paste field's value, in the type of the request's field or else of the component."""
    value = field.function(params) if field.function else params.get(field.label)
    if isinstance(value, dict) and value.get("__type__") in ("generic_update", "update"):
        value = value.get("value")
    if value is None:
        return None
    if field.api in request.__fields__:
        kind = request.__fields__[field.api].type_
    else:
        kind = type(getattr(field.component, "value", None))
    if kind is type(None):
        return None
    return value if not isinstance(kind, type) or isinstance(value, kind) else kind(value)
