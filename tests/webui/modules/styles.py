"""Prompt styles: named texts, read from a CSV file, that a generation may add to its prompts."""

from __future__ import annotations

import csv
import os
from typing import NamedTuple


class PromptStyle(NamedTuple):
    name: str
    prompt: str = ""
    negative_prompt: str = ""
    path: str | None = None


def _merged(style_text: str, prompt: str) -> str:
    if "{prompt}" in style_text:
        return style_text.replace("{prompt}", prompt)
    return ", ".join(part for part in (prompt.strip(), style_text.strip()) if part)


class StyleDatabase:
    def __init__(self, paths: list[str]):
        self.paths = paths
        self.styles: dict[str, PromptStyle] = {}
        self.reload()

    def reload(self) -> None:
        self.styles.clear()
        for path in self.paths:
            if os.path.isfile(path):
                with open(path, encoding="utf-8-sig", newline="") as file:
                    for row in csv.DictReader(file):
                        texts = [row.get(field) or "" for field in ("prompt", "negative_prompt")]
                        self.styles[row["name"]] = PromptStyle(row["name"], *texts, path)

    def _known(self, names: list[str]) -> list[PromptStyle]:
        return [self.styles[name] for name in names if name in self.styles]

    def apply_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        for style in self._known(styles):
            prompt = _merged(style.prompt, prompt)
        return prompt

    def apply_negative_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        for style in self._known(styles):
            prompt = _merged(style.negative_prompt, prompt)
        return prompt
