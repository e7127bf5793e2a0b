"""What the API asks of the host."""

from __future__ import annotations

from lbw.hosts.a1111 import preset_files
from lbw.hosts.a1111.model import host
from lbw.hosts.a1111.tags import lora_tags
from modules import extra_networks, sd_models


class Backend:
    """The :class:`lbw.routes.Backend` protocol: what the API asks of the host. Nothing here loads a model."""

    def preset_text(self) -> str:
        return preset_files.preset_text()

    def rule_set_text(self) -> str:
        return preset_files.rule_set_text()

    def layer_names(self) -> tuple[str, ...]:
        return tuple(host.layers()) if self._is_loaded() else ()

    def is_sdxl(self) -> bool:
        return self._is_loaded() and host.is_sdxl()

    def tags(self, text: str) -> list[list[str]]:
        # Without a closing bracket behind it, each opening one would be searched to the end of the text.
        _, found = extra_networks.parse_prompt(text[: text.rfind(">") + 1])
        return [params.items for params in lora_tags(found)]

    @staticmethod
    def _is_loaded() -> bool:
        return sd_models.model_data.sd_model is not None
