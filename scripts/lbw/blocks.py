"""Block tables: which labels a weight vector has, and to which block a layer of the model belongs.

Labels are those that users of block weights know: ``BASE`` is the text encoder (or encoders), ``IN``, ``M`` and ``OUT``
are the U-Net's input, middle and output blocks; Flux has ``CLIP``, ``T5``, ``IN``, ``D`` (double), ``S`` (single) and
``OUT``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum


def _numbered(prefix: str, indices: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{prefix}{i:02d}" for i in indices)


class Family(Enum):
    """The two vocabularies of block labels."""

    UNET = "Stable Diffusion"
    FLUX = "Flux"


UNET_LABELS = ("BASE", *_numbered("IN", range(12)), "M00", *_numbered("OUT", range(12)))
FLUX_LABELS = ("CLIP", "T5", "IN", *_numbered("D", range(19)), *_numbered("S", range(38)), "OUT")

LAYOUTS: dict[int, tuple[str, ...]] = {
    12: ("BASE", *_numbered("IN", (4, 5, 7, 8)), "M00", *_numbered("OUT", range(6))),
    17: ("BASE", *_numbered("IN", (1, 2, 4, 5, 7, 8)), "M00", *_numbered("OUT", range(3, 12))),
    20: ("BASE", *_numbered("IN", range(9)), "M00", *_numbered("OUT", range(9))),
    26: UNET_LABELS,
    61: FLUX_LABELS,
}
"""Number of values in a vector -> the label of each value."""

SDXL_LABELS = LAYOUTS[20]
"""The blocks that an SDXL U-Net really has."""


def labels_of(family: Family) -> tuple[str, ...]:
    """All labels of a family, in the order in which ranges such as ``IN05-OUT05`` count."""
    return FLUX_LABELS if family is Family.FLUX else UNET_LABELS


def label_ranges(labels: Iterable[str], order: Sequence[str]) -> list[str]:
    """Labels in the order of ``order``, neighbours joined: IN04 IN05 OUT03 -> ``["IN04-IN05", "OUT03"]``."""
    wanted = set(labels)
    runs: list[list[str]] = []
    for previous, label in zip(("", *order), order, strict=False):
        if label not in wanted:
            continue
        if previous in wanted and _kind(previous) == _kind(label):
            runs[-1].append(label)
        else:
            runs.append([label])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _kind(label: str) -> str:
    return label.rstrip("0123456789")


def family_of_layout(length: int) -> Family:
    """The family whose models a vector of ``length`` values is for."""
    return Family.FLUX if length == 61 else Family.UNET


def family_of_layers(layers: Iterable[str]) -> Family:
    """The family of the model that these layer names come from."""
    return Family.FLUX if any("double_blocks" in layer or "single_blocks" in layer for layer in layers) else Family.UNET


_SEPARATOR = r"[_.]"
_NUMBERED_BLOCK = re.compile(
    rf"diffusion_model{_SEPARATOR}(input_blocks|output_blocks|joint_blocks|double_blocks|single_blocks){_SEPARATOR}(\d+)"
)
_PREFIXES = {"input_blocks": "IN", "output_blocks": "OUT", "double_blocks": "D", "single_blocks": "S"}
_NAMED_BLOCK = re.compile(
    rf"diffusion_model{_SEPARATOR}(middle_block|img_in|txt_in|time_in|vector_in|guidance_in|final_layer)"
)
_NAMED_LABELS = {"middle_block": "M00", "final_layer": "OUT"}


def _joint_block_label(index: int) -> str | None:
    """SD3 has 24 joint blocks and neither input nor output: the first half counts as IN, the second as OUT."""
    if index < 12:
        return f"IN{index:02d}"
    return f"OUT{index - 12:02d}" if index < 24 else None


def block_of(layer: str, family: Family = Family.UNET) -> str | None:
    """The label of the block that ``layer`` is in; None for a layer that no block claims (time_embed, label_emb, out).

    ``layer`` is the host's name, with underscores (``diffusion_model_input_blocks_4_1_...``) or with dots.
    """
    if "diffusion_model" not in layer:
        if family is Family.FLUX:
            return "T5" if "t5" in layer else "CLIP"
        return "BASE"
    if match := _NUMBERED_BLOCK.search(layer):
        kind, index = match[1], int(match[2])
        label = _joint_block_label(index) if kind == "joint_blocks" else f"{_PREFIXES[kind]}{index:02d}"
        return label if label in labels_of(family) else None
    if match := _NAMED_BLOCK.search(layer):
        return _NAMED_LABELS.get(match[1], "IN")
    return None


def is_text_encoder(layer: str) -> bool:
    """Whether the host weighs this layer with the text encoder's multiplier; the rule is the host's own."""
    return "transformer" in layer[:20]
