"""The same prompt made by the host alone: its own re-patch brings every layer to the plan's coefficients, slowly.

The host computes each delta, restores each layer from its backup and adds one network after the other. All it is
given is the multiplier of each module in each step.
"""

from __future__ import annotations

import re
from typing import Any

from lbw.plan.plan import Plan, build
from lbw.request.arguments import Arguments
from lbw.tags import prompt as tags
from tests.host.measure import forget_conditioning
from tests.host.webui import WebUI

_TAG = re.compile(r"<(?:lora|lyco):([^>]+)>")


def requests_of(text: str) -> list[tags.LoraRequest]:
    return [tags.parse(match[1].split(":"), lambda _message: None) for match in _TAG.finditer(text)]


def with_plain_tags(text: str, requests: list[tags.LoraRequest]) -> str:
    """The prompt with one tag for each network, without anything that the host does not know."""
    names = list(dict.fromkeys(request.name for request in requests))
    return _TAG.sub("", text) + "".join(f"<lora:{name}:1>" for name in names)


class SlowPath:
    """Sets each module's multiplier, and makes the host see that something changed."""

    def __init__(self, webui: WebUI, requests: list[tags.LoraRequest]) -> None:
        self.webui = webui
        self.requests = requests
        self.plan: Plan | None = None
        self._coefficients: dict[str, tuple[float, ...]] = {}
        self._changes = 0

    def begin(self, steps: int) -> None:
        from lbw.hosts.preset_files import library  # can be imported once a host runs

        loaded = self.webui.networks.loaded_networks
        names = {net.name for net in loaded}
        layers = {net.name: tuple(net.modules) for net in loaded}
        requests = [request for request in self.requests if request.name in names]
        self.plan = build(requests, layers, library(Arguments()), lambda _message: None)
        self.set_step(0, steps)

    def set_step(self, step: int, steps: int) -> None:
        assert self.plan is not None
        coefficients = self.plan.coefficients(step, steps)
        if coefficients == self._coefficients:
            return
        self._coefficients = coefficients
        self._changes += 1
        for net in self.webui.networks.loaded_networks:
            index = self.plan.networks.index(net.name)
            for key, module in net.modules.items():
                module.multiplier = _Constant(coefficients[key][index])
            net.unet_multiplier = float(self._changes)

    def before_evaluation(self, params: Any) -> None:
        from lbw.hosts.serving import adapter

        step = adapter.solver_step(self.webui.denoiser(params), params.sampling_step)
        self.set_step(step, params.total_sampling_steps)

    def end(self) -> None:
        for net in self.webui.networks.loaded_networks:
            for module in net.modules.values():
                vars(module).pop("multiplier", None)


class _Constant:
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self) -> float:
        return self.value


def generate(webui: WebUI, prompt: str, **fields: Any) -> Any:
    """Make the image of ``prompt`` with the extension switched off and the host doing all the work."""
    requests = requests_of(prompt)
    path = SlowPath(webui, requests)
    p = webui.request(args=["", False], prompt=with_plain_tags(prompt, requests), **fields)
    setup_conds = p.setup_conds

    def encode() -> None:
        path.begin(p.steps)
        forget_conditioning(p)
        setup_conds()

    p.setup_conds = encode
    try:
        with webui.observing(path.before_evaluation, before=True):
            return webui.run(p)
    finally:
        path.end()
        forget_conditioning(p)
