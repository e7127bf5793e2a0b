"""Network files, as the built-in LoRA extensions of all families know them, and the networks that are made of them."""
from __future__ import annotations

import enum
from typing import Any

from modules import errors, hashes, sd_models, shared

METADATA_FIRST = (
    "ss_sd_model_name", "ss_resolution", "ss_clip_skip", "ss_num_train_images", "ss_tag_frequency",
)


class SdVersion(enum.Enum):
    Unknown = 1
    SD1 = 2
    SD2 = 3
    SDXL = 4


class NetworkOnDisk:
    """A network file. `alias` is the name that its author gave it, which users may write as well as the file's."""

    def __init__(self, name: str, filename: str):
        self.name = name
        self.filename = filename
        self.is_safetensors = filename.lower().endswith(".safetensors")
        self.metadata = self._read_metadata() if self.is_safetensors else {}
        self.alias: str = self.metadata.get("ss_output_name", name)
        self.hash = ""
        self.shorthash = ""
        known = self.metadata.get("sshs_model_hash")
        self.set_hash(known or hashes.sha256_from_cache(filename, f"lora/{name}", self.is_safetensors) or "")
        self.sd_version = self.detect_version()

    def _read_metadata(self) -> dict[str, Any]:
        """The file's metadata, with what people look for first in front."""
        try:
            metadata = sd_models.read_metadata_from_safetensors(self.filename)
        except Exception as e:
            errors.display(e, f"reading lora {self.filename}")
            return {}
        first = {key: metadata[key] for key in METADATA_FIRST if key in metadata}
        return first | metadata

    def detect_version(self) -> SdVersion:
        if str(self.metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
            return SdVersion.SDXL
        if str(self.metadata.get("ss_v2", "")) == "True":
            return SdVersion.SD2
        return SdVersion.SD1 if self.metadata else SdVersion.Unknown

    def set_hash(self, v: str) -> None:
        self.hash = v
        self.shorthash = v[:12]
        if self.shorthash:
            from modules.lora import lists

            lists.available_network_hash_lookup[self.shorthash] = self

    def read_hash(self) -> None:
        """Hash the file if that is not done yet and not forbidden."""
        if not self.hash and not shared.cmd_opts.no_hashing:
            self.set_hash(hashes.sha256(self.filename, f"lora/{self.name}", self.is_safetensors))

    def get_alias(self) -> str:
        """The name to write into a prompt: the alias where the settings want it and it means one file only."""
        from modules.lora import lists

        by_filename = shared.opts.lora_preferred_name == "Filename"
        return self.name if by_filename or self.alias.lower() in lists.forbidden_network_aliases else self.alias


class Network:
    """A network in memory, with the strengths that the current prompt gives it."""

    def __init__(self, name: str, network_on_disk: NetworkOnDisk):
        self.name = name
        self.network_on_disk = network_on_disk
        self.te_multiplier = 1.0
        self.unet_multiplier = 1.0
        self.dyn_dim: int | None = None
        self.modules: dict[str, Any] = {}
        self.bundle_embeddings: dict[str, Any] = {}
        self.mtime: float | None = None
        self.mentioned_name: str | None = None
