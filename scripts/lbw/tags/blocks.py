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


def block_range(text: str, *, either_way: bool = False) -> tuple[str, ...]:
    """``IN05-OUT05`` -> the labels from IN05 to OUT05, in the order of the family that has both; ``IN05`` -> that one.

    Raises:
        ValueError: a label is unknown, or the range runs backwards and shall not do so ``either_way``.
    """
    first, separator, last = text.partition("-")
    last = last if separator else first
    for family in Family:
        labels = labels_of(family)
        if first in labels and last in labels:
            start, stop = labels.index(first), labels.index(last)
            if start > stop and not either_way:
                raise ValueError(f"the range {text!r} runs backwards")
            return labels[min(start, stop) : max(start, stop) + 1]
    known = {label for family in Family for label in labels_of(family)}
    unknown = next((label for label in (first, last) if label and label not in known), text)
    raise ValueError(f"{unknown!r} is not a block")


def family_of_layout(length: int) -> Family:
    """The family whose models a vector of ``length`` values is for."""
    return Family.FLUX if length == 61 else Family.UNET


def family_of_layers(layers: Iterable[str]) -> Family:
    """The family of the model that these layer names come from."""
    return Family.FLUX if any("double_blocks" in layer or "single_blocks" in layer for layer in layers) else Family.UNET


_BLOCKS: dict[str, tuple[str, ...]] = {
    "input_blocks": _numbered("IN", range(12)),
    "middle_block": ("M00",),
    "output_blocks": _numbered("OUT", range(12)),
    "joint_blocks": (*_numbered("IN", range(12)), *_numbered("OUT", range(12))),
    "img_in": ("IN",),
    "txt_in": ("IN",),
    "time_in": ("IN",),
    "vector_in": ("IN",),
    "guidance_in": ("IN",),
    "double_blocks": _numbered("D", range(19)),
    "single_blocks": _numbered("S", range(38)),
    "final_layer": ("OUT",),
}
"""What modules below ``diffusion_model`` are called -> the label of each by its number, or one label for all of them.

The U-Nets of SD1, SD2, SDXL and SDXL's refiner, with inpainting and instruct-pix2pix, have the first three. SD3 has 24
joint blocks and neither input nor output: the first half counts as IN, the second as OUT. The others are Flux's.
"""

_BLOCK = re.compile(rf"diffusion_model[_.]({'|'.join(_BLOCKS)})(?:[_.](\d+))?")


def block_of(layer: str, family: Family = Family.UNET) -> str | None:
    """The label of the block that ``layer`` is in; None for a layer that no block claims (time_embed, label_emb, out).

    ``layer`` is the host's name, with underscores (``diffusion_model_input_blocks_4_1_...``) or with dots.
    """
    if "diffusion_model" not in layer:
        if family is Family.FLUX:
            return "T5" if "t5" in layer else "CLIP"
        return "BASE"
    match = _BLOCK.search(layer)
    if match is None:
        return None
    labels = _BLOCKS[match[1]]
    index = 0 if len(labels) == 1 else int(match[2] or -1)
    label = labels[index] if 0 <= index < len(labels) else None
    return label if label in labels_of(family) else None


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
