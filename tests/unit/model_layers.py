"""The layer names of real models, as the hosts have them. Where they are from stands in tests/data/model_layers.md."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data"

ENCODERS = {
    "anima": ("qwen3_06b",),
    "chroma": ("t5xxl",),
    "flux1_dev": ("clip_l", "t5xxl"),
    "flux1_schnell": ("clip_l", "t5xxl"),
    "flux2_dev": (),
    "flux2_klein_4b": ("qwen3_4b",),
    "flux2_klein_9b": ("qwen3_8b",),
    "lumina2": ("gemma2",),
    "qwen_image": ("qwen25_7b",),
    "sd1": ("clip_l",),
    "sd2": ("clip_h",),
    "sd35_large": ("clip_l", "clip_g", "t5xxl"),
    "sd35_medium": ("clip_l", "clip_g", "t5xxl"),
    "sd3_medium": ("clip_l", "clip_g", "t5xxl"),
    "sdxl": ("clip_l", "clip_g"),
    "sdxl_refiner": ("clip_g",),
    "wan21_i2v_14b": ("umt5xxl",),
    "wan21_t2v_14b": ("umt5xxl",),
    "wan21_t2v_1_3b": ("umt5xxl",),
    "wan22_i2v_14b": ("umt5xxl",),
    "wan22_t2v_14b": ("umt5xxl",),
    "wan22_ti2v_5b": ("umt5xxl",),
    "zimage": ("qwen3_4b",),
}
"""{model: the files of its text encoders}."""


@cache
def _recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "model_layers.json").read_text())
    return found


def _layers(name: str) -> list[str]:
    entry = _recorded()[name]
    entry = _recorded()[entry["as"]] if "as" in entry else entry
    in_blocks = [
        f"{stem}.{number}.{suffix}".rstrip(".")
        for stem, runs in entry["blocks"].items()
        for first, last, suffixes in runs
        for number in range(first, last + 1)
        for suffix in suffixes
    ]
    return [layer.replace(".", "_") for layer in (*in_blocks, *entry["others"])]


@cache
def layers_of(model: str) -> tuple[str, ...]:
    """All layers of a model and its text encoders, with underscores."""
    names = [model, *(f"te_{encoder}" for encoder in ENCODERS[model])]
    return tuple(layer for name in names for layer in _layers(name))
