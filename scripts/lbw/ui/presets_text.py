"""Weights setting: the presets."""

from __future__ import annotations

from pathlib import Path

from lbw.tags.presets import DEFAULT_PRESETS, ORIGINAL_PRESETS, parse_joined_presets
from lbw.tags.weights import blocks_on
from lbw.ui.text_file import TextFile


def presets_in(path: Path) -> TextFile:
    return TextFile("lbw", path, DEFAULT_PRESETS, parse_joined_presets, _in_words, ORIGINAL_PRESETS)


def _in_words(preset: str) -> str:
    """What a preset turns on, by the last of its lines."""
    *others, last = preset.splitlines()
    return blocks_on(last) + (f"; {len(others)} more line{'s' * (len(others) > 1)}" if others else "")
