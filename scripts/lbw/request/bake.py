"""What somebody asks to have baked: the tags of a prompt, as one network file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Protocol

from lbw.bake import metadata, safetensors_file
from lbw.bake.baking import Baking, Loss, Progress
from lbw.bake.forms import DIFF, UP, Form
from lbw.bake.host import BakeError, Host
from lbw.bake.recipe import BakedPart, Dtype
from lbw.bake.sources import Source, state_of
from lbw.bake.workbench import Ingredient, Workbench
from lbw.engine.strengths import Label
from lbw.plan.plan import Pass
from lbw.request.preview import Backend, preview
from lbw.tags.library import Library
from lbw.tags.limits import note, shortened
from lbw.tags.schedule import ALWAYS
from lbw.tags.weights import has_random_value


class OrderError(BakeError):
    """What is asked for is nothing that could be baked, whatever the host's state is."""


class BakeBackend(Backend, Protocol):
    """What baking needs to know of the host beyond what a prompt's tags come to."""

    def turn(self) -> AbstractContextManager[Backend]:
        """While the block runs no image is made, so that the settings in force are the host's own, the model is whole,
        and all that is asked of files is answered."""
        ...

    def bake_host(self) -> Host:
        """The model in use; raises BakeError where there is none."""
        ...

    def network_file(self, name: str) -> tuple[Any, str]:
        """The host's object for the network file that a tag with this name means, and its path; raises
        UnknownNetworkError."""
        ...

    def keeping_obstacle(self) -> str:
        """Why nobody may have a file kept in the host's LoRA folder; empty where that is allowed."""
        ...

    def is_free(self, name: str) -> bool:
        """Whether the host lists no LoRA of this name, whatever its case or folder is; raises OSError where it cannot
        look."""
        ...

    def new_network(self, name: str, size: int) -> AbstractContextManager[BinaryIO]:
        """A new file in the host's LoRA folder, which is there once the block has ended without an error. Otherwise
        there is none. Raises OSError; for want of room for ``size`` bytes, before anything is written."""
        ...

    def list_network(self, name: str, sources: Sequence[str], with_words: bool) -> list[str]:
        """Have the host list a new network; if that is wanted with the picture and the words of those that it was made
        of, whose paths are given. Returns messages of what could not be done, and raises nothing."""
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

    @property
    def sources(self) -> list[Source]:
        """The files of which something is in the new one."""
        return [each.source for each in self.baking.bench.ingredients if any(each.coefficients.values())]

    def describe(self, name: str, with_words: bool, hashes: Mapping[str, str]) -> dict[str, str]:
        """The new file's metadata.

        Args:
            name: of the new network.
            with_words: whether it has its sources' trigger words.
            hashes: {path of a source: see :func:`hashes_of`}.
        """
        parts = self.baking.recipe.parts
        return metadata.describe(
            name,
            [metadata.Source(each.name, each.metadata, hashes[each.path]) for each in self.sources],
            self.tags,
            self.baking.bench.family,
            kinds={kind for part in parts for kind in _kinds(part)},
            ranks=[part.rank for part in parts if part.rank is not None],
            alphas=[part.alpha for part in parts if part.alpha is not None],
            made=datetime.now(),
            notes=self.messages,
            with_words=with_words,
        )

    def report(self, described: Mapping[str, str], further: Iterable[str] = ()) -> Report:
        """What the file is, or would be.

        Args:
            described: its metadata.
            further: messages, besides those that were known at the start.
        """
        bench, parts = self.baking.bench, self.baking.recipe.parts
        layers = {bench.layer_of[key] for by_key in bench.pieces for key in by_key}
        return Report(
            tags=self.tags,
            messages=tuple(dict.fromkeys((*self.messages, *self.baking.messages, *further))),
            bytes=safetensors_file.size(self.baking.entries, described),
            layers={form: len({part.layer for part in parts if part.form is form}) for form in Form},
            left_out=len(layers - {part.layer for part in parts}),
            losses={block: self.baking.losses[block] for block in bench.blocks if block in self.baking.losses},
        )


@dataclass(frozen=True)
class Report:
    """What a file is, without its data.

    ``layers`` are counted by the form that they have in it, ``left_out`` are those that the sources have parts for and
    it has none. ``losses`` are those of what was cut, by block.
    """

    tags: tuple[str, ...]
    messages: tuple[str, ...]
    bytes: int
    layers: Mapping[Form, int]
    left_out: int
    losses: Mapping[Label, Loss]

    @property
    def lost(self) -> Loss:
        """That of all blocks."""
        return sum(self.losses.values(), Loss())


_MARKS = {
    "lora": UP, "loha": "hada_w1_a", "lokr": "lokr_", "glora": "a1.weight", "ia3": "on_input", "oft": "oft_",
    "full": DIFF, "norm": "w_norm", "dora": "dora_scale",
}  # fmt: skip
"""What tensors of each kind of part begin with; a DoRA is another kind in addition."""


def _kinds(part: BakedPart) -> set[str]:
    """What trainers call the kinds of a part's tensors."""
    tensors = {kind for _name, piece in part.pieces for kind in piece.tensors} or part.kinds
    found = {kind for kind, mark in _MARKS.items() if any(tensor.startswith(mark) for tensor in tensors)}
    if any(entry.name.endswith("oft_blocks") and len(entry.shape) == 4 for entry in part.entries):
        found = {"boft"}
    return found or {"other"}


_CHUNK = 1 << 24
"""Bytes of a file that are read at once."""


def hashes_of(sources: Iterable[Source], progress: Progress) -> dict[str, str]:
    """{path: SHA-256 of the file, in hexadecimal digits}.

    Raises:
        BakeError: a file cannot be read any longer, or nobody wants it.
    """
    found = {}
    for path, state in {source.path: source.state for source in sources}.items():
        digest = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                is_same = state_of(os.fstat(file.fileno())) == state
                while is_same and (chunk := file.read(_CHUNK)):
                    digest.update(chunk)
                    progress.tick(0)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise BakeError(f"a LoRA file cannot be read any longer ({reason}). Nothing was written") from None
        if not is_same:
            raise BakeError("a LoRA file has been replaced meanwhile; begin again. Nothing was written")
        found[path] = digest.hexdigest()
    return found


def begin(order: Order, backend: BakeBackend, progress: Progress) -> Begun:
    """
    Raises:
        BakeError: nothing can be baked, or it is not wanted any longer; OrderError if there is no tag.
        UnknownNetworkError: a tag's network is not known.
    """
    messages: dict[str, None] = {}

    def warn(message: str) -> None:
        note(message, messages)

    library = Library.read(
        order.presets or backend.preset_text(), order.elements or backend.rule_set_text(), order.default_preset
    )
    with backend.turn() as settled:
        host = backend.bake_host()
        made = preview(order.prompt, library, settled, warn, steps=order.steps, seed=order.seed)
    if not made.plan.requests:
        raise OrderError("the prompt has no LoRA tag; expected <lora:NAME:STRENGTH>. Nothing was written")
    for message in _told_of_schedules(made, order):
        warn(message)
    ingredients = _ingredients(made, order.step, backend)
    for each in ingredients:
        if not any(each.coefficients.values()):
            warn(f"<lora:{shortened(each.source.name)}>: all of it is at strength 0 there, so nothing of it is baked")
    bench = Workbench(host, ingredients)
    baking = Baking(bench, order.dtype.of_torch, order.rank, progress)
    for message in baking.recipe.messages:
        warn(message)
    return Begun(baking, tuple(request.written for request in made.plan.requests), tuple(messages))


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
            unet, te = made.unet_strengths(request)[order.step], request.te_strength(made.steps, made.sigmas)
            yield (f"{where}: a file has no schedule; baked is what counts at step {order.step} of {order.steps}, "
                   f"counted from 0: strength {unet:g} in the U-Net, {te:g} in text encoders")
        if request.differs_by_pass:
            yield f"{where}: a file has nothing of its own for the hires pass; baked is the first pass"
        if any(has_random_value(list(each.vector.values.values())) for each in weights):
            yield f"{where}: its random block weights are baked as seed {order.seed} has them"
