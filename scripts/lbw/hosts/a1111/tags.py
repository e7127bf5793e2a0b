"""The Lora tags of a prompt, as the host parses them and as it can read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import networks as host_networks
from lbw import prompt
from lbw.hosts.a1111.model import host
from lbw.limits import MOST_TAGS
from lbw.session import Session
from modules import extra_networks


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
