"""Families of models: which blocks a model has, in which order, and to which of them a layer belongs.

Labels are those that users of block weights know. ``BASE`` is the text encoders, ``IN``, ``M`` and ``OUT`` are the
input, middle and output blocks of a U-Net, and the two halves of SD3's joint blocks. The blocks of other transformers
have a letter for each row: Flux has ``D`` (double) and ``S`` (single), and ``CLIP`` and ``T5`` instead of ``BASE``.
There, ``IN`` and ``OUT`` are the layers before and behind all blocks.

A family is one entry in ``_TABLE``; a model that no entry knows gets a family of its own. Names and counts are those of
the hosts' own model classes, which tests/data/model_layers.md lists with their sources.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache


@dataclass(frozen=True)
class Row:
    """Modules with numbers below one name, or the first (0) or second (1) ``half`` of them.

    ``most`` is how many a model of the family has at most: labels up to there mean something on a smaller model, too.
    """

    module: str
    prefix: str
    most: int
    half: int | None = None

    def labels(self, count: int) -> tuple[str, ...]:
        """The labels of the row, given how many modules have the name."""
        first = count - count // 2
        length = count if self.half is None else (first, count - first)[self.half]
        return _numbered(self.prefix, range(length))


@dataclass(frozen=True)
class Single:
    """A block that is one or several modules without a number of their own, as ``M00``, or Flux's ``IN``.

    ``in_vector`` is whether a vector with a value for each block has one for it. One without modules is known by name,
    but no model of the family has it.
    """

    label: str
    modules: tuple[str, ...]
    in_vector: bool = False


@dataclass(frozen=True, eq=False)
class Architecture:
    """What models have in common that differ in how many blocks they have: an entry of the table.

    Args:
        title: what they are called.
        parts: their blocks in order.
        identifying_modules: those by which they are told from others.
        models: {published model: how many modules each name of a row has}.
        layouts: vectors that are not a value for each block: {how many values: the block of each}.
        encoders: the names of their text encoders.
        other_encoders: those that some of them have instead.
        attended: the blocks with attention, which most networks change; empty: all.
        is_unet: whether they have input, middle and output blocks, and all as many as the published one, so that a
            few of a model's layers tell which it is.
        encoder_labels: what stands for the text encoders in vectors.
        main: the prefix of a row that a vector may have values for alone.
    """

    title: str
    parts: tuple[Row | Single, ...]
    identifying_modules: tuple[str, ...]
    models: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    layouts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    encoders: tuple[str, ...] = ()
    other_encoders: tuple[str, ...] = ()
    attended: frozenset[str] = frozenset()
    is_unet: bool = False
    encoder_labels: tuple[str, ...] = ("BASE",)
    main: str = ""

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The names of modules with numbers."""
        return tuple(dict.fromkeys(part.module for part in self.parts if isinstance(part, Row)))

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """All modules that the entry names."""
        singles = (part.modules for part in self.parts if isinstance(part, Single))
        return (*self.rows, *(module for modules in singles for module in modules))


def _numbered(prefix: str, indices: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{prefix}{i:02d}" for i in indices)


_OF_STABLE_DIFFUSION: Mapping[int, tuple[str, ...]] = {
    12: ("BASE", *_numbered("IN", (4, 5, 7, 8)), "M00", *_numbered("OUT", range(6))),
    17: ("BASE", *_numbered("IN", (1, 2, 4, 5, 7, 8)), "M00", *_numbered("OUT", range(3, 12))),
    20: ("BASE", *_numbered("IN", range(9)), "M00", *_numbered("OUT", range(9))),
    26: ("BASE", *_numbered("IN", range(12)), "M00", *_numbered("OUT", range(12))),
}
_OF_FLUX = {61: ("CLIP", "T5", "IN", *_numbered("D", range(19)), *_numbered("S", range(38)), "OUT")}

_UNET = (
    Row("input_blocks", "IN", 12), Single("M00", ("middle_block",), in_vector=True), Row("output_blocks", "OUT", 12)
)  # fmt: skip
_MMDIT = (Row("joint_blocks", "IN", 38, half=0), Single("M00", ()), Row("joint_blocks", "OUT", 38, half=1))
_FLUX = (
    Single("IN", ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "distilled_guidance_layer",
                  "double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")),
    Row("double_blocks", "D", 19), Row("single_blocks", "S", 48), Single("OUT", ("final_layer",)),
)  # fmt: skip
_LUMINA = (
    Single("IN", ("x_embedder", "t_embedder", "cap_embedder")),
    Row("noise_refiner", "N", 2), Row("context_refiner", "C", 2), Row("layers", "L", 30),
    Single("OUT", ("final_layer", "norm_final")),
)  # fmt: skip
_QWEN_IMAGE = (
    Single("IN", ("img_in", "txt_in", "txt_norm", "time_text_embed")), Row("transformer_blocks", "B", 60),
    Single("OUT", ("norm_out", "proj_out")),
)  # fmt: skip
_WAN = (
    Single("IN", ("patch_embedding", "text_embedding", "time_embedding", "time_projection", "img_emb")),
    Row("blocks", "B", 40), Single("OUT", ("head",)),
)  # fmt: skip
_ANIMA = (
    Single("IN", ("x_embedder", "t_embedder", "t_embedding_norm")), Row("blocks", "B", 28),
    Single("OUT", ("final_layer",)),
)  # fmt: skip

_TABLE = (
    Architecture("SDXL", _UNET, ("input_blocks", "label_emb"), {"SDXL": (9, 9)}, _OF_STABLE_DIFFUSION,
                 ("CLIP_L", "CLIP_G"), attended=frozenset(_OF_STABLE_DIFFUSION[12][1:]), is_unet=True),
    Architecture("SDXL refiner", _UNET, ("input_blocks", "label_emb"), {"SDXL refiner": (12, 12)}, _OF_STABLE_DIFFUSION,
                 ("CLIP_G",), is_unet=True,
                 attended=frozenset((*_numbered("IN", (4, 5, 7, 8)), "M00", *_numbered("OUT", range(3, 9))))),
    Architecture("SD1/SD2", _UNET, ("input_blocks",), {"SD1/SD2": (12, 12)}, _OF_STABLE_DIFFUSION,
                 ("CLIP_L",), ("CLIP_H",), frozenset(_OF_STABLE_DIFFUSION[17][1:]), is_unet=True),
    Architecture("SD3", _MMDIT, ("joint_blocks",), {"SD3": (24,), "SD3.5 large": (38,)}, _OF_STABLE_DIFFUSION,
                 ("CLIP_L", "CLIP_G", "T5")),
    Architecture("Chroma", _FLUX, ("double_blocks", "distilled_guidance_layer"), {"Chroma": (19, 38)}, _OF_FLUX,
                 ("T5",), encoder_labels=_OF_FLUX[61][:2]),
    Architecture("Flux.2", _FLUX, ("double_blocks", "double_stream_modulation_img"),
                 {"Flux.2": (8, 48), "Flux.2 Klein 9B": (8, 24), "Flux.2 Klein 4B": (5, 20)}, encoders=("LLM",)),
    Architecture("Flux", _FLUX, ("double_blocks",), {"Flux": (19, 38)}, _OF_FLUX, ("CLIP_L", "T5"),
                 encoder_labels=_OF_FLUX[61][:2]),
    Architecture("Lumina 2", _LUMINA, ("noise_refiner", "layers"), {"Lumina 2": (2, 2, 26), "Z-Image": (2, 2, 30)},
                 encoders=("LLM",), main="L"),
    Architecture("Qwen-Image", _QWEN_IMAGE, ("transformer_blocks", "time_text_embed"), {"Qwen-Image": (60,)},
                 encoders=("LLM",)),
    Architecture("Wan", _WAN, ("blocks", "patch_embedding"), {"Wan 14B": (40,), "Wan 1.3B/5B": (30,)},
                 encoders=("T5",)),
    Architecture("Anima", _ANIMA, ("blocks", "t_embedding_norm"), {"Anima": (28,)}, encoders=("LLM",)),
)  # fmt: skip
"""The families. Of several that a model has the modules of, the first counts."""

ENCODERS = ("CLIP_L", "CLIP_G", "CLIP_H", "T5", "LLM")
"""Names of text encoders, each of which is a part of ``BASE``."""

_ENCODER_NAMES = (
    ("CLIP_L", r"clip_l|(0_)?transformer_text_model"), ("CLIP_G", r"clip_g|[01]_model_"), ("CLIP_H", r"clip_h|model_"),
    ("T5", r"(um)?t5"),
)  # fmt: skip
"""What layer names of a text encoder begin with: on the Forge family, and on AUTOMATIC1111 of SD3, with the
encoder's name; AUTOMATIC1111 has a number before those of CLIP and OpenCLIP where a model has two."""


@lru_cache(maxsize=20_000)
def encoder_of(layer: str) -> str:
    """The name of the text encoder that a layer is in, which is no layer of the diffusion model."""
    return next((name for name, start in _ENCODER_NAMES if re.match(start, layer)), "LLM")


@dataclass(frozen=True, eq=False)
class Family:
    """The blocks of the models of one family that have equally many.

    Args:
        title: what such a model is called in messages.
        architecture: the entry of the table.
        counts: how many modules each of its rows has.
        encoders: names of the text encoders.
    """

    title: str
    architecture: Architecture
    counts: tuple[int, ...]
    encoders: tuple[str, ...]

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return dict(zip(self.architecture.rows, self.counts, strict=True))

    @cached_property
    def labels_by_module(self) -> Mapping[str, tuple[str, ...]]:
        """{module below ``diffusion_model``: the label of each by its number, or one label for all}."""
        found: dict[str, tuple[str, ...]] = {}
        for part in self.architecture.parts:
            if isinstance(part, Row):
                found[part.module] = found.get(part.module, ()) + part.labels(self._rows[part.module])
            else:
                found |= dict.fromkeys(part.modules, (part.label,))
        return found

    @property
    def of_encoders(self) -> tuple[str, ...]:
        """The labels of the text encoders."""
        return self.architecture.encoder_labels

    @property
    def single_encoders(self) -> tuple[str, ...]:
        """Names of text encoders that are parts of ``BASE``."""
        return self.encoders if self.of_encoders == ("BASE",) else ()

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The labels that a vector with a value for each block counts."""
        return tuple(
            label
            for part in self.architecture.parts if isinstance(part, Row) or part.in_vector
            for label in (part.labels(self._rows[part.module]) if isinstance(part, Row) else (part.label,))
        )  # fmt: skip

    @property
    def is_in_table(self) -> bool:
        """Whether an entry of the table knows such models."""
        return self.architecture in _TABLE

    @cached_property
    def attended(self) -> frozenset[str]:
        """The blocks that most networks change."""
        return self.architecture.attended or frozenset(self.blocks)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the order in which ranges such as ``IN05-OUT05`` count."""
        existing = {*self.of_encoders, *(label for labels in self.labels_by_module.values() for label in labels)}
        return tuple(label for label in self.vocabulary if label in existing)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """As ``labels``, with those that larger models of the family have."""
        found = [*self.of_encoders]
        for part in self.architecture.parts:
            if isinstance(part, Row):
                found += part.labels(max(part.most, self._rows[part.module]))
            else:
                found.append(part.label)
        return tuple(found)

    @cached_property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """{name: labels of several blocks}. ``FIRST``, ``MID`` and ``LAST`` are the parts of a U-Net, and thirds of the
        blocks of a transformer."""
        parts = (part for part in self.architecture.parts if isinstance(part, Row))
        rows = {part.prefix: part.labels(self._rows[part.module]) for part in parts}
        groups = {} if self.of_encoders == ("BASE",) else {"BASE": self.of_encoders, "CLIP_L": ("CLIP",)}
        groups |= {name: labels for name, labels in rows.items() if name not in self.labels}
        if "M00" in self.vocabulary:
            groups["M"] = ("M00",)
        if self.architecture.is_unet:
            return groups | {"FIRST": rows["IN"], "MID": ("M00",), "LAST": rows["OUT"]}
        ends = [len(self.blocks) * part // 3 for part in range(4)]
        return groups | {name: self.blocks[ends[i] : ends[i + 1]] for i, name in enumerate(("FIRST", "MID", "LAST"))}

    @cached_property
    def layouts(self) -> Mapping[int, tuple[str, ...]]:
        """{how many values a vector has: the block of each, or ``BASE``}."""
        return dict(sorted({**self.architecture.layouts, **self._own_layouts}.items()))

    @cached_property
    def _own_layouts(self) -> Mapping[int, tuple[str, ...]]:
        rows = [self.blocks, self.groups[self.architecture.main]] if self.architecture.main else [self.blocks]
        return {len(layout): layout for blocks in rows for layout in (blocks, ("BASE", *blocks))}

    def fill(self, length: int) -> str:
        """The value of labels that a vector of ``length`` values has none for: 0, or 1 where it has one for each block.
        """
        return "1" if length in self._own_layouts else "0"

    def expand(self, name: str) -> tuple[str, ...]:
        """The labels of a name in a layout: of ``BASE``, where it is a group, those of the text encoders."""
        return self.groups.get(name, (name,))

    def labels_in(self, layout: tuple[str, ...]) -> frozenset[str]:
        """The labels that a layout has values for."""
        return frozenset(label for name in layout for label in self.expand(name))

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The order in which all names that a layout may have stand."""
        return tuple(dict.fromkeys(("BASE", *self.vocabulary)))

    @cached_property
    def _names(self) -> dict[str, tuple[str, ...]]:
        """What :meth:`names_of` has answered."""
        return {}

    @cached_property
    def _module(self) -> re.Pattern[str]:
        return _module_pattern(self.labels_by_module)

    def names_of(self, layer: str) -> tuple[str, ...]:
        """The names that mean the block of a layer, the narrowest first: ``("IN04",)``, ``("CLIP_G", "BASE")``.

        Empty for a layer that no block claims (time_embed, label_emb, out). ``layer`` is the host's name, with
        underscores (``diffusion_model_input_blocks_4_1_...``) or with dots.
        """
        if layer not in self._names:
            self._names[layer] = self._find_names(layer)
        return self._names[layer]

    def _find_names(self, layer: str) -> tuple[str, ...]:
        layer = layer.replace(".", "_")
        if not layer.startswith("diffusion_model"):
            encoder = encoder_of(layer)
            return (encoder, "BASE") if self.of_encoders == ("BASE",) else ("T5" if encoder == "T5" else "CLIP",)
        match = self._module.match(layer)
        if match is None:
            return ()
        labels = self.labels_by_module[match[1]]
        index = int(match[2] or -1) if match[1] in self._rows else 0
        return (labels[index],) if 0 <= index < len(labels) else ()

    def block_of(self, layer: str) -> str | None:
        """The label of the block that a layer is in; None if no block claims it."""
        names = self.names_of(layer)
        return names[-1] if names else None

    def find(self, word: str) -> tuple[str, ...]:
        """The labels of a block or a group, or the name of a text encoder, in any case; none if it is unknown.

        A number may lack zeros, and stand behind the module's own name: ``D3``, ``double_blocks.3``. What only other
        models of the architecture have is found, too: :meth:`has` tells.
        """
        word = word.strip().upper()
        if word in self.groups:
            return self.groups[word]
        if word in self.vocabulary or (word in ENCODERS and self.of_encoders == ("BASE",)):
            return (word,)
        for module in self._rows:
            number = _NUMBER.fullmatch(word, len(module))
            if number is not None and word.startswith(module.upper()):
                return self._most_labels(module)[int(number[1]) : int(number[1]) + 1]
        prefix = word.rstrip("0123456789")
        label = f"{prefix}{int(word[len(prefix):] or 0):02d}" if len(word) - len(prefix) <= 3 else ""
        return (label,) if label in self.vocabulary else ()

    def _most_labels(self, module: str) -> tuple[str, ...]:
        """The label of each number of a row, with those of larger models where the numbers of this one go on."""
        rows = [part for part in self.architecture.parts if isinstance(part, Row) and part.module == module]
        labels = self.labels_by_module[module]
        return labels if len(rows) > 1 else labels + rows[0].labels(rows[0].most)[len(labels) :]

    def has(self, name: str) -> bool:
        """Whether such a model has what a name of :meth:`find` means."""
        return name in self.labels or name in self.single_encoders

    @cached_property
    def all_names(self) -> tuple[str, ...]:
        """What its blocks can be called, for messages."""
        encoders = self.single_encoders if len(self.single_encoders) > 1 else ()
        groups = [name for name, labels in self.groups.items() if set(labels) <= set(self.labels)]
        return (*label_ranges(self.labels, self.labels), *encoders, *groups)


_NUMBER = re.compile(r"[._]?(\d{1,3})")


def label_ranges(labels: Iterable[str], order: Sequence[str]) -> list[str]:
    """Labels in the order of ``order``, neighbours joined: IN04 IN05 OUT03 -> ``["IN04-IN05", "OUT03"]``."""
    wanted = set(labels)
    runs: list[list[str]] = []
    for previous, label in zip(("", *order), order, strict=False):
        if label not in wanted:
            continue
        if previous in wanted and _prefix(previous) == _prefix(label):
            runs[-1].append(label)
        else:
            runs.append([label])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _prefix(label: str) -> str:
    return label.rstrip("0123456789")


def _module_pattern(modules: Collection[str]) -> re.Pattern[str]:
    names = "|".join(sorted(modules, key=len, reverse=True))
    return re.compile(rf"diffusion_model_({names})(?:_(\d{{1,3}}))?(?=_|$)")


_MODULE = _module_pattern({name for each in _TABLE for name in (*each.modules, *each.identifying_modules)})


@lru_cache(maxsize=256)
def _family(architecture: Architecture, counts: tuple[int, ...], encoders: tuple[str, ...]) -> Family:
    titles = (name for name, published in architecture.models.items() if published == counts)
    return Family(next(titles, architecture.title), architecture, counts, encoders or architecture.encoders)


KNOWN = tuple(_family(each, counts, each.encoders) for each in _TABLE for counts in each.models.values())
"""The families of published models."""

ORIGINAL_LAYOUTS = {**_OF_STABLE_DIFFUSION, **_OF_FLUX}
"""The vectors that the original extension has: {how many values: the block of each}."""


def usual_layout(length: int) -> tuple[str, ...]:
    """The block of each of ``length`` values if no model says what they mean: as in the original, or as in all families
    that have such a vector; nothing if those differ."""
    found = {family.layouts[length] for family in KNOWN if length in family.layouts}
    return ORIGINAL_LAYOUTS.get(length, found.pop() if len(found) == 1 else ())


SD1, SDXL, FLUX = (next(family for family in KNOWN if family.title == title) for title in ("SD1/SD2", "SDXL", "Flux"))


def family_of_layers(layers: Iterable[str]) -> Family:
    """The family of the model that has these layers; SD1's if there are none."""
    layers = list(layers)
    counts: dict[str, int] = {}
    encoders = set()
    for layer in layers:
        layer = layer.replace(".", "_")
        if not layer.startswith("diffusion_model"):
            encoders.add(encoder_of(layer))
        elif match := _MODULE.match(layer.replace(".", "_")):
            counts[match[1]] = max(counts.get(match[1], 0), int(match[2] or 0) + 1)
    present = tuple(name for name in ENCODERS if name in encoders)
    fitting = [each for each in _TABLE if _fits(each, counts)]
    if fitting:  # SD2.1 unCLIP has the modules of SDXL's refiner
        candidates = (each for each in fitting if encoders & {*each.encoders, *each.other_encoders})
        architecture = next(candidates, fitting[0])
        found = tuple(counts.get(module, 0) for module in architecture.rows)
        return _family(architecture, _published(architecture) if architecture.is_unet else found, present)
    rows = _own_rows(layers)
    return _family(_own_architecture(rows), tuple(count for _, count in rows), present) if rows else SD1


def _fits(architecture: Architecture, counts: Mapping[str, int]) -> bool:
    if not all(module in counts for module in architecture.identifying_modules):
        return False
    found = (counts.get(module, 0) for module in architecture.rows)
    published = _published(architecture)
    return not architecture.is_unet or all(count <= most for count, most in zip(found, published, strict=True))


def _published(architecture: Architecture) -> tuple[int, ...]:
    return next(iter(architecture.models.values()))


@lru_cache(maxsize=64)
def _own_architecture(rows: tuple[tuple[str, int], ...]) -> Architecture:
    def prefix(module: str) -> str:
        """A name that ends with a number is kept apart from that of a block."""
        return f"{module.upper()}_" if module[-1].isdigit() else module.upper()

    return Architecture("unknown", tuple(Row(module, prefix(module), count) for module, count in rows), ())


_NUMBERED_LAYER = re.compile(r"diffusion_model_(.+?)_(\d{1,3})_(.+)")


def _own_rows(layers: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """The rows of blocks of a model that no entry knows: modules whose numbered parts have equal layers, and how many
    parts each has."""
    found: dict[str, dict[str, set[int]]] = {}
    for layer in layers:
        if match := _NUMBERED_LAYER.match(layer.replace(".", "_")):
            found.setdefault(match[1], {}).setdefault(match[3], set()).add(int(match[2]))
    return tuple(
        (module, 1 + max(number for numbers in parts.values() for number in numbers))
        for module, parts in found.items()
        if any(len(numbers) > 1 for numbers in parts.values())
    )


def is_text_encoder(layer: str) -> bool:
    """Whether the host weighs this layer with the text encoder's multiplier.

    AUTOMATIC1111 goes by a word in the name, which the last norm of an OpenCLIP encoder does not have; the Forge family
    by the part of the model.
    """
    if layer.startswith("diffusion_model"):
        return False
    return "transformer" in layer[:20] or not _OPEN_CLIP.match(layer)


_OPEN_CLIP = re.compile(r"(\d+_)?model_")
"""What names in an OpenCLIP encoder begin with on AUTOMATIC1111."""
