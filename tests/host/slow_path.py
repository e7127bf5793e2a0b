"""The same prompt made by the host alone: its own re-patch brings every layer to the plan's coefficients, slowly.

The host computes each delta, restores each layer from its backup and adds one network after the other. All it is
given is the multiplier of each module in each step.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lbw.plan.plan import Plan, build
from lbw.request.arguments import Arguments
from lbw.tags import prompt as tags
from lbw.tags.families import is_text_encoder
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
        from lbw.hosts.serving import adapter

        loaded = self.webui.networks.loaded_networks
        names = {net.name for net in loaded}
        layers = {net.name: tuple(net.modules) for net in loaded}
        requests = [request for request in self.requests if request.name in names]
        self.plan = build(
            requests, layers, library(Arguments()), lambda _message: None, model_layers=adapter.layers()
        )
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


class MergingPath:
    """On the Forge family, whose hosts merge once: its own merge from the pristine weights, in each step."""

    def __init__(self, webui: WebUI, requests: list[tags.LoraRequest]) -> None:
        self.webui = webui
        self.requests = requests
        self.networks: dict[str, Any] = {}
        self.plan: Plan | None = None
        self._pristine: dict[tuple[str, str], Tensor] = {}
        self._hooks: list[Any] = []

    def begin(self, steps: int) -> None:
        from lbw.hosts.preset_files import library  # can be imported once a host runs
        from lbw.hosts.serving import adapter

        names = dict.fromkeys(request.name for request in self.requests)
        self.networks = {name: adapter.read_network(adapter.network_file(name)) for name in names}
        layers = {name: tuple(net.patches) for name, net in self.networks.items()}
        requests = sorted(self.requests, key=lambda request: [*names].index(request.name))
        self.plan = build(
            requests, layers, library(Arguments()), lambda _message: None, model_layers=adapter.layers()
        )
        coefficients = self.plan.coefficients(0, steps)
        for name in filter(is_text_encoder, coefficients):  # when it is at work: the host moves it before
            layer, strengths = self.webui.layers()[name], coefficients[name]
            write = partial(self._write, name, strengths)
            self._hooks.append(layer.register_forward_pre_hook(lambda *_, write=write: write()))

    def _write(self, name: str, coefficients: tuple[float, ...]) -> None:
        from lbw.hosts.forge.adapter import merge
        from lbw.hosts.forge.networks import entries_of

        for parameter in ("weight", "bias"):
            entries = [
                entry
                for net, coefficient in zip(self.networks.values(), coefficients, strict=True)
                for entry in entries_of(net.patches.get(name, {}).get(parameter, []), coefficient)
            ]
            if entries:
                tensor = getattr(self.webui.layers()[name], parameter)
                pristine = self._pristine.setdefault((name, parameter), tensor.detach().clone())
                with torch.inference_mode():
                    tensor.copy_(merge(entries, pristine.to(torch.float32, copy=True)))  # some hosts change it in place

    def before_evaluation(self, params: Any) -> None:
        from lbw.hosts.serving import adapter

        assert self.plan is not None
        step = adapter.solver_step(self.webui.denoiser(params), params.sampling_step)
        for name, coefficients in self.plan.coefficients(step, params.total_sampling_steps).items():
            if not is_text_encoder(name):
                self._write(name, coefficients)

    def end(self) -> None:
        for hook in self._hooks:
            hook.remove()
        layers = self.webui.layers()
        with torch.inference_mode():
            for (name, parameter), pristine in self._pristine.items():
                getattr(layers[name], parameter).copy_(pristine)


class _Constant:
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self) -> float:
        return self.value


def generate(webui: WebUI, prompt: str, **fields: Any) -> Any:
    """Make the image of ``prompt`` with the extension switched off and the host doing all the work."""
    requests = requests_of(prompt)
    path = (MergingPath if webui.is_forge else SlowPath)(webui, requests)
    plain = _TAG.sub("", prompt) if webui.is_forge else with_plain_tags(prompt, requests)
    p = webui.request(args=["", False], prompt=plain, **fields)
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
