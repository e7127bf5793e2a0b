"""Strengths as they are in force: measured from the weights themselves, whatever anybody claims about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lbw.tags.families import SD1, is_text_encoder


def messages(result: Any) -> list[str]:
    """What a generation told its user, without the line that sums it up."""
    lines = [line.removeprefix("LoRA Block Weight: ") for line in (result.comments or "").splitlines()]
    return [line for line in lines if "| base weights " not in line]


def status(result: Any) -> str:
    """The line that sums a generation up; empty if there is none."""
    lines = [line.removeprefix("LoRA Block Weight: ") for line in (result.comments or "").splitlines()]
    return next((line for line in lines if "| base weights " in line), "")


OUTPUT_BLOCKS = ",".join(["1", *["0"] * 13, *["1"] * 12])
"""What the preset OUTALL says, as a vector for every family: the text encoders and the output blocks."""

Strengths = dict[str, dict[str, tuple[float, float]]]
"""{network: {block: (least, greatest strength among the block's layers)}}"""


Deltas = Mapping[str, Mapping[str, Tensor]]


@lru_cache(maxsize=4000)
def _inverse(base: Tensor, *deltas: Tensor) -> tuple[Tensor, Tensor]:
    """What makes strengths of a weight, [deltas, numbers], and what it makes of the pristine one. It takes most of the
    time of a measurement, and weights are measured in each step."""
    basis = torch.stack([delta.double().flatten() for delta in deltas], dim=1)
    inverse = torch.linalg.solve(basis.T @ basis, basis.T)
    return inverse, inverse @ base.double().flatten()


def strengths(layers: Mapping[str, Any], base: Mapping[str, Tensor], deltas: Deltas) -> Strengths:
    """Least squares of (W - W0) on the deltas at strength 1, layer by layer."""
    found: Strengths = {name: {} for name in deltas}
    for layer in sorted({layer for network in deltas.values() for layer in network}):
        names = [name for name in deltas if layer in deltas[name]]
        inverse, pristine = _inverse(base[layer], *(deltas[name][layer] for name in names))
        solution = inverse @ layers[layer].weight.detach().cpu().double().flatten() - pristine
        block = SD1.block_of(layer) or "none"
        for name, value in zip(names, solution.tolist(), strict=True):
            least, greatest = found[name].get(block, (value, value))
            found[name][block] = (min(least, value), max(greatest, value))
    return found


@dataclass
class Recording:
    """What was seen during a generation, one entry for each model evaluation."""

    strengths: list[Strengths] = field(default_factory=list)
    sampling_steps: list[int] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    """What the sampler calls sigma."""
    host_layers_restored: list[int] = field(default_factory=list)


def copy_weights(layers: Mapping[str, Any], parameter: str = "weight") -> dict[str, Tensor]:
    """{layer name: a copy of its weight, or bias, on the CPU}, of every layer that has one."""
    found = {name: getattr(layer, parameter, None) for name, layer in layers.items()}
    return {name: value.detach().cpu().clone() for name, value in found.items() if isinstance(value, Tensor)}


def changed_layers(layers: Mapping[str, Any], base: Mapping[str, Tensor], parameter: str = "weight") -> list[str]:
    """The layers whose weight, or bias, is not bit-equal to ``base``."""
    return [name for name, value in base.items() if not getattr(layers[name], parameter).detach().cpu().equal(value)]


class RestoreCounter:
    """Counts the layers that the host's own re-patch restores."""

    def __init__(self) -> None:
        self._count = 0

    def add(self) -> None:
        self._count += 1

    def take(self) -> int:
        """The number since the last call."""
        count, self._count = self._count, 0
        return count


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Have what ``wrap`` makes of a function stand in its place while the block runs."""
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def restore_counter(webui: Any) -> Iterator[RestoreCounter]:
    """Count while the block runs, at the function through which the host restores a layer before it patches it; on the
    Forge family, at the one through which it merges patches into a model."""
    counter = RestoreCounter()
    owner, name, is_one = _patching(webui)

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def patch(*args: Any, **kwargs: Any) -> Any:
            if is_one(*args, **kwargs):
                counter.add()
            return original(*args, **kwargs)

        return patch

    with replaced(owner, name, counted):
        yield counter


def _patching(webui: Any) -> tuple[Any, str, Callable[..., bool]]:
    """(where the host's function is, its name, whether a call of it changes weights)."""
    if not webui.is_forge:
        restores = lambda layer: next(layer.parameters(), None) is not None  # noqa: E731
        return webui.networks, "network_restore_weights_from_backup", restores
    unet = webui.shared.sd_model.forge_objects_original.unet
    if hasattr(unet.model, "lora_loader"):
        return type(unet.model.lora_loader), "refresh", lambda _loader, lora_patches, *_, **__: bool(lora_patches)
    if hasattr(unet, "patch_weight_to_device"):
        return type(unet), "patch_weight_to_device", lambda patcher, key, *_, **__: key in patcher.patches
    return type(unet), "patch_model", lambda patcher, *_, **__: bool(patcher.patches)


@contextmanager
def _encoder_watched(webui: Any, base: Mapping[str, Tensor], deltas: Deltas) -> Iterator[Callable[[], Strengths]]:
    """Tells the strengths that the text encoder had when it was at work last, on a host that needs its weights only
    then. What the host has encoded before is forgotten, so that it does so again."""
    encoding = {name: {k: v for k, v in each.items() if is_text_encoder(k)} for name, each in deltas.items()}
    known: list[Strengths] = []
    last = max((layer for each in encoding.values() for layer in each), default=None, key=natural)
    if last is None:
        yield dict
        return
    for kind in (webui.processing.StableDiffusionProcessingTxt2Img, webui.processing.StableDiffusionProcessingImg2Img):
        forget_conditioning(kind)
    layers = webui.layers()
    hook = layers[last].register_forward_hook(lambda *_: known.append(strengths(layers, base, encoding)))
    try:
        yield lambda: known[-1]
    finally:
        hook.remove()


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by what they are worth."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


@contextmanager
def recording(webui: Any, base: Mapping[str, Tensor], deltas: Deltas) -> Iterator[Recording]:
    """Record each evaluation after the model has run, when every layer has what it computed with."""
    record = Recording()
    watched = _encoder_watched(webui, base, deltas) if webui.is_forge else nullcontext(dict)
    at_work = {
        name: {layer: value for layer, value in each.items() if not (webui.is_forge and is_text_encoder(layer))}
        for name, each in deltas.items()
    }
    with restore_counter(webui) as counter, watched as encoded:

        def after_evaluation(params: Any) -> None:
            found = strengths(webui.layers(), base, at_work)
            for name, blocks in encoded().items():
                found[name] |= blocks
            record.strengths.append(found)
            record.sampling_steps.append(params.sampling_step)
            record.host_layers_restored.append(counter.take())

        def before_evaluation(params: Any) -> None:
            record.sigmas.append(float(params.sigma.max()))

        with webui.observing(before_evaluation, before=True), webui.observing(after_evaluation):
            yield record


def forget_conditioning(p: Any) -> None:
    """Have the host encode the prompts of a request, or those of a kind of request, anew."""
    for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
        if hasattr(p, name):
            getattr(p, name)[:] = [None, None]
