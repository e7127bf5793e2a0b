"""Tags of the form `<name:argument:argument>` in prompts, and the registry of those who answer to them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict

from modules import errors

extra_network_registry: dict[str, ExtraNetwork] = {}
extra_network_aliases: dict[str, ExtraNetwork] = {}

re_extra_net = re.compile(r"<(\w+):([^>]+)>")


class ExtraNetworkParams:
    """The arguments of one tag. An item with exactly one "=" is named, every other one is positional."""

    def __init__(self, items: list | None = None):
        self.items = items or []
        self.positional: list = []
        self.named: dict[str, str] = {}
        for item in self.items:
            key, equals, value = item.partition("=") if isinstance(item, str) else (item, "", "")
            if equals and "=" not in value:
                self.named[key] = value
            else:
                self.positional.append(item)

    def __eq__(self, other):
        # The cond cache compares these: two tags are equal if their text is.
        return self.items == other.items


class ExtraNetwork:
    """Answers to the tags of one name."""

    def __init__(self, name: str):
        self.name = name

    def activate(self, p, params_list: list[ExtraNetworkParams]) -> None:
        """Make exactly these tags effective. Called for each batch and pass, with an empty list if there are none."""
        raise NotImplementedError

    def deactivate(self, p) -> None:
        """The generation is over."""
        raise NotImplementedError


def initialize() -> None:
    extra_network_registry.clear()
    extra_network_aliases.clear()


def register_extra_network(extra_network: ExtraNetwork) -> None:
    extra_network_registry[extra_network.name] = extra_network


def register_extra_network_alias(extra_network: ExtraNetwork, alias: str) -> None:
    extra_network_aliases[alias] = extra_network


def register_default_extra_networks() -> None:
    """This host has none of its own: LoRA is the business of the built-in extension."""


def lookup_extra_networks(extra_network_data: dict) -> dict[ExtraNetwork, list[ExtraNetworkParams]]:
    """The registered networks that the tags name, each with its tags; those of an alias come after, in prompt order."""
    found: dict[ExtraNetwork, list] = {}
    for name, params_list in extra_network_data.items():
        network = extra_network_registry.get(name) or extra_network_aliases.get(name)
        if network is None:
            logging.info("nobody answers to <%s:...>", name)
            continue
        found.setdefault(network, []).extend(params_list)
    return found


def activate(p, extra_network_data: dict) -> None:
    """Activate every network, those without tags with an empty list, and let the scripts know."""
    activated = []
    for network, params_list in lookup_extra_networks(extra_network_data).items():
        try:
            network.activate(p, params_list)
            activated.append(network)
        except Exception as error:
            errors.display(error, f"activating {network.name} with {[params.items for params in params_list]}")
    for network in extra_network_registry.values():
        # One that just failed is tried again with nothing, so that it does not keep what it had before.
        if network not in activated:
            try:
                network.activate(p, [])
            except Exception as error:
                errors.display(error, f"activating {network.name} without tags")
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p, batch_number=p.iteration, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds,
            extra_network_data=extra_network_data)


def deactivate(p, extra_network_data: dict) -> None:
    """Tell every network that the generation is over, those that were named first."""
    mentioned = list(lookup_extra_networks(extra_network_data))
    others = [network for network in extra_network_registry.values() if network not in mentioned]
    for network in mentioned + others:
        try:
            network.deactivate(p)
        except Exception as error:
            errors.display(error, f"deactivating {network.name}")


def parse_prompt(prompt: str) -> tuple[str, dict[str, list[ExtraNetworkParams]]]:
    """Take the tags out of a prompt: ("a <lora:x:1> cat") -> ("a  cat", {"lora": [x, 1]})."""
    data: dict[str, list[ExtraNetworkParams]] = defaultdict(list)

    def take(match: re.Match) -> str:
        data[match.group(1)].append(ExtraNetworkParams(items=match.group(2).split(":")))
        return ""

    return re_extra_net.sub(take, prompt), data


def parse_prompts(prompts: list[str]) -> tuple[list[str], dict | None]:
    """Take the tags out of all prompts of a batch. Those of the first prompt work, for the whole batch."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1] if parsed else None


def get_user_metadata(filename: str | None, lister=None) -> dict:
    """What the user noted about a network file, from the .json beside it."""
    if filename is None:
        return {}
    path = os.path.splitext(filename)[0] + ".json"
    try:
        if not (lister.exists(path) if lister else os.path.exists(path)):
            return {}
        with open(path, encoding="utf8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        errors.display(error, f"reading {path}")
        return {}
