"""Makes the new file, some layers at a time, or tells what would be in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import hypot, prod
from typing import BinaryIO, TypeVar

import torch
from torch import Tensor

from lbw.bake import forms, recipe, safetensors_file
from lbw.bake.forms import DIFF, DIFF_BIAS, DOWN, MID, UP, Cut, Form
from lbw.bake.host import BakeError, CancelledError
from lbw.bake.recipe import BakedPart, Recipe
from lbw.bake.safetensors_file import Entry
from lbw.bake.workbench import Joined, Workbench
from lbw.engine.base_weights import pristine_view
from lbw.engine.binding import BoundLayer
from lbw.engine.deltas import fault_in
from lbw.engine.stand_ins import MissingBaseError
from lbw.engine.strengths import Label, Strengths
from lbw.engine.strengths import Part as StrengthPart

_Made = TypeVar("_Made")


_TOO_COARSE = 2.0**-8
"""Of a tensor, what even the coarsest type's rounding does not take; bfloat16 has 8 bits."""


class Progress:
    """How much of a baking is done, and whether it is wanted any longer. May be asked from other threads."""

    def __init__(self) -> None:
        self.done, self.total = 0, 1
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Have the baking end before its next layers."""
        self._cancelled.set()

    def begin(self, total: int) -> None:
        self.done, self.total = 0, max(total, 1)

    def tick(self, count: int) -> None:
        """
        Raises:
            CancelledError: it is not wanted any longer.
        """
        self.done += count
        if self._cancelled.is_set():
            raise CancelledError("cancelled; nothing was written")


@dataclass(frozen=True)
class Loss:
    """The Frobenius norms of what parts add that became LoRAs of less than their rank, and of what is lost of it."""

    parts: int = 0
    whole: float = 0.0
    lost: float = 0.0

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.parts + other.parts, hypot(self.whole, other.whole), hypot(self.lost, other.lost))

    @property
    def share(self) -> float:
        """What is lost, relative to the whole."""
        return self.lost / self.whole if self.whole else 0.0


class Baking:
    """One file to be.

    Args:
        rank: see :func:`lbw.bake.recipe.find`.

    Raises:
        BakeError: nothing can be baked of these, or what of them cannot be read.
    """

    def __init__(
        self, bench: Workbench, dtype: torch.dtype, rank: int | None, progress: Progress
    ) -> None:
        self.bench, self.dtype, self.progress = bench, dtype, progress
        progress.begin(len(bench.layers()))
        self.recipe: Recipe = recipe.find(bench, dtype, rank, progress.tick)
        if not self.recipe.parts:
            raise BakeError("; ".join(("nothing is left to bake", *self.recipe.messages)))
        self.losses: dict[Label, Loss] = {}
        """What is lost in each block, as far as it has been made."""
        self._coarse: dict[str, None] = {}

    @property
    def messages(self) -> tuple[str, ...]:
        """What was lost to the file's type, as far as it has been made."""
        if not self._coarse:
            return ()
        count = len(self._coarse)
        what = "tensor has" if count == 1 else "tensors have"
        return (f"{count} {what} values that are too small for {str(self.dtype).removeprefix('torch.')}, and lose more "
                f"than by rounding, first {next(iter(self._coarse))}; fp32 and bf16 hold them",)

    @cached_property
    def entries(self) -> list[Entry]:
        """The file's tensors, in their order."""
        found = [entry for part in self.recipe.parts for entry in part.entries]
        found += [Entry(name, tuple(value.shape), value.dtype) for name, value in self._ready.items()]
        for name, index in self.recipe.copied.items():
            value = self.bench.ingredients[index].source.tensors([name])[name]
            found.append(Entry(name, tuple(value.shape), value.dtype))
        return safetensors_file.in_order(found)

    @cached_property
    def _ready(self) -> dict[str, Tensor]:
        return {name: value for part in self.recipe.parts for name, value in part.ready.items()}

    def write(self, file: BinaryIO, metadata: Mapping[str, str]) -> None:
        """Make the file.

        Args:
            file: can be read and written from any place.

        Raises:
            BakeError: a value is beyond the file's type, another model was put into use, or it is no longer wanted.
            OSError: it cannot be written.
        """
        safetensors_file.write(file, self.entries, self._in_order(), metadata)

    def _in_order(self) -> Iterator[Tensor]:
        made = (tensors for _portion, tensors in self._portions())
        waiting: dict[str, Tensor] = {}
        for entry in self.entries:
            if entry.name in self._ready:
                yield self._ready[entry.name]
            elif entry.name in self.recipe.copied:
                source = self.bench.ingredients[self.recipe.copied[entry.name]].source
                yield source.tensors([entry.name])[entry.name]
            else:
                while entry.name not in waiting:
                    waiting |= next(made)
                yield waiting.pop(entry.name)

    def strengths(self, name: str) -> Strengths:
        """How strong the file would be, which is made for it, layers at a time, and not kept.

        Raises:
            BakeError: as :meth:`write`.
        """
        parts: list[StrengthPart] = []
        messages: list[str] = []
        for portion, tensors in self._portions():
            named = {key: value for part in portion for key, value in part.ready.items()} | tensors
            with self.bench.host.turn() as layers, torch.no_grad():
                network = self.bench.host.network_of(self.bench.ingredients[0].source.file, named)
                chosen = {part.layer: layers[part.layer] for part in portion}
                found, told = self.bench.host.meter.parts_of(network, chosen, self.bench.family)
            parts += found
            messages += told
        return Strengths(name, self.bench.blocks, tuple(parts), tuple(messages))

    def _portions(self) -> Iterator[tuple[list[BakedPart], dict[str, Tensor]]]:
        """What is computed of the file, some of its parts at a time, in their order."""
        self.progress.begin(len(self.recipe.parts))
        self.losses, self._coarse = {}, {}
        by_layer: dict[str, list[BakedPart]] = {}
        for part in self.recipe.parts:
            by_layer.setdefault(part.layer, []).append(part)
        sizes = {
            layer: sum(prod(entry.shape) for part in parts for entry in part.entries)
            for layer, parts in by_layer.items()
        }
        for layers in self.bench.portions(list(by_layer), sizes):
            portion = [part for layer in layers for part in by_layer[layer]]
            computed = [part for part in portion if part.form is not Form.KEPT]
            made: dict[str, Tensor] = {}
            if computed:
                with self.bench.turn({part.layer for part in computed}) as joined, torch.no_grad():
                    made |= self._computed(computed, joined)
            for part in portion:
                if part.form is Form.KEPT:
                    made |= self._fitted(self._kept(part))
            yield portion, made
            self.progress.tick(len(portion))

    def _kept(self, part: BakedPart) -> dict[str, Tensor]:
        source = self.bench.ingredients[part.ingredient].source
        made: dict[str, Tensor] = {}
        for name, piece in part.pieces:
            wanted = {kind: stored for kind, stored in piece.tensors.items() if self._is_computed(part, name, kind)}
            stored = source.tensors(wanted.values())
            tensors = forms.scaled({kind: stored[each] for kind, each in wanted.items()}, part.coefficient, part.gain)
            if part.rank is not None and MID not in tensors:
                tensors |= {UP: tensors[UP][:, : part.rank], DOWN: tensors[DOWN][: part.rank]}
            made |= {f"{name}.{kind}": tensor for kind, tensor in tensors.items()}
        return made

    def _is_computed(self, part: BakedPart, name: str, kind: str) -> bool:
        return any(entry.name == f"{name}.{kind}" for entry in part.entries)

    def _computed(self, parts: Iterable[BakedPart], joined: Joined) -> dict[str, Tensor]:
        by_layer = {self.bench.layer_of[bound.keys[0]]: bound for bound in joined.bound}
        made: dict[str, Tensor] = {}
        for part in parts:
            try:
                made |= self._fitted(self._made(part, by_layer[part.layer]))
            except MissingBaseError as error:
                raise BakeError(f"layer {part.layer}: {error}; reload the checkpoint. Nothing was written") from None
        return made

    def _made(self, part: BakedPart, bound: BoundLayer) -> dict[str, Tensor]:
        shares = [share for slot, _index, share in self.bench.shares(bound) if slot in part.members]
        if len(part.members) == 1:
            shares = [share.of_third() for share in shares]
        if part.is_product and part.form is not Form.FULL:
            up, down = forms.joined(shares)
            down = down[:, : prod(part.shape[1:])]  # without what only an inpainting model's first layer reads
            if part.form is Form.CUT:
                return self._cut(part, lambda device: forms.cut_product(up.to(device), down.to(device), part.rank or 1))
            return self._factors(part, up, down)
        slot = bound.slots[min(part.members, key=lambda each: bound.slots[each].third is not None)]
        base = slot.of(pristine_view(bound.page, slot.parameter))

        def total(device: torch.device) -> Tensor:
            matrix = forms.total(shares, base.to(device))
            return matrix[:, : part.shape[1]] if len(part.shape) > 1 else matrix

        if part.form is Form.CUT:
            return self._cut(part, lambda device: forms.cut(total(device).flatten(1), part.rank or 1))
        made = {f"{part.name}.{DIFF}": self._on_device(lambda device: total(device).cpu())}
        bias = forms.bias_of(shares)
        if any(entry.name.endswith(f".{DIFF_BIAS}") for entry in part.entries) and bias is not None:
            made[f"{part.name}.{DIFF_BIAS}"] = bias
        return made

    def _factors(self, part: BakedPart, up: Tensor, down: Tensor) -> dict[str, Tensor]:
        assert part.rank and part.alpha
        up = up * (part.rank / part.alpha)
        shapes = {entry.name: entry.shape for entry in part.entries}
        names = f"{part.name}.{UP}", f"{part.name}.{DOWN}"
        return {name: value.reshape(shapes[name]) for name, value in zip(names, (up, down), strict=True)}

    def _cut(self, part: BakedPart, make: Callable[[torch.device], Cut]) -> dict[str, Tensor]:
        found = self._on_device(make)
        block = self.bench.family.block_of(part.key)
        self.losses[block] = self.losses.get(block, Loss()) + Loss(1, found.whole, found.lost)
        return self._factors(part, found.up.cpu(), found.down.cpu())

    def _on_device(self, make: Callable[[torch.device], _Made]) -> _Made:
        """Where there is most power to compute with, or on the CPU where that has no memory left."""
        try:
            return make(self.bench.host.device)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return make(torch.device("cpu"))

    def _fitted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors in the file's type."""
        fitted = {name: value.to(self.dtype).contiguous() for name, value in tensors.items()}
        for name, value in fitted.items():
            if tensors[name].dtype != self.dtype and _loss(tensors[name], value) > _TOO_COARSE:
                self._coarse[name] = None
            if fault_in([(name, value)]) is not None:
                raise BakeError(f"{name}: a value is beyond {self.dtype}; choose bf16 or fp32. Nothing was written")
        return fitted


def _loss(tensor: Tensor, fitted: Tensor) -> float:
    """By how much a tensor differs from the original, relative to it."""
    size = float(tensor.double().norm())
    return float((tensor.double() - fitted.double()).norm()) / size if size else 0.0
