"""Runs the scripts of one tab: builds their panels, and calls their hooks with their share of the arguments."""

from __future__ import annotations

import os

import gradio as gr

from modules import errors, script_callbacks, script_loading, shared
from modules.script_types import AlwaysVisible, OnComponent, Script


def wrap_call(func, filename, funcname, *args, default=None, **kwargs):
    """Call a script's method; if it raises, report it and return `default`."""
    try:
        return func(*args, **kwargs)
    except Exception:
        errors.report(f"{filename}: {funcname} failed", exc_info=True)
        return default


class ScriptRunner:
    """Scripts of a tab. Argument 0 is the number of the script chosen in the menu; each script's own follow."""

    def __init__(self):
        self.scripts: list[Script] = []
        self.selectable_scripts: list[Script] = []
        self.alwayson_scripts: list[Script] = []
        self.titles: list[str] = []
        self.title_map: dict[str, Script] = {}
        self.infotext_fields: list = []
        self.paste_field_names: list[str] = []
        self.inputs: list = [None]
        self.callback_map: dict = {}
        self.on_before_component_elem_id: dict[str, list] = {}
        self.on_after_component_elem_id: dict[str, list] = {}

    def initialize_scripts(self, is_img2img: bool) -> None:
        """Make one instance of every loaded script class and ask it where it wants to be shown."""
        from modules import scripts

        for kept in (self.scripts, self.alwayson_scripts, self.selectable_scripts):
            kept.clear()
        for data in scripts.scripts_data:
            try:
                script = data.script_class()
            except Exception:
                errors.report(f"script class {data.script_class.__name__} of {data.path} failed", exc_info=True)
                continue
            script.filename = data.path
            script.is_txt2img, script.is_img2img = not is_img2img, is_img2img
            script.tabname = "img2img" if is_img2img else "txt2img"
            visibility = script.show(is_img2img)
            if not visibility:
                continue
            script.alwayson = visibility is AlwaysVisible
            self.scripts.append(script)
            (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)
        self.callback_map.clear()
        self.apply_on_before_component_callbacks()

    def apply_on_before_component_callbacks(self) -> None:
        """Take over the requests for single components that scripts have made since the last time."""
        for script in self.scripts:
            for requested, known in (
                (script.on_before_component_elem_id, self.on_before_component_elem_id),
                (script.on_after_component_elem_id, self.on_after_component_elem_id),
            ):
                for elem_id, callback in requested or []:
                    known.setdefault(elem_id, []).append((callback, script))
                if requested:
                    requested.clear()

    def prepare_ui(self) -> None:
        self.inputs = [None]

    def create_script_ui(self, script: Script) -> None:
        """Build a script's panel; one that fails keeps an empty share of the arguments."""
        script.args_from = script.args_to = len(self.inputs)
        try:
            self.create_script_ui_inner(script)
        except Exception:
            errors.report(f"panel of {script.filename} failed", exc_info=True)

    def create_script_ui_inner(self, script: Script) -> None:
        script.controls = controls = wrap_call(script.ui, script.filename, "ui", script.is_img2img)
        if controls is None:
            return
        title = wrap_call(script.title, script.filename, "title", default=script.filename)
        script.name = title.lower()
        for control in controls:
            control.custom_script_source = os.path.basename(script.filename)
        script.api_info = _api_info(script, controls)
        self.infotext_fields += script.infotext_fields or []
        self.paste_field_names += script.paste_field_names or []
        self.inputs += controls
        script.args_to = len(self.inputs)

    def setup_ui_for_section(self, section: str | None, scriptlist: list[Script] | None = None) -> None:
        for script in self.alwayson_scripts if scriptlist is None else scriptlist:
            if script.alwayson and script.section != section:
                continue
            if not script.create_group:
                self.create_script_ui(script)
                continue
            with gr.Group(visible=script.alwayson) as group:
                self.create_script_ui(script)
            script.group = group

    def setup_ui(self) -> list:
        """Build the menu and all panels that are not in a section of their own; returns the argument components."""
        named = [(wrap_call(script.title, script.filename, "title"), script) for script in self.scripts]
        self.title_map = {(title or script.filename).lower(): script for title, script in named}
        self.titles = [title or f"{script.filename} [error]" for title, script in named if not script.alwayson]
        self.setup_ui_for_section(None)
        menu = gr.Dropdown(
            label="Script", elem_id="script_list", choices=["None", *self.titles], value="None", type="index")
        self.inputs[0] = menu
        self.setup_ui_for_section(None, self.selectable_scripts)
        self._connect_menu(menu)
        self.apply_on_before_component_callbacks()
        return self.inputs

    def _connect_menu(self, menu: gr.Dropdown) -> None:
        """Show the panel of the chosen script only: on a click, from the panel defaults, and from an infotext."""
        groups = [script.group for script in self.selectable_scripts]

        def show_chosen(index: int | None):
            updates = [gr.update(visible=number == index) for number in range(1, len(groups) + 1)]
            return updates if len(updates) > 1 else updates[0]  # gradio takes a list for the value of an only output

        def init_field(title: str) -> None:
            if title in self.titles:
                groups[self.titles.index(title)].visible = True

        menu.init_field = init_field
        if groups:
            menu.change(fn=show_chosen, inputs=[menu], outputs=groups)
        self.infotext_fields.append((menu, lambda params: gr.update(value=params.get("Script", "None"))))
        for title, group in zip(self.titles, groups, strict=True):
            self.infotext_fields.append(
                (group, lambda params, title=title: gr.update(visible=params.get("Script") == title)))

    def script(self, title: str) -> Script | None:
        return self.title_map.get(title.lower())

    def run(self, p, *args):
        """Run the script chosen in the menu; None where there is none, which means an ordinary generation."""
        if not args[0]:
            return None
        script = self.selectable_scripts[args[0] - 1]
        processed = script.run(p, *args[script.args_from:script.args_to])
        shared.total_tqdm.clear()
        return processed

    def list_scripts_for_method(self, method_name: str) -> list[Script]:
        return self.scripts if method_name in ("before_component", "after_component") else self.alwayson_scripts

    def ordered_callbacks(self, method_name: str, *, enable_user_sort: bool = True) -> list:
        """The scripts that define a hook, as callbacks; remembered until the number of scripts changes."""
        candidates = self.list_scripts_for_method(method_name)
        category = f"script_{method_name}"
        known = self.callback_map.get(category)
        if known is not None and known[0] == len(candidates):
            return known[1]
        callbacks: list = []
        for script in candidates:
            if getattr(type(script), method_name, None) is not getattr(Script, method_name, None):
                script_callbacks.add_callback(
                    callbacks, script, category=category, name=type(script).__name__, filename=script.filename)
        callbacks = script_callbacks.sort_callbacks(category, callbacks, enable_user_sort=enable_user_sort)
        self.callback_map[category] = len(candidates), callbacks
        return callbacks

    def ordered_scripts(self, method_name: str) -> list[Script]:
        return [callback.callback for callback in self.ordered_callbacks(method_name)]

    def _call_hook(self, method_name: str, p, *values, scripts: list[Script] | None = None, **kwargs) -> None:
        """Call a hook of every script that has it, with the script's slice of `p.script_args`.

        A hook that raises is reported; the other scripts and the generation go on.
        """
        for script in self.ordered_scripts(method_name) if scripts is None else scripts:
            try:
                script_args = p.script_args[script.args_from:script.args_to]
                getattr(script, method_name)(p, *values, *script_args, **kwargs)
            except Exception:
                errors.report(f"{script.filename}: {method_name} failed", exc_info=True)

    def setup_scrips(self, p, *, is_ui: bool = True) -> None:  # the host's spelling
        wanted = [script for script in self.ordered_scripts("setup") if is_ui or not script.setup_for_ui_only]
        self._call_hook("setup", p, scripts=wanted)

    def before_process(self, p):
        self._call_hook("before_process", p)

    def process(self, p):
        self._call_hook("process", p)

    def process_before_every_sampling(self, p, **kwargs):
        self._call_hook("process_before_every_sampling", p, **kwargs)

    def before_process_batch(self, p, **kwargs):
        self._call_hook("before_process_batch", p, **kwargs)

    def after_extra_networks_activate(self, p, **kwargs):
        self._call_hook("after_extra_networks_activate", p, **kwargs)

    def process_batch(self, p, **kwargs):
        self._call_hook("process_batch", p, **kwargs)

    def before_hr(self, p):
        self._call_hook("before_hr", p)

    def post_sample(self, p, ps):
        self._call_hook("post_sample", p, ps)

    def on_mask_blend(self, p, mba):
        self._call_hook("on_mask_blend", p, mba)

    def postprocess_batch(self, p, images, **kwargs):
        self._call_hook("postprocess_batch", p, images=images, **kwargs)

    def postprocess_batch_list(self, p, pp, **kwargs):
        self._call_hook("postprocess_batch_list", p, pp, **kwargs)

    def postprocess_image(self, p, pp):
        self._call_hook("postprocess_image", p, pp)

    def postprocess_maskoverlay(self, p, ppmo):
        self._call_hook("postprocess_maskoverlay", p, ppmo)

    def postprocess_image_after_composite(self, p, pp):
        self._call_hook("postprocess_image_after_composite", p, pp)

    def postprocess(self, p, processed):
        self._call_hook("postprocess", p, processed)

    def before_component(self, component, **kwargs):
        self._call_component_hook("before_component", kwargs.get("elem_id"), component, kwargs)

    def after_component(self, component, **kwargs):
        self._call_component_hook("after_component", component.elem_id, component, kwargs)

    def _call_component_hook(self, method_name: str, elem_id: str | None, component, kwargs: dict) -> None:
        """First the requests for this one component, then the hooks for all."""
        requests = (
            self.on_before_component_elem_id if method_name == "before_component" else self.on_after_component_elem_id
        )
        for callback, script in requests.get(elem_id, []):
            wrap_call(callback, script.filename, f"on_{method_name}", OnComponent(component=component))
        for script in self.ordered_scripts(method_name):
            wrap_call(getattr(script, method_name), script.filename, method_name, component, **kwargs)

    def reload_sources(self, cache: dict) -> None:
        """Replace each script by a new instance of its class from its file executed anew."""
        for index, old in enumerate(self.scripts):
            if old.filename not in cache:
                cache[old.filename] = script_loading.load_module(old.filename)
            for value in vars(cache[old.filename]).values():
                if type(value) is type and issubclass(value, Script):
                    new = value()
                    new.filename, new.args_from, new.args_to = old.filename, old.args_from, old.args_to
                    self.scripts[index] = new

    def set_named_arg(self, args, script_name: str, arg_elem_id: str, value, fuzzy: bool = False):
        """Set the argument whose component has an id, or with `fuzzy` an id that contains it.

        Returns:
            `args`: the same list, changed in place, or a new tuple.

        Raises:
            RuntimeError: there is no such script or no such component.
        """
        script = next((script for script in self.scripts if script.name == script_name), None)
        if script is None:
            raise RuntimeError(f"there is no script {script_name}")
        for index, control in enumerate(script.controls, start=script.args_from):
            if control.elem_id == arg_elem_id or (fuzzy and arg_elem_id in (control.elem_id or "")):
                changed = args if isinstance(args, list) else list(args)
                changed[index] = value
                return changed if isinstance(args, list) else tuple(changed)
        raise RuntimeError(f"script {script_name} has no component with id {arg_elem_id}")


def _api_info(script: Script, controls: list):
    """Describe a script's arguments for `/sdapi/v1/script-info`."""
    from modules.api import models as api_models

    described = []
    for control in controls:
        info = api_models.ScriptArg(label=control.label or "")
        for field in ("value", "minimum", "maximum", "step"):
            value = getattr(control, field, None)
            if value is not None:
                setattr(info, field, value)
        choices = getattr(control, "choices", None)
        if choices is not None:
            info.choices = [choice[0] if isinstance(choice, tuple) else choice for choice in choices]
        described.append(info)
    return api_models.ScriptInfo(
        name=script.name, is_img2img=script.is_img2img, is_alwayson=script.alwayson, args=described)
