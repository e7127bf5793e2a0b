"""SHA-256 of model files, remembered in the data folder's cache.json for as long as a file's time stays the same."""
from __future__ import annotations

import hashlib
import json
import os
import threading
from typing import BinaryIO

from modules.paths_internal import data_path

cache_filename = os.path.join(data_path, "cache.json")
_lock = threading.Lock()
_tables: dict[str, dict[str, dict]] | None = None


def _table(use_addnet_hash: bool) -> dict[str, dict]:
    """The remembered hashes of one kind, by title."""
    global _tables
    if _tables is None:
        try:
            with open(cache_filename, encoding="utf8") as file:
                _tables = json.load(file)
        except (OSError, ValueError):
            _tables = {}
    return _tables.setdefault("hashes-addnet" if use_addnet_hash else "hashes", {})


def _save() -> None:
    os.makedirs(os.path.dirname(cache_filename), exist_ok=True)
    temporary = f"{cache_filename}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf8") as file:
        json.dump(_tables, file, indent=4)
    os.replace(temporary, cache_filename)


def _digest(file: BinaryIO, use_addnet_hash: bool) -> str:
    """Hash a file; the "addnet" kind leaves out a .safetensors file's header, so editing metadata changes nothing."""
    if use_addnet_hash:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sha256_from_cache(filename: str, title: str, use_addnet_hash: bool = False) -> str | None:
    """The remembered hash, or None where there is none or the file is newer."""
    entry = _table(use_addnet_hash).get(title)
    if entry is None or not os.path.exists(filename) or os.path.getmtime(filename) > entry["mtime"]:
        return None
    return entry["sha256"]


def sha256(filename: str, title: str, use_addnet_hash: bool = False) -> str:
    """The hash of a file, computed where it is not remembered."""
    with _lock:
        remembered = sha256_from_cache(filename, title, use_addnet_hash)
        if remembered is not None:
            return remembered
        with open(filename, "rb") as file:
            value = _digest(file, use_addnet_hash)
        _table(use_addnet_hash)[title] = {"mtime": os.path.getmtime(filename), "sha256": value}
        _save()
        return value
