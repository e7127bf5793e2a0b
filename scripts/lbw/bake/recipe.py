"""What will be in the new file, found before anything is computed: the form of each layer's part, its tensors and their
shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from math import prod

import torch
from torch import Tensor

from lbw.bake import forms
from lbw.bake.forms import ALPHA, DIFF, DIFF_BIAS, DOWN, MID, SCALE, UP, Form, Share
from lbw.bake.safetensors_file import Entry
from lbw.bake.sources import KOHYA_NAME, Named, Source
from lbw.bake.workbench import Joined, Workbench
from lbw.engine.binding import BoundLayer, bias_fits, misfits_told
from lbw.engine.deltas import LowRank
from lbw.engine.deltas.shapes import trained_shape
from lbw.engine.parameters import parameter_of
from lbw.files.kohya_names import layer_name
from lbw.tags.limits import shortened

_NUMBERS = {ALPHA, SCALE, "on_input"}
"""Tensors that keep a type of their own, in which they are exact."""


class Dtype(str, Enum):
    """The type of a file's tensors."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def of_torch(self) -> torch.dtype:
        return {Dtype.FP16: torch.float16, Dtype.BF16: torch.bfloat16, Dtype.FP32: torch.float32}[self]


@dataclass(frozen=True)
class BakedPart:
    """What the new file has for one layer, or for one of the projections that a layer holds.

    Args:
        key: the host's name of it; ``layer`` that of the layer.
        name: what the file calls it.
        shape: of its weight, as the file has it; empty where that is not known.
        pieces: what is kept of the only ingredient's file, with the names that they get.
        coefficient: of these.
        rank: that of the LoRA that it becomes, or up to which the LoRA that is kept counts; ``alpha``: what the file
            says beside it.
        gain: what the ratio is multiplied with, to make up for another alpha than the ingredient's.
        entries: the tensors that are computed.
        ready: those that are known already, by their names.
        members: the slots of the layer that go into it.
        is_product: whether it is made of LoRAs alone.
    """

    key: str
    layer: str
    name: str
    form: Form
    shape: Sequence[int] = ()
    ingredient: int = 0
    pieces: tuple[tuple[str, Named], ...] = ()
    coefficient: float = 1.0
    rank: int | None = None
    alpha: float | None = None
    gain: float = 1.0
    entries: tuple[Entry, ...] = ()
    ready: Mapping[str, Tensor] = field(default_factory=dict, compare=False)
    members: frozenset[int] = frozenset()
    is_product: bool = False

    @property
    def kinds(self) -> set[str]:
        """What its tensors are to it."""
        return {name.removeprefix(f"{self.name}.") for name in (*(entry.name for entry in self.entries), *self.ready)}


@dataclass(frozen=True)
class Recipe:
    """``copied`` are {tensor: the ingredient whose file it is in}: those for no layer, which stay as they are.
    ``messages`` say what of the ingredients cannot be used."""

    parts: tuple[BakedPart, ...]
    copied: Mapping[str, int]
    messages: tuple[str, ...]


class _Finder:
    """Finds what the new file has for layers.

    Args:
        rank: up to which LoRAs are kept as they are, and of what becomes one; None: of all, and nothing does.
    """

    def __init__(self, bench: Workbench, dtype: torch.dtype, rank: int | None) -> None:
        self._bench, self._dtype, self._rank = bench, dtype, rank
        self.unmade: list[str] = []

    def parts_of(self, joined: Joined) -> Iterator[BakedPart]:
        for bound in joined.bound:
            slots: dict[int, list[tuple[int, Share]]] = {}
            for slot, index, share in self._bench.shares(bound):
                slots.setdefault(slot, []).append((index, share))
            yield from self._of_layer(bound, slots)
        for name, indices in joined.others.items():
            counting = [index for index in indices if self._bench.coefficient(index, name)]
            if counting:
                yield from self._without_weight(name, counting)

    def _of_layer(self, bound: BoundLayer, slots: Mapping[int, Sequence[tuple[int, Share]]]) -> Iterator[BakedPart]:
        whole = next((slot for slot in slots if bound.slots[slot].third is None), None)
        thirds = [slot for slot in slots if bound.slots[slot].third is not None]
        if whole is not None and any(bound.slots[slot].parameter == bound.slots[whole].parameter for slot in thirds):
            # Hosts pass over parts for the thirds of a weight where there is one for the whole of it.
            together = sorted((each for slot in slots for each in slots[slot]), key=lambda each: each[0])
            yield self._part(bound, whole, together, frozenset(slots), is_split=True)
            return
        for slot, shares in slots.items():
            yield self._part(bound, slot, [(index, share.of_third()) for index, share in shares], frozenset({slot}))

    def _part(
        self, bound: BoundLayer, slot: int, shares: Sequence[tuple[int, Share]], members: frozenset[int],
        *, is_split: bool = False,
    ) -> BakedPart:
        key, place = bound.keys[slot], bound.slots[slot]
        alone = [share for _index, share in shares]
        part = BakedPart(
            key, self._bench.layer_of[key], "", Form.FULL,
            trained_shape(place.of(parameter_of(bound.layer, place.parameter)).shape),
            members=members, is_product=not is_split and self._are_loras(key, shares),
        )
        takes_bias = place.third is None and all(bias_fits(bound.layer, each.delta.bias) for each in alone)
        pieces = self._bench.pieces[shares[0][0]].get(key, ())
        if not takes_bias:  # one that does not fit is left out in images, too
            pieces = [piece.without(DIFF_BIAS) for piece in pieces]
        rank = forms.joined_rank(alone) if part.is_product else 0
        cut_to = min(self._rank or 0, part.shape[0], prod(part.shape[1:])) if len(part.shape) > 1 else 0
        is_too_high = part.is_product and 0 < cut_to < rank
        if len(shares) == 1 and not is_split and not is_too_high and self._can_keep(*shares[0], pieces):
            return self._kept(part, *shares[0], pieces)
        part = replace(part, name=self._name(key, pieces))
        if part.is_product and not is_too_high:
            return self._as_lora(part, Form.JOINED, rank, forms.joined_alpha(alone))
        with_bias = takes_bias and forms.bias_of(alone) is not None
        if cut_to and not with_bias:
            return self._as_lora(part, Form.CUT, cut_to, float(cut_to))
        shapes = {DIFF: tuple(part.shape)} | ({DIFF_BIAS: (part.shape[0],)} if with_bias else {})
        return replace(
            part, entries=tuple(Entry(f"{part.name}.{kind}", shape, self._dtype) for kind, shape in shapes.items())
        )

    def _are_loras(self, key: str, shares: Sequence[tuple[int, Share]]) -> bool:
        """Whether all that a layer gets are LoRAs: other types may be low-rank by a product of their factors."""
        pieces = [piece for index, _share in shares for piece in self._bench.pieces[index].get(key, ())]
        return all(UP in piece.tensors for piece in pieces) and forms.is_joinable([share for _index, share in shares])

    def _as_lora(self, part: BakedPart, form: Form, rank: int, alpha: float) -> BakedPart:
        ones = (1,) * (len(part.shape) - 2)
        return replace(
            part, form=form, rank=rank, alpha=alpha,
            ready={f"{part.name}.{ALPHA}": _scalar(torch.tensor(alpha, dtype=torch.float64), self._dtype)},
            entries=(
                Entry(f"{part.name}.{UP}", (part.shape[0], rank, *ones), self._dtype),
                Entry(f"{part.name}.{DOWN}", (rank, *part.shape[1:]), self._dtype),
            ),
        )

    def _can_keep(self, index: int, share: Share, pieces: Sequence[Named]) -> bool:
        if not pieces:
            return False
        if any(not forms.ADDENDS.isdisjoint(piece.tensors) for piece in pieces):
            return False
        if all(forms.is_proportional(piece.tensors) for piece in pieces):
            return True
        # Of DoRA in other names or shapes, hosts that read them make something else than of these.
        is_as_hosts_know = all(
            KOHYA_NAME.match(f"{piece.layer}.x") and self._lengths_have_all_dimensions(index, piece) for piece in pieces
        )
        return share.coefficient == 1 and is_as_hosts_know

    def _lengths_have_all_dimensions(self, index: int, piece: Named) -> bool:
        stored = piece.tensors.get("dora_scale")
        return stored is None or len(self._source(index).shape(stored)) > 1

    def _kept(self, part: BakedPart, index: int, share: Share, pieces: Sequence[Named]) -> BakedPart:
        named = self._renamed(part.key, pieces)
        part = replace(
            part, name=named[0][0], form=Form.KEPT, ingredient=index, pieces=named, coefficient=share.coefficient
        )
        if len(pieces) == 1:
            part = self._with_alpha(part, index, pieces[0], share)
        return self._with_tensors(part)

    def _with_alpha(self, part: BakedPart, index: int, piece: Named, share: Share) -> BakedPart:
        """A kept part with the alpha that all programs read alike: a LoRA's own. That of a LoHa or a LoKr is its rank,
        because LyCORIS counts any other twice when it reads a file."""
        source, tensors = self._source(index), piece.tensors
        if UP in tensors and isinstance(share.delta, LowRank):
            rank = share.delta.rank if MID not in tensors else source.shape(tensors[DOWN])[0]
            return replace(part, rank=rank, alpha=share.delta.scale * rank)
        ranked = forms.rank_tensor(tensors) if forms.is_proportional(tensors) else None
        if ranked is not None:
            rank = source.shape(tensors[ranked])[0]
            stored = source.tensors([tensors[ALPHA]]) if ALPHA in tensors else {}
            gain = next((float(value) / rank for value in stored.values()), 1.0)
            return replace(part, alpha=float(rank), gain=gain)
        if "lokr_w1" in tensors and ALPHA not in tensors:  # of two whole matrices: LyCORIS asks for it, and no host
            return replace(part, alpha=1.0)
        return part

    def _with_tensors(self, part: BakedPart) -> BakedPart:
        """A kept part with the tensors of its pieces."""
        source = self._source(part.ingredient)
        entries: list[Entry] = []
        ready: dict[str, Tensor] = {}
        for name, piece in part.pieces:
            for kind, stored in piece.tensors.items():
                shape = source.shape(stored)
                if part.alpha is not None and (kind == ALPHA or (part.rank is not None and kind == SCALE)):
                    continue
                if kind in _NUMBERS:
                    ready[f"{name}.{kind}"] = _scalar(source.tensors([stored])[stored], self._dtype)
                    continue
                if part.rank is not None and kind == UP:
                    shape = (shape[0], min(shape[1], part.rank), *shape[2:])
                elif part.rank is not None and kind == DOWN and MID not in piece.tensors:
                    shape = (min(shape[0], part.rank), *shape[1:])
                entries.append(Entry(f"{name}.{kind}", shape, self._dtype))
            if part.alpha is not None:
                ready[f"{name}.{ALPHA}"] = _scalar(torch.tensor(part.alpha, dtype=torch.float64), self._dtype)
        return replace(part, entries=tuple(entries), ready=ready)

    def _without_weight(self, name: str, indices: Sequence[int]) -> Iterator[BakedPart]:
        """A part for a layer that has no weight to write: only what needs none can be baked."""
        pieces = [piece for index in indices for piece in self._bench.pieces[index].get(name, ())]
        coefficient = self._bench.coefficient(indices[0], name)
        is_exact = coefficient == 1 or all(forms.is_proportional(piece.tensors) for piece in pieces)
        if len(indices) > 1 or not pieces or not is_exact:
            self.unmade.append(name)
            return
        named = self._renamed(name, pieces)
        yield self._with_tensors(
            BakedPart(name, name, named[0][0], Form.KEPT, ingredient=indices[0], pieces=named, coefficient=coefficient)
        )

    def _source(self, index: int) -> Source:
        return self._bench.ingredients[index].source

    def _renamed(self, key: str, pieces: Sequence[Named]) -> tuple[tuple[str, Named], ...]:
        """Pieces that are kept, with their new names: their own where only the host knows what they are for, as some
        are for a part of a layer, or in another order."""
        names = self._bench.names
        is_whole = len(pieces) == 1 and names.find(pieces[0].layer) == key
        return tuple((self._name(key, pieces) if is_whole else piece.layer, piece) for piece in pieces)

    def _name(self, key: str, pieces: Sequence[Named]) -> str:
        """Kohya's name of a part: that of the file, if it is one."""
        names = self._bench.names
        if len(pieces) == 1 and KOHYA_NAME.match(f"{pieces[0].layer}.x") and names.find(pieces[0].layer) == key:
            return pieces[0].layer
        return layer_name(key, self._bench.names, self._bench.family)


def _scalar(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A number in the file's type where that has it, else in one that is precise."""
    if not value.is_floating_point():
        return value
    short = value.to(dtype)
    return short if torch.equal(short.double(), value.double()) else value.float()


def find(bench: Workbench, dtype: torch.dtype, rank: int | None, tick: Callable[[int], None]) -> Recipe:
    """Find what will be in the file.

    Args:
        dtype: of the file.
        rank: up to which LoRAs are kept as they are, and of what becomes one: what has no type that is exact. None: all
            LoRAs are kept, and nothing becomes one.
        tick: told after some layers how many there were.

    Raises:
        BakeError: as :meth:`Workbench.turn`, or what ``tick`` raises.
    """
    finder = _Finder(bench, dtype, rank)
    parts: list[BakedPart] = []
    used: list[set[str]] = [set() for _ in bench.ingredients]
    misfits: list[list[str]] = [[] for _ in bench.ingredients]
    for portion in bench.portions(bench.layers()):
        with bench.turn(portion) as joined:
            parts += finder.parts_of(joined)
            for found, reasons in zip(misfits, joined.misfits, strict=True):
                found += reasons
            for bound in joined.bound:
                for slot, index, _delta in bound.deltas:
                    used[index].add(bound.keys[slot])
            for name, indices in joined.others.items():
                for index in indices:
                    used[index].add(name)
        tick(len(portion))
    parts = _with_one_alpha(parts, dtype)
    parts.sort(key=lambda part: part.name)
    return Recipe(tuple(parts), _copied(bench), tuple(_messages(bench, used, misfits, finder.unmade)))


def _with_one_alpha(parts: Sequence[BakedPart], dtype: torch.dtype) -> list[BakedPart]:
    """Parts of which all LoRAs have the smallest of their alphas, unless all are kept as one file has them: where ranks
    differ, diffusers reads all layers' alphas as that of the first. A larger alpha would make factors smaller than 16
    bits hold well."""
    alphas = [abs(part.alpha) for part in parts if part.alpha and part.rank is not None]
    if not alphas or (len({(part.form, part.ingredient) for part in parts}) == 1 and parts[0].form is Form.KEPT):
        return [*parts]
    alpha = min(alphas)
    return [
        part if part.rank is None or part.alpha is None else replace(
            part, alpha=alpha, gain=part.gain * part.alpha / alpha if part.form is Form.KEPT else part.gain,
            ready={**part.ready, f"{part.name}.{ALPHA}": _scalar(torch.tensor(alpha, dtype=torch.float64), dtype)},
        )
        for part in parts
    ]


def _copied(bench: Workbench) -> dict[str, int]:
    """What the files have for no layer; of two of one name that of the first."""
    found: dict[str, int] = {}
    for index, each in enumerate(bench.ingredients):
        if any(each.coefficients.values()):
            found = dict.fromkeys(each.source.bundled, index) | found
    return found


def _messages(
    bench: Workbench, used: Sequence[set[str]], misfits: Sequence[Sequence[str]], unmade: Sequence[str]
) -> Iterator[str]:
    for index, each in enumerate(bench.ingredients):
        where = f"<lora:{shortened(each.source.name)}>"
        strange, pieces = bench.strange[index], bench.pieces[index]
        reasons = misfits[index]
        told = {bench.layer_of.get(reason.partition(":")[0]) for reason in reasons}
        if strange:
            yield (f"{where}: {_count(len(strange))} for no layer of this {bench.family.title} model, first "
                   f"{shortened(next(iter(strange[0].tensors.values())))}; left out, as in images of this model")
        if reasons:
            yield f"{where}: {misfits_told(reasons)}"
        unread = [
            key for key in pieces
            if each.coefficients.get(bench.layer_of[key]) and key not in used[index] and bench.layer_of[key] not in told
        ]
        if unread:
            yield (f"{where}: {_count(len(unread))} not read by this WebUI, first {unread[0]}; left out, as in images")
    if unmade:
        yield (f"{_count(len(unmade))} for layers whose weights cannot be read here (quantised), first {unmade[0]}, "
               "and could be baked with them only; left out")


def _count(parts: int) -> str:
    return "1 part is" if parts == 1 else f"{parts} parts are"
