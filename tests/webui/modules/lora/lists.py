"""Which network files there are, and which one a name means."""
from __future__ import annotations

import os

from modules import errors, paths, shared, util
from modules.lora.files import NetworkOnDisk

NETWORK_FILES = (".pt", ".ckpt", ".safetensors")

available_networks: dict[str, NetworkOnDisk] = {}
available_network_aliases: dict[str, NetworkOnDisk] = {}
available_network_hash_lookup: dict[str, NetworkOnDisk] = {}
forbidden_network_aliases: dict[str, int] = {}


def file_by_name(name: str) -> NetworkOnDisk | None:
    """The file that a name or an alias means; an alias that several files share means none."""
    return (available_networks if name.lower() in forbidden_network_aliases else available_network_aliases).get(name)


def _list_file(file: NetworkOnDisk) -> None:
    """Enter a file under its name and its alias; an alias that stands already is one that no prompt may use."""
    if file.alias in available_network_aliases:
        forbidden_network_aliases[file.alias.lower()] = 1
    available_networks[file.name] = file
    available_network_aliases.update({file.name: file, file.alias: file})


def process_network_files(names: list[str] | None = None) -> None:
    """Enter the files in the network folders into the lists; with `names`, only those of these names."""
    for folder in (shared.cmd_opts.lora_dir, shared.cmd_opts.lyco_dir_backcompat):
        for filename in util.walk_files(folder, allowed_extensions=NETWORK_FILES):
            name = os.path.splitext(os.path.basename(filename))[0]
            if os.path.isdir(filename) or (names and name not in names):
                continue
            try:
                _list_file(NetworkOnDisk(name, filename))
            except OSError:
                errors.report(f"Cannot read network {name} from {filename}", exc_info=True)


def list_available_networks() -> None:
    """Look for network files anew."""
    for known in (
        available_networks, available_network_aliases, available_network_hash_lookup, forbidden_network_aliases
    ):
        known.clear()
    forbidden_network_aliases["none"] = 1  # the word in menus for "no network"
    os.makedirs(shared.cmd_opts.lora_dir, exist_ok=True)
    process_network_files()


def files_by_names(names: list[str]) -> list[NetworkOnDisk | None]:
    """As `file_by_name`; looks for new files where a name is unknown, first by the name, then for all."""
    unknown = [name for name in names if file_by_name(name) is None]
    if unknown:
        process_network_files(unknown)
    if any(file_by_name(name) is None for name in names):
        list_available_networks()
    return [file_by_name(name) for name in names]


shared.cmd_opts.lora_dir = shared.cmd_opts.lora_dir or os.path.join(paths.models_path, "Lora")
shared.cmd_opts.lyco_dir_backcompat = shared.cmd_opts.lyco_dir_backcompat or os.path.join(paths.models_path, "LyCORIS")
