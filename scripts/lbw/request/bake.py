"""What somebody asks to have baked: the tags of a prompt, as one network file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from lbw.bake.baking import Baking, Progress
from lbw.bake.host import BakeError, Host
from lbw.bake.recipe import Dtype
from lbw.bake.sources import Source
from lbw.bake.workbench import Ingredient, Workbench
from lbw.plan.plan import Pass
from lbw.request.preview import Backend, preview
from lbw.tags.library import Library
from lbw.tags.limits import shortened
from lbw.tags.presence import Reckoning
from lbw.tags.schedule import ALWAYS
from lbw.tags.weights import has_random_value


class BakeBackend(Backend, Protocol):
    """What baking needs to know of the host beyond what a prompt's tags come to."""

    def bake_host(self) -> Host:
        """The model in use; raises BakeError where there is none."""
        ...

    def network_file(self, name: str) -> tuple[Any, str]:
        """The host's object for the network file that a tag with this name means, and its path; raises
        UnknownNetworkError."""
        ...


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Args:
        prompt: a prompt, or tags alone.
        rank: see :func:`lbw.bake.recipe.find`.
        step: of ``steps``, counted from 0: what the tags come to there is baked.
        seed: what random block weights follow.
        presets: the text of the presets, and ``elements`` that of the element rule sets; empty: those of the files.
        default_preset: for every tag that has no block weights of its own.
    """

    prompt: str
    rank: int | None = None
    dtype: Dtype = Dtype.FP16
    step: int = 0
    steps: int = 20
    seed: int = 0
    presets: str = ""
    elements: str = ""
    default_preset: str = ""


@dataclass(frozen=True)
class Begun:
    """A baking whose recipe is known.

    ``tags`` are those that it is made of, ``messages`` what its user has to know.
    """

    baking: Baking
    tags: tuple[str, ...]
    messages: tuple[str, ...]


def begin(order: Order, backend: BakeBackend, progress: Progress) -> Begun:
    """
    Raises:
        BakeError: nothing can be baked, or it is not wanted any longer.
        UnknownNetworkError: a tag's network is not known.
    """
    messages: dict[str, None] = {}

    def warn(message: str) -> None:
        messages[message] = None

    library = Library.read(
        order.presets or backend.preset_text(), order.elements or backend.rule_set_text(), order.default_preset
    )
    made = preview(order.prompt, library, backend, warn, steps=order.steps, seed=order.seed)
    if not made.plan.requests:
        raise BakeError("the prompt has no LoRA tag; expected <lora:NAME:STRENGTH>. Nothing was written")
    for message in _told_of_schedules(made, order):
        warn(message)
    bench = Workbench(backend.bake_host(), _ingredients(made, order.step, backend))
    baking = Baking(bench, Dtype(order.dtype).of_torch, order.rank, progress)
    for message in baking.recipe.messages:
        warn(message)
    found = backend.tags(order.prompt, Reckoning(order.steps, None), lambda _message: None)
    tags = [f"<lora:{':'.join(items)}>" for items, _presence in found]
    return Begun(baking, tuple(tags), tuple(messages))


def _ingredients(made: Pass, step: int, backend: BakeBackend) -> list[Ingredient]:
    coefficients = made.plan.coefficients(step, made.steps, made.sigmas, made.evaluations_of(step))
    ranks = {request.name: request.dyn_dim for request in made.plan.requests}
    return [
        Ingredient(
            Source(name, *backend.network_file(name)),
            {layer: values[index] for layer, values in coefficients.items()},
            ranks[name],
        )
        for index, name in enumerate(made.plan.networks)
    ]


def _told_of_schedules(made: Pass, order: Order) -> Iterator[str]:
    """What a file cannot have, and what it has instead."""
    for request, weights in zip(made.plan.requests, made.plan.weights, strict=True):
        where = f"<lora:{shortened(request.name)}>"
        if request.schedule != ALWAYS or request.te_schedule != ALWAYS or len(weights) > 1:
            unet = made.unet_strengths(request)[order.step]
            yield (f"{where}: a file has no schedule; baked is what counts at step {order.step} of {order.steps}, "
                   f"counted from 0: strength {unet:g} in the U-Net")
        if request.differs_by_pass:
            yield f"{where}: a file has nothing of its own for the hires pass; baked is the first pass"
        if any(has_random_value(list(each.vector.values.values())) for each in weights):
            yield f"{where}: its random block weights are baked as seed {order.seed} has them"
