"""The adapter for AUTOMATIC1111's WebUI: its networks, its layers, and the moments of a generation.

Everything of the host that the program touches is in this file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from torch import nn

import networks as host_networks
from lbw import api, infotext, prompt, routes
from lbw.base_weights import Policy
from lbw.engine import LoraEngine
from lbw.limits import MOST_TAGS, shortened
from lbw.plan import Library
from lbw.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS, parse_presets, parse_rule_sets, read
from lbw.session import Session
from lbw.summary import changes, summarise
from modules import extra_networks, localization, sd_models, shared

logger = logging.getLogger("lbw")

SCRIPTS_FOLDER = Path(__file__).resolve().parents[2]
PRESETS_FILE = SCRIPTS_FOLDER / "lbwpresets.txt"
RULE_SETS_FILE = SCRIPTS_FOLDER / "elempresets.txt"
TRANSLATIONS = SCRIPTS_FOLDER / "lbw" / "ui"

_PATCHED_CLASSES = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)

_FIRST_STEP_EVALUATES_TWICE = {"UniPC", "PLMS"}
_EVALUATIONS_ARE_NO_STEPS = {"DPM fast", "DPM adaptive"}

_FUNCTIONAL = "lora_functional"

NAME = "LoRA Block Weight"
"""What begins each line that is shown with a result: the panel finds its own by it."""

WARNINGS = "LBW warnings"
"""The key of a generation's warnings in ``info["extra_generation_params"]``; images do not carry them."""

_SESSION = "lora_block_weight_session"
"""The attribute of the host's processing object that holds its session."""


class A1111:
    """The :class:`lbw.hosts.Host` protocol on AUTOMATIC1111's WebUI 1.10."""

    def model(self) -> Any:
        return shared.sd_model

    def is_sdxl(self) -> bool:
        return bool(getattr(shared.sd_model, "is_sdxl", False))

    def layers(self) -> Mapping[str, nn.Module]:
        mapping: Mapping[str, nn.Module] = getattr(shared.sd_model, "network_layer_mapping", {})
        inside_attention = {
            id(layer.out_proj) for layer in mapping.values() if isinstance(layer, nn.MultiheadAttention)
        }
        return {
            name: layer
            for name, layer in mapping.items()
            if isinstance(layer, _PATCHED_CLASSES) and id(layer) not in inside_attention and _has_weight(layer)
        }

    def networks(self) -> Sequence[Any]:
        networks: Sequence[Any] = host_networks.loaded_networks
        return networks

    def wanted_names(self) -> tuple[Any, ...]:
        return tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in self.networks())


def _has_weight(layer: nn.Module) -> bool:
    return getattr(layer, "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight", None) is not None


def solver_step(denoiser: Any, sampling_step: int) -> int:
    """The solver's step, 0-based, that a model evaluation belongs to.

    The host's own counter lags: a sampler sets it after its first evaluation of a step, so that the last evaluation of
    step i and the first of step i+1 see the same number. ``denoiser.step`` counts evaluations; how many of them make a
    step depends on the sampler.
    """
    evaluation: int = denoiser.step
    config = denoiser.sampler.config
    if config.name in _EVALUATIONS_ARE_NO_STEPS:
        return sampling_step
    if config.options.get("second_order", False):
        return evaluation // 2
    if config.name in _FIRST_STEP_EVALUATES_TWICE:
        return max(evaluation - 1, 0)
    return min(evaluation, sampling_step + 1)


class Backend:
    """The :class:`lbw.routes.Backend` protocol: what the API asks of the host. Nothing here loads a model."""

    def preset_text(self) -> str:
        return read(PRESETS_FILE, DEFAULT_PRESETS)

    def rule_set_text(self) -> str:
        return read(RULE_SETS_FILE, DEFAULT_RULE_SETS)

    def layer_names(self) -> tuple[str, ...]:
        return tuple(host.layers()) if self._is_loaded() else ()

    def is_sdxl(self) -> bool:
        return self._is_loaded() and host.is_sdxl()

    def tags(self, text: str) -> list[list[str]]:
        # Without a closing bracket behind it, each opening one would be searched to the end of the text.
        _, found = extra_networks.parse_prompt(text[: text.rfind(">") + 1])
        return [params.items for params in lora_tags(found)]

    @staticmethod
    def _is_loaded() -> bool:
        return sd_models.model_data.sd_model is not None


class ConditioningCaches:
    """The host's caches of encoded prompts, which are keyed on the tags' text and know nothing of presets."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}

    @staticmethod
    def _of(p: Any) -> list[list[Any]]:
        names = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")
        return [cache for name in names if (cache := getattr(p, name, None)) is not None]

    def _made_with(self, cache: list[Any]) -> Any:
        """The text encoder ratios of what is cached; what is not known was made by the host, with none."""
        content, ratios = self._known.get(id(cache), (None, ()))
        return ratios if content is cache[1] else ()

    def drop_others(self, p: Any, ratios: Any) -> None:
        """Drop what was encoded with other text encoder ratios than ``ratios``."""
        for cache in self._of(p):
            if cache[0] is not None and self._made_with(cache) != ratios:
                cache[:] = [None, None]

    def remember(self, p: Any, ratios: Any) -> None:
        """What has been encoded just now was encoded with ``ratios``."""
        caches = self._of(p)
        self._known = {
            id(cache): old if (old := self._known.get(id(cache))) and old[0] is cache[1] else (cache[1], ratios)
            for cache in caches
        }


def _is_lora_tag(kind: str) -> bool:
    """Whether ``<kind:...>`` is handled by the host's Lora network, or by one that took its place."""
    network = extra_networks.extra_network_registry.get(kind) or extra_networks.extra_network_aliases.get(kind)
    return network is not None and network.name == "lora"


def _host_parses_tags() -> bool:
    """Whether the built-in Lora network reads the tags; one that took its place, derived from it or not, may have a
    syntax of its own."""
    return type(extra_networks.extra_network_registry.get("lora")) is type(host_networks.extra_network_lora)


def lora_tags(extra_network_data: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The parameters of all Lora tags of a prompt, in the order in which the host activates them."""
    return [params for kind, tags in extra_network_data.items() if _is_lora_tag(kind) for params in tags]


def drop_tags_beyond_limit(extra_network_data: Mapping[str, list[Any]], warn: prompt.Warn) -> None:
    """Leave so many Lora tags of a prompt as can be served in bounded time and memory."""
    tags = lora_tags(extra_network_data)
    if len(tags) <= MOST_TAGS:
        return
    warn(f"{len(tags)} LoRA tags; expected at most {MOST_TAGS}, the others are left out")
    dropped = set(map(id, tags[MOST_TAGS:]))
    for params in extra_network_data.values():
        params[:] = [tag for tag in params if id(tag) not in dropped]


def make_readable_for_host(params: Any, request: prompt.LoraRequest) -> None:
    """Leave in a tag's parsed parameters only numbers that the host can read: one that it cannot would drop every LoRA.

    The text of the tag, which the host's cache is keyed on, stays.
    """
    dyn_dim = [] if request.dyn_dim is None else [str(request.dyn_dim)]
    params.positional = [request.name, repr(request.te_multiplier), repr(request.unet_multiplier), *dyn_dim]
    params.named = {key: value for key, value in params.named.items() if key not in ("te", "unet", "dyn")}


def request_of(params: Any, warn: prompt.Warn) -> prompt.LoraRequest:
    """The request of a tag whose network is loaded. A strength that another extension reads is in the network.

    Such extensions have keyframes, ``strength@position``, where the host has a number.
    """
    if _host_parses_tags():
        return prompt.parse(params.items, warn)
    request = prompt.parse([item for item in params.items if "@" not in item], warn)
    net = next((net for net in host.networks() if net.name == request.name), None)
    if net is None:
        return request
    return replace(request, te_multiplier=net.te_multiplier, unet_multiplier=net.unet_multiplier)


class TagReader:
    """Stands in for one processing object's ``parse_extra_network_prompts``: sees the tags before the host."""

    def __init__(self, p: Any, session: Session) -> None:
        self._p = p
        self._parse = p.parse_extra_network_prompts
        self._session = session

    def __call__(self) -> Any:
        result = self._parse()
        for data in (self._p.extra_network_data, getattr(self._p, "hr_extra_network_data", None)):
            drop_tags_beyond_limit(data or {}, self._session.warn)
            for params in lora_tags(data or {}) if _host_parses_tags() else ():
                make_readable_for_host(params, prompt.parse(params.items, self._session.warn))
        return result


class Closer:
    """Stands in for one processing object's ``close``, which the host calls even where the generation failed."""

    def __init__(self, p: Any) -> None:
        self._p = p
        self._close = p.close

    def __call__(self) -> None:
        end(self._p)
        self._close()


_SECTION = ("lbw", NAME)

SETTINGS: dict[str, shared.OptionInfo] = {
    "lbw_plain_loras": shared.OptionInfo(
        True, "Also switch LoRAs without block weights and steps the fast way", section=_SECTION
    ),
    "lbw_base_weights": shared.OptionInfo(
        Policy.AUTO.value,
        "Where to keep the unchanged weights of layers that a LoRA changes",
        gr.Radio,
        {"choices": [policy.value for policy in Policy]},
        section=_SECTION,
    ).info("auto: what fits; gpu: fastest; lean: an eighth to a quarter of that memory; ram: no GPU memory, slower"),
    "old_active_check_lbw": shared.OptionInfo(
        False, 'Show "Active" as a checkbox inside the panel, not in its title', section=_SECTION
    ).needs_reload_ui(),
}
"""The extension's section on the host's settings page."""


def add_settings() -> None:
    """The host builds its settings page, which it does not do where it serves the API alone."""
    for key, option in SETTINGS.items():
        shared.opts.add_option(key, option)


def add_translations() -> None:
    """Tell the host of the panel's labels in other languages: it looks for such files in a folder of their own only."""
    for path in TRANSLATIONS.glob("*.json"):
        known = localization.localizations.setdefault(path.stem, [])
        if str(path) not in known:
            known.append(str(path))


def setting(key: str) -> Any:
    """The value of one of ``SETTINGS``."""
    return getattr(shared.opts, key, SETTINGS[key].default)


def _memory_policy() -> Policy:
    value = setting("lbw_base_weights")
    try:
        return Policy(value)
    except ValueError:
        choices = ", ".join(policy.value for policy in Policy)
        logger.warning("LoRA Block Weight: setting lbw_base_weights is %r, expected %s; auto is used", value, choices)
        return Policy.AUTO


engine = LoraEngine()
host = A1111()
caches = ConditioningCaches()


def library(arguments: api.Arguments) -> Library:
    """Presets and rule sets from the request, or from their files where it has none."""
    presets, _ = parse_presets(arguments.presets or read(PRESETS_FILE, DEFAULT_PRESETS))
    rule_sets, _ = parse_rule_sets(arguments.elements or read(RULE_SETS_FILE, DEFAULT_RULE_SETS))
    return Library(presets, rule_sets, arguments.default_preset.strip() or None)


def _recalled(library: Library, arguments: api.Arguments, warn: prompt.Warn) -> Library:
    """The library with what a pasted infotext brought, and without a default preset that cannot be used."""
    try:
        library = infotext.recall(arguments.pasted, library)
    except ValueError as error:
        warn(f"argument pasted: {error}")
    default = library.default_preset
    if default is not None and "," not in library.vector(default):
        warn(f"default preset {shortened(default)}: no preset of this name; expected one of "
             f"{shortened(', '.join(library.presets), 400)}; tags without lbw= keep all blocks at 1")
        library = replace(library, default_preset=None)
    return library


def session_of(p: Any) -> Session | None:
    """The session of a generation; None where the extension is not active in it."""
    return vars(p).get(_SESSION)


def _arguments(values: Sequence[Any], warn: prompt.Warn) -> api.Arguments:
    try:
        return api.parse(values, warn)
    except api.ArgumentError as error:
        warn(f"{error}; all arguments are left out")
        return api.Arguments()


def before_settings(p: Any, values: Sequence[Any]) -> None:
    """A request's own settings are about to be put in force, by the host, which undoes that at its end.

    With ``lora_functional`` the host restores every layer at each forward and adds the networks to its output instead,
    with one multiplier for all blocks. The networks are put into the weights by us in any case, so the option is off
    for this request.
    """
    overrides = p.override_settings or {}
    wanted = overrides.get(_FUNCTIONAL, getattr(shared.opts, _FUNCTIONAL))
    active = _arguments(values, lambda _message: None).active
    if active and wanted and p.override_settings_restore_afterwards:
        p.override_settings = {**overrides, _FUNCTIONAL: False}


def begin(p: Any, values: Sequence[Any]) -> None:
    """A generation begins, with the script's arguments. It may do so inside another one, between two of its batches."""
    _remove_stand_ins(p)
    messages: list[str] = []
    arguments = _arguments(values, messages.append)
    if not arguments.active or shared.opts.lora_functional:
        engine.release()
        caches.drop_others(p, ())
        if arguments.active:
            message = "off, because the option lora_functional is on and this request does not restore its settings"
            logger.warning("LoRA Block Weight: %s", message)
            p.comment(f"LoRA Block Weight: {message}")
        return
    if arguments.mode != 0:
        messages.append(f"mode {api.MODES[arguments.mode]} is not available yet; one image is made")
    session = Session(
        host,
        engine,
        _recalled(library(arguments), arguments, messages.append),
        lambda message: p.comment(f"{NAME}: {message}"),
    )
    for message in messages:
        session.warn(message)
    session.tells_more = arguments.debug
    session.prints_changes = arguments.print_changes
    engine.policy = _memory_policy()
    setattr(p, _SESSION, session)
    p.parse_extra_network_prompts = TagReader(p, session)
    p.close = Closer(p)


def networks_activated(p: Any, extra_network_data: Mapping[str, Sequence[Any]]) -> None:
    """The host has loaded the networks of a pass and has not yet encoded the prompt."""
    session = session_of(p)
    if session is None:
        return
    requests = [request_of(params, session.warn) for params in lora_tags(extra_network_data)]
    is_plain = session.library.default_preset is None and all(request.is_plain for request in requests)
    if is_plain and not setting("lbw_plain_loras"):
        session.leave_to_host()
        caches.drop_others(p, ())
        return
    is_hires_pass = getattr(p, "is_hr_pass", False)
    steps = (getattr(p, "hr_second_pass_steps", 0) or p.steps) if is_hires_pass else p.steps
    if not is_hires_pass:
        session.passes.clear()
    plan = session.begin_pass(requests, int(p.seeds[0]), steps)
    caches.drop_others(p, plan.text_encoder_ratios())
    if session.prints_changes:
        print(*changes(plan, session.library, host.layers()), sep="\n")
    take_notes(p)


class Note(str):
    """A text in the infotext that differs from batch to batch: the host calls it with the image that it writes."""

    batches: dict[int, str]

    def __new__(cls, batches: dict[int, str], batch: int) -> Note:
        note = super().__new__(cls, batches.get(batch, ""))
        note.batches = batches
        return note

    def __call__(self, p: Any, index: int, all_seeds: Any, use_main_prompt: bool, **_: Any) -> str | None:
        """The text of the batch that the image is from; while a batch is made, the host counts inside it."""
        batch = p.iteration if all_seeds is p.seeds else index // p.batch_size
        return self.batches.get(0 if use_main_prompt else batch)


def take_notes(p: Any) -> None:
    """Bring the infotext up to date with the passes of the batch that is being made."""
    session = session_of(p)
    if session is None:
        return
    for key, text in infotext.describe(session.passes, session.library).items():
        session.notes.setdefault(key, {})[p.iteration] = text
    for key, batches in session.notes.items():
        p.extra_generation_params[key] = Note(batches, p.iteration)


def before_sampling(p: Any) -> None:
    """The prompt has been encoded, and sampling is about to begin."""
    session = session_of(p)
    if session is not None and session.plan is not None:
        caches.remember(p, session.plan.text_encoder_ratios())


def before_evaluation(params: Any) -> None:
    """The sampler is about to evaluate the model."""
    denoiser = params.denoiser
    session = session_of(denoiser.p)
    if session is not None:
        session.step(solver_step(denoiser, params.sampling_step), params.total_sampling_steps)


def finish(p: Any, processed: Any) -> None:
    """A generation is over, and its result is complete: say in it what went wrong."""
    session = session_of(p)
    if session is not None:
        _tell_summary(session, processed)
    if session is not None and session.tells_more:
        session.log_details()
    if session is not None and session.warnings:
        told = {WARNINGS: list(session.warnings)}
        processed.extra_generation_params = {**processed.extra_generation_params, **told}
    end(p)


def _tell_summary(session: Session, processed: Any) -> None:
    """Add the status line to what the host shows below the images of whoever asked for them, and of nobody else."""
    line = summarise(session.passes, session.updates, _memory_mode())
    if line:
        processed.comments += f"{NAME}: {line}\n"


def _memory_mode() -> str:
    """Where the pristine weights are of the layers that LoRAs change."""
    places = {None: "not kept", Policy.GPU: "beside the layers", Policy.LEAN: "lean", Policy.RAM: "in RAM"}
    return places[engine.placement]


def end(p: Any) -> None:
    """A generation is over, or has failed."""
    session = session_of(p)
    _remove_stand_ins(p)
    if session is not None:
        session.end()
        if (p.override_settings or {}).get(_FUNCTIONAL) is False:  # the host does not restore weights in that mode
            engine.release()


def app_started(_demo: Any, app: Any) -> None:
    """The host's server has its routes."""
    routes.add(app, Backend())


def model_loaded(_model: Any) -> None:
    """The host has put another model into use."""
    engine.park(host.model(), host.layers().values())


def unload() -> None:
    """The extension is being unloaded, or the UI reloaded: off is off."""
    engine.release()


def _remove_stand_ins(p: Any) -> None:
    """A copy of a processing object carries what was hung on the original, and that is bound to the original."""
    for name, kind in (("parse_extra_network_prompts", TagReader), ("close", Closer), (_SESSION, Session)):
        if isinstance(vars(p).get(name), kind):
            delattr(p, name)
