"""What the API and the panel ask of the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from typing import Any, BinaryIO

from lbw.engine.strengths import Strengths
from lbw.hosts import live, lora_folder, network_files, noise, own_defaults, preset_files, prompt_editing
from lbw.hosts.bake_host import BakeHost
from lbw.hosts.serving import adapter
from lbw.hosts.settings import PROMPT_EDITING, setting
from lbw.hosts.tags import adopt_alias, lora_tags, note_places, presences_of
from lbw.request.live import Job, Key
from lbw.tags.limits import MOST_TAGS
from lbw.tags.presence import Presence, Reckoning
from lbw.tags.prompt import Warn
from modules import extra_networks
from modules.call_queue import queue_lock


class Backend:
    """The protocol of :mod:`lbw.request.preview`: what API and panel ask of the host. Nothing here loads a model."""

    def preset_text(self) -> str:
        return preset_files.preset_text()

    def rule_set_text(self) -> str:
        return preset_files.rule_set_text()

    def layer_names(self) -> tuple[str, ...]:
        return tuple(adapter.layers()) if adapter.is_loaded() else ()

    def tags(self, text: str, reckoning: Reckoning, warn: Warn) -> list[tuple[list[str], Presence | None]]:
        # Without a closing bracket behind it, each opening one would be searched to the end of the text.
        _, found = extra_networks.parse_prompt(text[: text.rfind(">") + 1])
        note_places(text, found)
        adopt_alias(found)
        tags = lora_tags(found)
        counted = tags[:MOST_TAGS] if setting(PROMPT_EDITING) else []
        presences = presences_of(counted, lambda: reckoning, warn)
        return [*zip_longest([params.items for params in tags], presences)]

    def evaluations(self, sampler: str, steps: int) -> int:
        return prompt_editing.evaluations(sampler, steps)

    def steps_from_image(self, steps: int, denoising_strength: float) -> int:
        return noise.steps_from_image(steps, denoising_strength)

    def network_names(self, *, renewed: bool) -> list[str]:
        return adapter.network_names(renewed=renewed)

    def changed_layers(self, name: str) -> tuple[str, ...] | None:
        return network_files.changed_layers(name)

    def strengths(self, name: str) -> Strengths:
        return network_files.measure(name)

    @contextmanager
    def turn(self) -> Iterator[Backend]:
        with queue_lock:
            yield _InTurn()

    def bake_host(self) -> BakeHost:
        return BakeHost()

    def network_file(self, name: str) -> tuple[Any, str]:
        with queue_lock:
            file = adapter.network_file(name)
        return file, file.filename

    def keeping_obstacle(self) -> str:
        return lora_folder.obstacle()

    def is_free(self, name: str) -> bool:
        return lora_folder.is_free(name)

    def new_network(self, name: str, size: int) -> AbstractContextManager[BinaryIO]:
        return lora_folder.new_network(name, size)

    def list_network(self, name: str, sources: Sequence[str], with_words: bool) -> list[str]:
        return lora_folder.list_network(name, sources, with_words)

    def own_default(self, name: str) -> str:
        return own_defaults.get(name)

    def set_own_default(self, name: str, weights: str) -> None:
        own_defaults.put(name, weights)

    def job(self, task: str) -> Job | None:
        return live.job(task)

    def play(self, task: str, strengths: Mapping[Key, float]) -> bool:
        return live.play(task, strengths)


class _InTurn(Backend):
    """While no image is made, as its maker sees to."""

    def changed_layers(self, name: str) -> tuple[str, ...] | None:
        return network_files.changed_layers_in_turn(name)
