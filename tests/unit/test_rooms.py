"""Rooms: each imports only what is below it, and so does each file in a room."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

MAY_IMPORT = {
    "tags": [],
    "files": ["tags"],
    "plan": ["tags"],
    "plots": ["plan", "tags"],
    "engine": ["plan", "tags"],
    "pictures": ["engine", "plan", "tags"],
    "bake": ["engine", "plan", "files", "tags"],
    "request": ["bake", "pictures", "engine", "plots", "plan", "tags"],
    "generation": ["request", "engine", "plan", "files", "tags"],
    "ui": ["request", "bake", "pictures", "engine", "plots", "plan", "tags"],
    "hosts": ["generation", "request", "bake", "pictures", "engine", "plots", "plan", "files", "tags"],
    "lora_block_weight": ["hosts", "ui", "request"],
}
"""What each room may import, besides itself."""


def files() -> list[Path]:
    return [path for path in sorted(SCRIPTS.rglob("*.py")) if path != SCRIPTS / "lbw" / "__init__.py"]


def module_of(path: Path) -> str:
    parts = path.relative_to(SCRIPTS).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: Iterable[str]) -> set[str]:
    """Those of ``modules`` that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
            found |= inside or {node.module}
    return found & set(modules)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "lbw" else parts[0]


@cache
def arrows() -> Mapping[str, set[str]]:
    modules = {module_of(path) for path in files()}
    return {module_of(path): imports(path, modules) for path in files()}


def test_every_file_is_in_a_room():
    assert {room_of(module) for module in arrows()} == set(MAY_IMPORT)


def test_rooms_are_one_above_the_other():
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room: str):
    others = {
        f"{module} -> {imported}"
        for module, found in arrows().items() if room_of(module) == room
        for imported in found if room_of(imported) not in (room, *MAY_IMPORT[room])
    }  # fmt: skip
    assert not others


def test_no_two_files_import_each_other():
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


OF_A1111 = ["network_current_names", "network_weights_backup", "network_bias_backup", "fp16_weight"]


@pytest.mark.parametrize("name", OF_A1111)
def test_only_its_adapter_names_what_a_host_hangs_on_layers(name: str):
    assert {path.parent.name for path in files() if name in path.read_text()} == {"a1111"}
