"""The Lora tags of a prompt, as the host parses them and as it can read them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import networks as host_networks
from lbw.generation.session import Session
from lbw.hosts import prompt_editing
from lbw.hosts.serving import adapter
from lbw.tags import prompt
from lbw.tags.limits import MOST_TAGS, shortened
from lbw.tags.presence import Presence, Reckoning
from modules import extra_networks

logger = logging.getLogger("lbw")


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


_ALIASES = ("loractl", "lyco")
"""Kinds of tags that some hosts have: the extension whose curves these are adds the first to its host, and the Forge
family has lost the second."""


def adopt_alias(extra_network_data: dict[str, list[Any]]) -> None:
    """Make Lora tags of those that the host does not know, in whatever case they are written."""
    known = {*extra_networks.extra_network_registry, *extra_networks.extra_network_aliases}
    for kind in list(extra_network_data):
        if kind.lower() in ("lora", *_ALIASES) and kind not in known:
            extra_network_data.setdefault("lora", []).extend(extra_network_data.pop(kind))


_NO_TAG = re.compile(
    "[<\uff1c\u2039\u3008\u300a] ?(?:lora|lyco|loractl) ?[:\uff1a][^>\uff1e\u203a\u3009\u300b]{0,60}", re.IGNORECASE
)
"""What looks like a tag in a prompt whose tags have been taken out: of other signs, or without an end."""


def tell_of_what_is_no_tag(prompts: Iterable[str], warn: prompt.Warn) -> None:
    """Say which tags the host has left in the prompts as words."""
    for text in dict.fromkeys(prompts):
        for found in islice(_NO_TAG.finditer(text), MOST_TAGS):
            warn(f"{shortened(found[0])}: expected <lora:NAME:...>, with < and > and ordinary colons around the name; "
                 "it is no tag, and stays in the prompt")


def drop_tags_beyond_limit(extra_network_data: Mapping[str, list[Any]], warn: prompt.Warn) -> None:
    """Leave so many Lora tags of a prompt as can be served in bounded time and memory."""
    tags = lora_tags(extra_network_data)
    if len(tags) <= MOST_TAGS:
        return
    warn(f"{len(tags)} LoRA tags; expected at most {MOST_TAGS}, the others are left out")
    dropped = set(map(id, tags[MOST_TAGS:]))
    for params in extra_network_data.values():
        params[:] = [tag for tag in params if id(tag) not in dropped]


class TagItems(list[str]):
    """The arguments of a tag, equal to those of a tag from which the text encoder gets the same.

    The host's cache of encoded prompts is keyed on them. What else the text encoder gets, by block weights and element
    rules, :class:`lbw.hosts.conditioning.ConditioningCaches` keeps apart.
    """

    def __init__(self, items: Sequence[str], request: prompt.LoraRequest) -> None:
        super().__init__(items)
        self._share = (request.name, request.te_multiplier, request.te_schedule, request.dyn_dim)

    def __eq__(self, other: object) -> bool:
        return self._share == other._share if isinstance(other, TagItems) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def make_readable_for_host(params: Any, request: prompt.LoraRequest) -> None:
    """Leave in a tag's parsed parameters only numbers that the host can read: one that it cannot would drop every LoRA.

    The text of the tag stays.
    """
    params.items = TagItems(params.items, request)
    dyn_dim = [] if request.dyn_dim is None else [str(request.dyn_dim)]
    params.positional = [request.name, repr(request.te_multiplier), repr(request.unet_multiplier), *dyn_dim]
    params.named = {key: value for key, value in params.named.items() if key not in ("te", "unet", "dyn")}


def make_readable_for_others(params: Any) -> None:
    """Leave in a tag's parsed parameters only strengths, for whoever reads them: a preset's name would drop every LoRA.
    """
    params.positional = [*params.positional[:1], *filter(prompt.is_strength, params.positional[1:])]


_PLACE = "lora_block_weight_place"
_WRITTEN = "lora_block_weight_tag"
"""The attributes of a tag's parsed parameters that hold its place in the brackets of its prompt, and its text."""


def presences_of(
    tags: Sequence[Any], reckoning: Callable[[], Reckoning], warn: prompt.Warn
) -> list[Presence | None]:
    """In which evaluations of a pass its prompt has each of its tags, from their parsed parameters; None for one that
    it has at all times.

    Args:
        reckoning: tells what the host reckons with; asked only where a tag stands in brackets.
    """
    places = [vars(params).get(_PLACE) for params in tags]
    if not any(places):
        return [None] * len(tags)
    try:
        return prompt_editing.presences(places, reckoning())
    except Exception as error:  # of ours, of the host's parser, or of one that took its place
        reason = shortened(str(error)) if isinstance(error, ValueError) else f"the host fails: {type(error).__name__}"
        warn(f"the brackets around LoRA tags cannot be read ({reason}); these LoRAs are on at all times")
        logger.debug("LoRA Block Weight: a prompt's brackets could not be read", exc_info=True)
        return [None] * len(tags)


def written_tag(params: Any) -> str:
    """The whole tag as its prompt has it; empty if that is not known."""
    return str(vars(params).get(_WRITTEN, ""))


def note_places(text: str, extra_network_data: Mapping[str, Sequence[Any]]) -> None:
    """Note in the parameters of a prompt's tags where in it they stand, and how they are written."""
    counts: dict[str, int] = {}
    for kind, tag, place in prompt_editing.places(text):
        number = counts[kind] = counts.get(kind, -1) + 1
        if number < len(tags := extra_network_data.get(kind, ())):
            setattr(tags[number], _PLACE, place)
            setattr(tags[number], _WRITTEN, tag)


def request_of(params: Any, is_hires: bool, warn: prompt.Warn) -> prompt.LoraRequest:
    """The request of a tag whose network is loaded. A strength that another extension reads is in the network."""
    if _host_parses_tags():
        return prompt.parse(params.items, warn).in_pass(is_hires)
    request = prompt.parse(prompt.without_strengths(params.items), warn).in_pass(is_hires)
    net = next((net for net in adapter.networks() if net.name == request.name), None)
    if net is None:
        return request
    return replace(request, te_multiplier=net.te_multiplier, unet_multiplier=net.unet_multiplier)


def is_of_hires_pass(p: Any, extra_network_data: Mapping[str, Sequence[Any]]) -> bool:
    """Whether tags are those of the hires pass: with too little GPU memory, the host encodes its prompt beforehand."""
    hires_data = getattr(p, "hr_extra_network_data", None)
    return getattr(p, "is_hr_pass", False) or (hires_data is not None and extra_network_data is hires_data)


def _texts(p: Any, *names: str) -> list[str]:
    """The prompts of a batch, of all the named attributes of a processing object that it has."""
    lists = (getattr(p, name, None) for name in names)
    return [text for texts in lists if isinstance(texts, list) for text in texts]


_NO_POSITION = re.compile(r":\s*([0-9.]+\s*(?:%|sigma)|[0-9]+,[0-9]+)\s*\]")
"""What a tag's own keys would take for a position, at the end of a bracket."""


def _tell_of_no_positions(text: str, warn: prompt.Warn) -> None:
    """Say which brackets around tags are no prompt editing, because of what stands at their end."""
    place = next((place for kind, _tag, place in prompt_editing.places(text) if place and _is_lora_tag(kind)), None)
    for found in islice(_NO_POSITION.finditer(place.text if place else ""), MOST_TAGS):
        warn(f"[...:{found[1]}]: {found[1]!r} is no position in a prompt's brackets; expected a share (0.5) or a step "
             "(10); LoRAs in the brackets are on at all times")


def _tell_of_negative_tags(prompts: Iterable[str], warn: prompt.Warn) -> None:
    """Say which tags stand where the host reads none."""
    for text in dict.fromkeys(prompts):
        for kind, tag, _place in islice(prompt_editing.places(text), MOST_TAGS):
            if _is_lora_tag(kind) or kind.lower() in ("lora", *_ALIASES):
                name = tag.split(":")[1].rstrip(">")
                warn(f"{shortened(tag)} in the negative prompt: it has no effect there, and stays as words; expected "
                     f"in the prompt, with a negative strength to keep away from it: <lora:{shortened(name, 40)}:-1>")


class TagReader:
    """Stands in for one processing object's ``parse_extra_network_prompts``: sees the tags before the host."""

    def __init__(self, p: Any, session: Session) -> None:
        self._p = p
        self._parse = p.parse_extra_network_prompts
        self._session = session

    def _written(self) -> tuple[str, str]:
        """The prompts of both passes whose tags count, those of a batch's first image, as they were written."""
        p = self._p
        texts = p.prompts[:1], (getattr(p, "all_hr_prompts", None) or [])[p.iteration * p.batch_size :][:1]
        return "".join(texts[0]), "".join(texts[1])

    def __call__(self) -> Any:
        adapter.begin_generation()  # another generation may have come in between, and ended its own
        self._session.is_between_batches = False
        written = self._written()
        result = self._parse()
        tell_of_what_is_no_tag(_texts(self._p, "prompts", "hr_prompts"), self._session.warn)
        _tell_of_negative_tags(_texts(self._p, "negative_prompts", "hr_negative_prompts"), self._session.warn)
        for text in dict.fromkeys(written):
            _tell_of_no_positions(text, self._session.warn)
        for is_hires, name in ((False, "extra_network_data"), (True, "hr_extra_network_data")):
            data = getattr(self._p, name, None) or {}
            note_places(written[is_hires], data)
            adopt_alias(data)
            drop_tags_beyond_limit(data, self._session.warn)
            for params in lora_tags(data):
                if not _host_parses_tags():
                    make_readable_for_others(params)
                    continue
                request = prompt.parse(params.items, self._session.warn)
                make_readable_for_host(params, request.in_pass(is_hires))
        return result
