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

    merged = {setting: value for _, setting, value in infotext_utils.get_override_settings(params)}
    merged.update(request.override_settings or {})
    request.override_settings = merged

    script_args: dict[int, Any] = {}
    at_position = {component: position for position, component in enumerate(runner.inputs)}
    for field in fields:
        position = at_position.get(field.component)
        if position is not None:
            script_args[position] = _pasted_value(request, field, params)
    return {position: value for position, value in script_args.items() if value is not None}


def _read_off(field, params: dict) -> Any:
    """What the infotext says about a paste field, in whatever type; None for nothing."""
    found = params.get(field.label) if not field.function else field.function(params)
    is_update = isinstance(found, dict) and found.get("__type__") in ("update", "generic_update")
    return found.get("value") if is_update else found


def _type_for(request, field) -> Any:
    """The type of the request's field or else of the component's value; None if neither has one."""
    declared = request.__fields__.get(field.api)
    if declared is not None:
        return None if declared.type_ is type(None) else declared.type_
    value = getattr(field.component, "value", None)
    return None if value is None else type(value)


def _pasted_value(request, field, params: dict) -> Any:
    """A paste field's value, in the type of the request's field or else of the component."""
    found, wanted = _read_off(field, params), _type_for(request, field)
    if found is None or wanted is None:
        return None
    fits = not isinstance(wanted, type) or isinstance(found, wanted)
    return found if fits else wanted(found)
