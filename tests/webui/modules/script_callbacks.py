"""Hooks by which extensions take part in the host.

Every kind of hook has a pair of functions: `on_<kind>` for the extension that registers, and `<kind>_callback` for the
host that calls. A hook that raises is reported, and the other hooks and the host go on.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules import errors, extensions, shared

Callback = Callable[..., Any]


@dataclass(eq=False)
class ImageSaveParams:
    """An image about to be saved: change `image`, `filename` or `pnginfo` to change what is written."""

    image: Any
    p: Any
    filename: str
    pnginfo: dict


@dataclass(eq=False)
class ExtraNoiseParams:
    """Noise to be added to an img2img start: the noise, the clean latent, and the latent with noise."""

    noise: Any
    x: Any
    xi: Any


@dataclass(eq=False)
class CFGDenoiserParams:
    """Inputs of one model evaluation; what a hook puts here is what the model gets.

    `sampling_step` is the last step that the sampler has reported, hence one behind after the first.
    """

    x: Any
    image_cond: Any
    sigma: Any
    sampling_step: int
    total_sampling_steps: int
    text_cond: Any
    text_uncond: Any
    denoiser: Any = None


@dataclass(eq=False)
class CFGDenoisedParams:
    """Outputs of one model evaluation, prompt parts first, negative prompts last."""

    x: Any
    sampling_step: int
    total_sampling_steps: int
    inner_model: Any


@dataclass(eq=False)
class AfterCFGCallbackParams:
    """The guided result of one evaluation; a hook may replace `x`."""

    x: Any
    sampling_step: int
    total_sampling_steps: int


@dataclass(eq=False)
class UiTrainTabParams:
    txt2img_preview_params: Any


@dataclass(eq=False)
class ImageGridLoopParams:
    imgs: list
    cols: int
    rows: int


@dataclass(eq=False)
class BeforeTokenCounterParams:
    prompt: str
    steps: int
    styles: list
    is_positive: bool = True


@dataclass(eq=False)
class ScriptCallback:
    """A registered hook, the file that registered it, and a name unique among hooks of its kind."""

    script: str
    callback: Callback
    name: str = "unnamed"


CATEGORIES = (
    "app_started", "model_loaded", "ui_tabs", "ui_train_tabs", "ui_settings", "before_image_saved", "image_saved",
    "extra_noise", "cfg_denoiser", "cfg_denoised", "cfg_after_cfg", "before_component", "after_component", "image_grid",
    "infotext_pasted", "script_unloaded", "before_ui", "on_reload", "list_optimizers", "list_unets",
    "before_token_counter",
)
callback_map: dict[str, list[ScriptCallback]] = {f"callbacks_{category}": [] for category in CATEGORIES}
ordered_callbacks_map: dict[str, list[ScriptCallback]] = {}


def _calling_file() -> str:
    """The file, outside of this one, from which the running call came."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename if frame is not None else "unknown file"


def add_callback(callbacks: list, fun, *, name: str | None = None, category: str = "unknown", filename=None) -> None:
    """Append a hook under the name `extension/file/category[/name][-n]`."""
    filename = filename or _calling_file()
    owner = extensions.find_extension(filename)
    parts = [owner.canonical_name if owner else "base", os.path.basename(filename), category]
    base = unique = "/".join(parts + ([name] if name is not None else []))
    taken = {existing.name for existing in callbacks}
    number = 0
    while unique in taken:
        number += 1
        unique = f"{base}-{number}"
    callbacks.append(ScriptCallback(filename, fun, unique))


def sort_callbacks(category: str, unordered_callbacks: list, *, enable_user_sort: bool = True) -> list:
    """In order of registration, save that those named in the user's setting for the category come first."""
    preferred = getattr(shared.opts, f"prioritized_callbacks_{category}", []) if enable_user_sort else []
    rank = {name: index for index, name in enumerate(preferred)}
    return sorted(unordered_callbacks, key=lambda callback: rank.get(callback.name, len(rank)))


def ordered_callbacks(category: str, unordered_callbacks: list | None = None, *, enable_user_sort: bool = True) -> list:
    if unordered_callbacks is None:
        unordered_callbacks = callback_map[f"callbacks_{category}"]
    if not enable_user_sort:
        return sort_callbacks(category, unordered_callbacks, enable_user_sort=False)
    cached = ordered_callbacks_map.get(category)
    if cached is None or len(cached) != len(unordered_callbacks):
        cached = ordered_callbacks_map[category] = sort_callbacks(category, unordered_callbacks)
    return cached


def enumerate_callbacks():
    for key, callbacks in callback_map.items():
        yield key.removeprefix("callbacks_"), callbacks


def clear_callbacks() -> None:
    for callbacks in callback_map.values():
        callbacks.clear()
    ordered_callbacks_map.clear()


def _remove_where(condition: Callable[[ScriptCallback], bool]) -> None:
    for callbacks in (*callback_map.values(), *ordered_callbacks_map.values()):
        callbacks[:] = [callback for callback in callbacks if not condition(callback)]


def remove_current_script_callbacks() -> None:
    """Remove every hook that the calling file has registered."""
    filename = _calling_file()
    _remove_where(lambda callback: callback.script == filename)


def remove_callbacks_for_function(callback_func: Callback) -> None:
    _remove_where(lambda callback: callback.callback == callback_func)


def report_exception(callback: ScriptCallback, job: str) -> None:
    errors.report(f"hook {job} of {callback.script} failed", exc_info=True)


def _call_all(category: str, *args, last_first: bool = False, **kwargs) -> list:
    """Call every hook of a kind and collect what they return; a failing one is reported and left out."""
    results = []
    callbacks = list(ordered_callbacks(category))
    for callback in reversed(callbacks) if last_first else callbacks:
        try:
            results.append(callback.callback(*args, **kwargs))
        except Exception:
            report_exception(callback, category)
    return results


def app_started_callback(demo, app) -> None:
    _call_all("app_started", demo, app)


def app_reload_callback() -> None:
    _call_all("on_reload")


def model_loaded_callback(sd_model) -> None:
    _call_all("model_loaded", sd_model)


def ui_tabs_callback() -> list:
    return [tab for tabs in _call_all("ui_tabs") for tab in tabs or []]


def ui_train_tabs_callback(params: UiTrainTabParams) -> None:
    _call_all("ui_train_tabs", params)


def ui_settings_callback() -> None:
    _call_all("ui_settings")


def before_image_saved_callback(params: ImageSaveParams) -> None:
    _call_all("before_image_saved", params)


def image_saved_callback(params: ImageSaveParams) -> None:
    _call_all("image_saved", params)


def extra_noise_callback(params: ExtraNoiseParams) -> None:
    _call_all("extra_noise", params)


def cfg_denoiser_callback(params: CFGDenoiserParams) -> None:
    _call_all("cfg_denoiser", params)


def cfg_denoised_callback(params: CFGDenoisedParams) -> None:
    _call_all("cfg_denoised", params)


def cfg_after_cfg_callback(params: AfterCFGCallbackParams) -> None:
    _call_all("cfg_after_cfg", params)


def before_component_callback(component, **kwargs) -> None:
    _call_all("before_component", component, **kwargs)


def after_component_callback(component, **kwargs) -> None:
    _call_all("after_component", component, **kwargs)


def image_grid_callback(params: ImageGridLoopParams) -> None:
    _call_all("image_grid", params)


def infotext_pasted_callback(infotext: str, params: dict[str, Any]) -> None:
    _call_all("infotext_pasted", infotext, params)


def script_unloaded_callback() -> None:
    # What was put on last is taken off first, so that nested replacements of a function come undone.
    _call_all("script_unloaded", last_first=True)


def before_ui_callback() -> None:
    _call_all("before_ui", last_first=True)


def list_optimizers_callback() -> list:
    found: list = []
    _call_all("list_optimizers", found)
    return found


def list_unets_callback() -> list:
    found: list = []
    _call_all("list_unets", found)
    return found


def before_token_counter_callback(params: BeforeTokenCounterParams) -> None:
    _call_all("before_token_counter", params)


def _register(category: str, callback: Callback, name: str | None) -> None:
    add_callback(callback_map[f"callbacks_{category}"], callback, name=name, category=category)


def on_app_started(callback, *, name=None):
    """`callback(demo, app)` once the web server runs; `demo` is None where there is no page."""
    _register("app_started", callback, name)


def on_before_reload(callback, *, name=None):
    """`callback()` just before Reload UI."""
    _register("on_reload", callback, name)


def on_model_loaded(callback, *, name=None):
    """`callback(sd_model)` after a model became `shared.sd_model`."""
    _register("model_loaded", callback, name)


def on_ui_tabs(callback, *, name=None):
    """`callback()` returns a list of (gradio component, title, element id), one for each new tab."""
    _register("ui_tabs", callback, name)


def on_ui_train_tabs(callback, *, name=None):
    """`callback(params)` while a training tab is built; this host has none."""
    _register("ui_train_tabs", callback, name)


def on_ui_settings(callback, *, name=None):
    """`callback()` before the settings page is built: the place for `shared.opts.add_option`."""
    _register("ui_settings", callback, name)


def on_before_image_saved(callback, *, name=None):
    """`callback(ImageSaveParams)` before an image is written; its fields may be changed."""
    _register("before_image_saved", callback, name)


def on_image_saved(callback, *, name=None):
    """`callback(ImageSaveParams)` after an image was written."""
    _register("image_saved", callback, name)


def on_extra_noise(callback, *, name=None):
    """`callback(ExtraNoiseParams)` before extra noise is added in img2img or the hires pass."""
    _register("extra_noise", callback, name)


def on_cfg_denoiser(callback, *, name=None):
    """`callback(CFGDenoiserParams)` before each model evaluation."""
    _register("cfg_denoiser", callback, name)


def on_cfg_denoised(callback, *, name=None):
    """`callback(CFGDenoisedParams)` after each model evaluation, before guidance."""
    _register("cfg_denoised", callback, name)


def on_cfg_after_cfg(callback, *, name=None):
    """`callback(AfterCFGCallbackParams)` after guidance."""
    _register("cfg_after_cfg", callback, name)


def on_before_component(callback, *, name=None):
    """`callback(component, **kwargs)` before a gradio component is created."""
    _register("before_component", callback, name)


def on_after_component(callback, *, name=None):
    """`callback(component, **kwargs)` after a gradio component was created."""
    _register("after_component", callback, name)


def on_image_grid(callback, *, name=None):
    """`callback(ImageGridLoopParams)` before a grid is put together."""
    _register("image_grid", callback, name)


def on_infotext_pasted(callback, *, name=None):
    """`callback(infotext, params)` after an infotext was parsed; `params` may be changed."""
    _register("infotext_pasted", callback, name)


def on_script_unloaded(callback, *, name=None):
    """`callback()` before the script's file is executed anew: undo here whatever was replaced."""
    _register("script_unloaded", callback, name)


def on_before_ui(callback, *, name=None):
    """`callback()` before the page is built."""
    _register("before_ui", callback, name)


def on_list_optimizers(callback, *, name=None):
    """`callback(list)` may append cross attention optimizations."""
    _register("list_optimizers", callback, name)


def on_list_unets(callback, *, name=None):
    """`callback(list)` may append U-Net replacements."""
    _register("list_unets", callback, name)


def on_before_token_counter(callback, *, name=None):
    """`callback(BeforeTokenCounterParams)` before the tokens of a prompt are counted."""
    _register("before_token_counter", callback, name)
