"""A backend without a host: what the API and the panel ask is answered of a model that is nothing but names of layers.

It needs no torch, so it also serves the page of gradio 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lbw.engine.strengths import Norms, Part, Strengths, UnknownNetworkError
from lbw.request.live import Job, Key
from lbw.tags.elements import element_of
from lbw.tags.families import family_of_layers
from lbw.tags.presence import Presence, Reckoning
from lbw.tags.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS
from lbw.tags.prompt import Warn


@dataclass(frozen=True)
class Backend:
    """A model with ``layers`` and one network, which has a part in each of them."""

    layers: Sequence[str]
    own_defaults: dict[str, str] = field(default_factory=lambda: {"demo": ""})

    def preset_text(self) -> str:
        return DEFAULT_PRESETS

    def rule_set_text(self) -> str:
        return DEFAULT_RULE_SETS

    def layer_names(self) -> tuple[str, ...]:
        return tuple(self.layers)

    def tags(self, text: str, reckoning: Reckoning, warn: Warn) -> list[tuple[list[str], Presence | None]]:
        """A tag is in brackets of one form only, ``[|<lora:...>]``: there from the second evaluation on, and back."""
        in_turn = Presence(tuple(range(1, reckoning.first + 1)), (False, True) * (reckoning.first // 2))
        return [
            (body.split(":"), in_turn if start else None)
            for start, body in re.findall(r"(\[\|)?<lora:([^>]+)>", text)
        ]

    def evaluations(self, sampler: str, steps: int) -> int:
        return 2 * steps if sampler == "Heun" else steps

    def steps_from_image(self, steps: int, denoising_strength: float) -> int:
        return max(round(steps * denoising_strength), 1)

    def network_names(self, *, renewed: bool) -> list[str]:
        return ["demo"]

    def changed_layers(self, name: str) -> tuple[str, ...] | None:
        return self.layer_names()

    def strengths(self, name: str) -> Strengths:
        family = family_of_layers(self.layers)
        parts = tuple(
            Part(layer, family.block_of(layer), element_of(layer), Norms(1, 1.0 + number, 50.0))
            for number, layer in enumerate(self.layers)
        )
        return Strengths(name, tuple(dict.fromkeys(part.block for part in parts if part.block)), parts)

    def own_default(self, name: str) -> str:
        if name not in self.own_defaults:
            raise UnknownNetworkError(f"no LoRA is called {name!r}")
        return self.own_defaults[name]

    def set_own_default(self, name: str, weights: str) -> None:
        self.own_defaults[name] = weights

    def job(self, task: str) -> Job | None:
        return None

    def play(self, task: str, strengths: Mapping[Key, float]) -> bool:
        return False
