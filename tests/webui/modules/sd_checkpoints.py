"""The list of checkpoint files, and reading them. Extensions find all of this in `modules.sd_models`."""
from __future__ import annotations

import hashlib
import json
import os
import re
import sys

import safetensors.torch
import torch

from modules import devices, errors, hashes, paths, shared

model_dir = "Stable-diffusion"
model_path = os.path.abspath(os.path.join(paths.models_path, model_dir))
EXTENSIONS = (".ckpt", ".safetensors")
SD1_PREFIX_REPLACEMENTS = {
    "cond_stage_model.transformer.embeddings.": "cond_stage_model.transformer.text_model.embeddings.",
    "cond_stage_model.transformer.encoder.": "cond_stage_model.transformer.text_model.encoder.",
    "cond_stage_model.transformer.final_layer_norm.": "cond_stage_model.transformer.text_model.final_layer_norm.",
}

checkpoints_list: dict[str, CheckpointInfo] = {}
checkpoint_aliases: dict[str, CheckpointInfo] = {}
re_strip_checksum = re.compile(r"\s*\[[^]]+]\s*$")


class CheckpointInfo:
    """A checkpoint file, and every text by which a user may mean it (`ids`)."""

    def __init__(self, filename: str):
        self.filename = filename
        self.is_safetensors = filename.lower().endswith(".safetensors")
        self.metadata: dict = {}
        if self.is_safetensors:
            try:
                self.metadata = read_metadata_from_safetensors(filename)
            except Exception as e:
                errors.display(e, f"reading metadata of {filename}")

        self.name = name = self._name_below_model_folders()
        self.name_for_extra = os.path.splitext(os.path.basename(filename))[0]
        self.model_name = os.path.splitext(name.replace("/", "_").replace("\\", "_"))[0]
        self.hash = model_hash(filename)
        self.sha256 = hashes.sha256_from_cache(filename, f"checkpoint/{name}")
        self.shorthash = self.sha256[:10] if self.sha256 else None
        self.ids = [self.hash, self.model_name, name, self.name_for_extra, f"{name} [{self.hash}]"]
        self._name_by_hash()

    def _name_below_model_folders(self) -> str:
        path = os.path.abspath(self.filename)
        for folder in filter(None, (shared.cmd_opts.ckpt_dir, model_path)):
            below = os.path.abspath(folder) + os.sep
            if path.startswith(below):
                return path[len(below):]
        return os.path.basename(path)

    def _name_by_hash(self) -> None:
        """Set the titles, which carry the short hash as soon as it is known, and add it to the ids."""
        suffix = f" [{self.shorthash}]" if self.shorthash else ""
        self.title = self.name + suffix
        self.short_title = self.name_for_extra + suffix
        known = [self.title, self.short_title]
        if self.shorthash:
            known += [self.shorthash, self.sha256]
        self.ids += [x for x in known if x not in self.ids]

    def register(self) -> None:
        checkpoints_list[self.title] = self
        checkpoint_aliases.update(dict.fromkeys(self.ids, self))

    def calculate_shorthash(self) -> str | None:
        """Hash the file if that is not done yet; the title changes by it, but not the place in the list."""
        if shared.cmd_opts.no_hashing:
            return self.shorthash
        self.sha256 = hashes.sha256(self.filename, f"checkpoint/{self.name}")
        if self.shorthash == self.sha256[:10]:
            return self.shorthash
        self.shorthash = self.sha256[:10]
        self._name_by_hash()
        renamed = {(info.title if info is self else title): info for title, info in checkpoints_list.items()}
        checkpoints_list.clear()
        checkpoints_list.update(renamed)
        self.register()
        return self.shorthash


def checkpoint_tiles(use_short: bool = False) -> list[str]:
    return [x.short_title if use_short else x.title for x in checkpoints_list.values()]


def _checkpoint_files() -> list[str]:
    folders = [folder for folder in (model_path, shared.cmd_opts.ckpt_dir) if folder]
    found = (
        os.path.join(parent, name)
        for folder in folders
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.lower().endswith((".vae.ckpt", ".vae.safetensors"))
    )
    return sorted(dict.fromkeys(found), key=str.lower)


def list_models() -> None:
    """Look for checkpoint files anew; a file named by --ckpt is among them wherever it is."""
    first_time = not checkpoints_list
    checkpoints_list.clear()
    checkpoint_aliases.clear()
    named = shared.cmd_opts.ckpt
    for filename in dict.fromkeys([*([named] if named and os.path.exists(named) else []), *_checkpoint_files()]):
        CheckpointInfo(filename).register()
    if first_time:
        _choose_by_command_line()


def _choose_by_command_line() -> None:
    """--ckpt (a file or a title) and --model win over the checkpoint chosen in the settings."""
    wanted = shared.cmd_opts.ckpt
    if wanted and os.path.exists(wanted):
        wanted = os.path.splitext(os.path.basename(wanted))[0]
    elif not wanted and shared.cmd_opts.model != shared.parser.get_default("model"):
        wanted = f"demo-{shared.cmd_opts.model}"
    info = get_closet_checkpoint_match(wanted)
    if info is not None:
        shared.opts.data["sd_model_checkpoint"] = info.title
    elif wanted:
        print(f"There is no checkpoint {wanted}", file=sys.stderr)


def get_closet_checkpoint_match(search_string: str | None) -> CheckpointInfo | None:
    """The checkpoint that a text means: an id, else part of a title, else that without a "[hash]" at its end."""
    if not search_string:
        return None
    if search_string in checkpoint_aliases:
        return checkpoint_aliases[search_string]
    for text in (search_string, re_strip_checksum.sub("", search_string)):
        found = [info for info in checkpoints_list.values() if text in info.title]
        if found:
            return min(found, key=lambda info: len(info.title))
    return None


def select_checkpoint() -> CheckpointInfo:
    """The checkpoint chosen in the settings, or the first one there is.

    Raises:
        FileNotFoundError: there is no checkpoint at all.
    """
    chosen = shared.opts.sd_model_checkpoint
    if chosen in checkpoint_aliases:
        return checkpoint_aliases[chosen]
    if not checkpoints_list:
        folders = ", ".join(filter(None, (model_path, shared.cmd_opts.ckpt_dir)))
        raise FileNotFoundError(f"There is no .safetensors or .ckpt file in {folders}; make_demo.py writes some.")
    fallback = next(iter(checkpoints_list.values()))
    if chosen is not None:
        print(f"There is no checkpoint {chosen}; taking {fallback.title}", file=sys.stderr)
    return fallback


def model_hash(filename: str) -> str:
    """The short hash of old: of 64 KiB in the middle of the file, so different files may share it."""
    try:
        with open(filename, "rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    except FileNotFoundError:
        return "NOFILE"


def read_metadata_from_safetensors(filename: str) -> dict:
    """The header's metadata; values that are JSON objects come parsed."""
    with open(filename, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    if not header.startswith((b'{"', b"{'")):
        raise ValueError(f"{filename} is not a safetensors file")
    metadata = json.loads(header).get("__metadata__", {})
    for key, value in metadata.items():
        if isinstance(value, str) and value.startswith("{"):
            try:
                metadata[key] = json.loads(value)
            except ValueError:
                continue  # only looked like JSON
    return metadata


def read_state_dict(
    checkpoint_file: str, print_global_state: bool = False, map_location: str | None = None
) -> dict[str, torch.Tensor]:
    """Read a checkpoint or a network file; keys of old SD1 checkpoints are brought to their present names."""
    device = map_location or shared.weight_load_location or devices.get_optimal_device_name()
    if checkpoint_file.lower().endswith(".safetensors"):
        state_dict = safetensors.torch.load_file(checkpoint_file, device=str(device))
    else:
        state_dict = torch.load(checkpoint_file, map_location=device, weights_only=True)
    if print_global_state and "global_step" in state_dict:
        print(f"Global step: {state_dict['global_step']}")
    state_dict = state_dict.get("state_dict", state_dict)
    return {_present_key(key): value for key, value in state_dict.items()}


def _present_key(key: str) -> str:
    for old, new in SD1_PREFIX_REPLACEMENTS.items():
        if key.startswith(old):
            return new + key[len(old):]
    return key
