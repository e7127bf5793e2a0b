"""What happens at each hook and callback of a host: the way of a generation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lbw.engine.base_weights import Policy
from lbw.engine.engine import LoraEngine
from lbw.engine.kernels import compiled
from lbw.generation.session import Session
from lbw.generation.summary import changes, summarise
from lbw.hosts import (
    comments,
    network_files,
    noise,
    notes,
    played_prompts,
    plots,
    prompt_editing,
    schedule_picture,
    under_way,
    xyz_axes,
)
from lbw.hosts.backend import Backend
from lbw.hosts.conditioning import ConditioningCaches, Encoder
from lbw.hosts.plots import leave_batch_out
from lbw.hosts.preset_files import PRESETS_FILE, RULE_SETS_FILE, library, recalled
from lbw.hosts.request import leave_to_files, note_defaults
from lbw.hosts.sampling import Sampling, tell_out_of_memory
from lbw.hosts.serving import adapter
from lbw.hosts.settings import (
    EDITED,
    NAME,
    PROMPT_EDITING,
    WARNINGS,
    add_settings,
    add_translations,
    memory_policy,
    setting,
)
from lbw.hosts.tags import TagReader, is_of_hires_pass, lora_tags, presences_of, request_of, written_tag
from lbw.hosts.xyz_axes import add as add_axes
from lbw.plan import windows
from lbw.plan.plan import Pass
from lbw.request import infotext, routes
from lbw.request.arguments import ArgumentError, Arguments
from lbw.request.arguments import parse as parse_arguments
from lbw.tags import prompt
from lbw.tags.limits import shortened
from modules import devices

__all__ = [
    "PRESETS_FILE",
    "RULE_SETS_FILE",
    "Backend",
    "add_axes",
    "add_settings",
    "add_translations",
    "app_started",
    "batch_made",
    "before_evaluation",
    "before_process",
    "before_sampling",
    "begin",
    "finish",
    "leave_batch_out",
    "model_loaded",
    "networks_activated",
    "note_defaults",
    "session_of",
    "setting",
    "unload",
]

logger = logging.getLogger("lbw")

_FUNCTIONAL = "lora_functional"

_SESSION = "lora_block_weight_session"
"""The attribute of the host's processing object that holds its session."""

_STAYS_FUNCTIONAL = "lora_block_weight_stays_functional"
"""That which says whether its request has ``lora_functional``; what other scripts do about it is not meant."""


class Closer:
    """Stands in for one processing object's ``close``, which the host calls even where the generation failed."""

    def __init__(self, p: Any) -> None:
        self._p = p
        self._close = p.close

    def __call__(self) -> None:
        session = session_of(self._p)
        try:
            if session is not None:
                tell_out_of_memory(session)
        finally:
            try:
                end(self._p)
            finally:
                self._close()


engine = LoraEngine(adapter.ledger, adapter.parts, device=devices.device)
caches = ConditioningCaches()


def session_of(p: Any) -> Session | None:
    """The session of a generation; None where the extension is not active in it."""
    return vars(p).get(_SESSION)


def _arguments(values: Sequence[Any], warn: prompt.Warn) -> Arguments:
    try:
        return parse_arguments(values, warn)
    except ArgumentError as error:
        warn(f"{error}; all arguments are left out")
        return Arguments()


def before_process(p: Any, place: slice) -> None:
    """A generation is about to begin, with the script's arguments at ``place`` among those of all scripts.

    What the axes of the host's own plot say is brought into its prompt. If it asks for a plot of ours, the cells are
    made now, each by a generation of its own.
    """
    comments.begin(p)
    leave_to_files(p, place)
    arguments = _arguments(p.script_args[place], lambda _message: None)
    if arguments.active:
        _switch_functional_off(p)
    xyz_axes.apply(p, arguments, place)
    plots.make(p, arguments, place)


def _switch_functional_off(p: Any) -> None:
    """A request's own settings are about to be put in force, by the host, which undoes that at its end.

    With ``lora_functional`` the host restores every layer at each forward and adds the networks to its output instead,
    with one multiplier for all blocks. The networks are put into the weights by us in any case, so the option is off
    for this request.
    """
    overrides = p.override_settings or {}
    wanted = overrides.get(_FUNCTIONAL, adapter.patches_in_forward())
    setattr(p, _STAYS_FUNCTIONAL, bool(wanted and not p.override_settings_restore_afterwards))
    if wanted and p.override_settings_restore_afterwards:
        p.override_settings = {**overrides, _FUNCTIONAL: False}


def begin(p: Any, values: Sequence[Any]) -> None:
    """A generation begins, with the script's arguments. It may do so inside another one, between two of its batches."""
    if under_way.is_told_by_copy(p, session_of(p)):
        return
    _remove_stand_ins(p)
    notes.begin(p)
    played_prompts.begin(p)
    if plots.is_made(p):
        return
    messages: list[str] = []
    arguments = _arguments(values, messages.append)
    if under_way.end_failed():
        _end_generations()
    for earlier in under_way.sessions():
        earlier.suspend()
    adapter.watch_forwards(None)
    if not arguments.active or (adapter.patches_in_forward() and vars(p).get(_STAYS_FUNCTIONAL, True)):
        try:
            engine.release()
        finally:
            adapter.end_generation()
        caches.drop_others(p, ())
        if arguments.active:
            message = "off, because the option lora_functional is on and this request does not restore its settings"
            logger.warning("LoRA Block Weight: %s", message)
            comments.tell(p, message)
        return
    plot = plots.plot_of(p)
    if plot is not None:
        messages += plot.messages
    session = Session(
        adapter,
        engine,
        recalled(library(arguments), arguments, messages.append),
        lambda message: comments.tell(p, message),
        comments.told_before(p),
    )
    for message in messages:
        session.warn(message)
    session.tells_more = arguments.debug
    session.draws_schedule = arguments.schedule_picture
    session.prints_changes = arguments.print_changes
    engine.policy = memory_policy()
    setattr(p, _SESSION, session)
    under_way.begin(p, session)
    p.parse_extra_network_prompts = TagReader(p, session)
    p.setup_conds = Encoder(p, session.before_encoding, lambda: conditioning_encoded(p))
    p.close = Closer(p)
    adapter.watch_sampling(p, sampled)
    adapter.begin_generation()


def networks_activated(p: Any, extra_network_data: Mapping[str, Sequence[Any]]) -> None:
    """The host has loaded the networks of a pass and has not yet encoded the prompt."""
    session = session_of(p)
    if session is None:
        return
    conditioning_encoded(p)  # under lowvram the host encodes for two passes in turn
    is_hires = is_of_hires_pass(p, extra_network_data)
    if not session.is_sampling:
        adapter.watch_forwards(None)
        if not is_hires:
            session.begin_batch()
    tags = lora_tags(extra_network_data)
    presences = presences_of(tags, lambda: prompt_editing.reckoning(p, is_hires), session.warn)
    if any(presences):
        session.follows_editing = bool(setting(PROMPT_EDITING))
    requests = [
        replace(
            request_of(params, is_hires, session.warn).present(presence if session.follows_editing else None),
            written=written_tag(params),
        )
        for params, presence in zip(tags, presences, strict=True)
    ]
    names = [request.name for request in requests]
    for name, reason in adapter.not_loaded(names).items():
        session.warn(f"<lora:{shortened(name)}>: {reason}")
        session.lost[name] = reason.rpartition("; ")[0]
    session.lost.update(dict.fromkeys(adapter.not_found(names), "not found"))
    is_plain = session.library.default_preset is None and all(request.is_plain for request in requests)
    is_plain = is_plain and not session.hand.strengths
    is_hosts = is_plain and adapter.ledger.is_shared and not setting("lbw_plain_loras")

    def begin_pass() -> Pass:
        steps = noise.expected_steps(p, is_hires)
        return session.begin_pass(
            requests, int(p.seeds[0]), steps.count, lambda: steps.levels, is_open=steps.are_open, is_hires=is_hires
        )

    try:
        if session.goes_on(requests):
            caches.drop_others(p, session.encoding)
            return
        if not is_hires:
            engine.headroom.begin(_work(p), engine.held)
        if is_hosts and not any(map(session.is_beyond_host, adapter.networks())):
            session.leave_to_host(requests, is_hires=is_hires, begin_later=begin_pass)
            caches.drop_others(p, ())
            return
        made = begin_pass()
        adapter.watch_forwards(lambda: _follow(session))
    except Exception as error:
        logger.exception("LoRA Block Weight: a pass could not be prepared")
        host_does = "the host applies the LoRAs itself, without block weights and steps"
        session.warn(
            f"{type(error).__name__}: {error}; {host_does if adapter.ledger.is_shared else 'it is without LoRAs'}"
        )
        session.leave_to_host(requests, is_hires=is_hires)
        caches.drop_others(p, ())
        return
    caches.drop_others(p, session.encoding)
    if session.prints_changes:
        print(*changes(made, adapter.layers()), sep="\n")
    take_notes(p)


def take_notes(p: Any) -> None:
    """Bring the infotext up to date with the passes of the batch that is being made."""
    session = session_of(p)
    if session is not None:
        edited = {} if session.follows_editing is None else {EDITED: str(session.follows_editing)}
        notes.take(p, infotext.describe(session.passes, session.library) | edited)


def _work(p: Any) -> Hashable:
    """What the need of memory depends on."""
    hires = (p.hr_upscale_to_x, p.hr_upscale_to_y) if getattr(p, "enable_hr", False) else None
    return p.width, p.height, p.batch_size, hires, adapter.is_sdxl(), adapter.moves_parts()


def conditioning_encoded(p: Any) -> None:
    """The prompt of a pass has been encoded."""
    session = session_of(p)
    if session is not None and session.plan is not None:
        caches.remember(p, session.encoding)
        session.has_encoded()


def before_sampling(p: Any) -> None:
    """The sampler is about to run all steps of a pass."""
    conditioning_encoded(p)
    session = session_of(p)
    if session is not None and not isinstance(vars(p.sampler).get("launch_sampling"), Sampling):
        p.sampler.launch_sampling = Sampling(p, session, p.sampler.launch_sampling)


def sampled(p: Any, launch: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`before_sampling`, where the host has no such hook: what is to run all steps instead of ``launch``."""
    try:
        conditioning_encoded(p)
    except Exception:  # as where the host calls the hook
        logger.exception("LoRA Block Weight: a pass could not be announced")
    session = session_of(p)
    return launch if session is None else Sampling(p, session, launch)


def batch_made(p: Any) -> None:
    """The images of a batch have been decoded."""
    session = session_of(p)
    if session is None:
        return
    for message in windows.told_of_absence(session.passes):
        session.warn(message)
    take_notes(p)
    engine.headroom.end(engine.held)
    played_prompts.write(p, session)
    played_prompts.note_last(p)


def before_evaluation(params: Any) -> None:
    """The sampler is about to evaluate the model."""
    denoiser = adapter.denoiser_of(params)
    session = None if denoiser is None else session_of(denoiser.p)
    if session is None:
        return
    try:
        session.step(
            adapter.solver_step(denoiser, params.sampling_step),
            noise.steps_now(params, denoiser),
            lambda: noise.level(denoiser, params.sigma),
            int(denoiser.step),
        )
    except Exception as error:  # which the host writes to its console, and goes on
        _tell_of_failed_switch(session, error)
        raise


def _tell_of_failed_switch(session: Session, error: Exception) -> None:
    session.warn(f"a switch failed, so that strengths are not those of the tags: {type(error).__name__}: {error}")


def _follow(session: Session) -> None:
    """Multipliers were written in the middle of an evaluation, which goes on whatever happens here."""
    try:
        session.catch_up()
    except Exception as error:
        logger.exception("LoRA Block Weight: strengths that another extension has set could not be followed")
        _tell_of_failed_switch(session, error)


def finish(p: Any, processed: Any) -> None:
    """A generation is over, and its result is complete: say in it what went wrong."""
    session = session_of(p)
    if session is not None and under_way.is_told_by_copy(p, session):
        session.suspend()
        return
    warnings: list[str] = []
    comments.finish(p, processed)
    notes.finish(p, processed)
    if session is not None:
        _tell_summary(session, processed)
        if session.draws_schedule:
            schedule_picture.append(p, processed, session.last_passes)
        warnings = list(session.warnings)
    elif plots.is_made(p):
        warnings = plots.hand_out(p, processed)
    if session is not None and session.tells_more:
        print(*session.details(), sep="\n")  # most hosts show no messages of the level that this would be
    if warnings:
        processed.extra_generation_params = {**processed.extra_generation_params, WARNINGS: warnings}
    plots.forget(p)
    end(p)


def _tell_summary(session: Session, processed: Any) -> None:
    """Add the status line to what the host shows below the images of whoever asked for them, and of nobody else."""
    line = summarise(session.last_passes, session.updates, _memory_mode(session), session.fits, session.lost)
    if line:
        processed.comments += f"{NAME}: {line}\n"


def _memory_mode(session: Session) -> str:
    """Where the pristine weights were of the layers that LoRAs changed, and what that took of the GPU's memory."""
    places = {None: "as they are", Policy.GPU: "beside the layers (gpu)", Policy.LEAN: "lean", Policy.RAM: "in RAM"}
    found = [places[session.placement]]
    if session.most_in_forward:
        found.append(f"{session.most_in_forward} layers patched in each of their forwards")
    if session.most_held:
        found += [f"up to {session.most_held / 1e6:.0f} MB of GPU memory for switches"]
        found += [f"{engine.held / 1e6:.0f} MB now" if engine.held else "none now"]
    return ", ".join(found)


def batch_sampled(p: Any) -> None:
    """All passes of a batch have been sampled. What others generate from its images loads networks of its own."""
    session = session_of(p)
    if session is not None:
        other = adapter.left_out_by()
        if other is not None:
            session.warn(
                f"another extension ({shortened(other)}) adds the LoRAs to the output of layers by itself; block "
                "weights and steps did not count"
            )
        adapter.watch_forwards(None)
        session.is_between_batches = True
        if all(each.is_between_batches for each in under_way.sessions()):
            adapter.end_batch()


def end(p: Any) -> None:
    """A generation is over, or has failed."""
    session = session_of(p)
    _remove_stand_ins(p)
    if session is not None:
        adapter.watch_forwards(None)
        under_way.end(session)
        try:
            session.end()
        finally:
            _end_generations()
            for other in under_way.requests():
                if other.extra_generation_params is p.extra_generation_params:
                    notes.write(other)
        if (p.override_settings or {}).get(_FUNCTIONAL) is False:  # the host does not restore weights in that mode
            engine.release()


def _end_generations() -> None:
    """Nothing of ours may be under way any more. Where networks go with a generation, what was made of them cannot be
    used again, and would keep a model in memory that the host is about to replace."""
    if under_way.sessions():
        return
    adapter.end_generation()
    if not adapter.ledger.is_shared:
        engine.unbind()


def app_started(_demo: Any, app: Any) -> None:
    """The host's server has its routes."""
    routes.add(app, Backend())


def model_loaded(_model: Any) -> None:
    """The host has put another model into use."""
    engine.park(adapter.model(), adapter.layers().values())
    compiled.prepare(devices.device, devices.dtype_unet)
    network_files.meter.forget()


def unload() -> None:
    """The extension is being unloaded, or the UI reloaded: off is off."""
    try:
        adapter.watch_forwards(None)
        engine.release()
    finally:
        adapter.end_generation()


def _remove_stand_ins(p: Any) -> None:
    """A copy of a processing object carries what was hung on the original, and that is bound to the original."""
    for name, kind in (
        ("parse_extra_network_prompts", TagReader), ("setup_conds", Encoder), ("close", Closer), (_SESSION, Session),
    ):
        if isinstance(vars(p).get(name), kind):
            delattr(p, name)
    adapter.unwatch_sampling(p)
