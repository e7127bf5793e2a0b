"""The defaults that LoRAs have of their own, on the host."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lbw.engine.strengths import UnknownNetworkError
from lbw.ui.own_default import own_html
from tests.host.conftest import Bench


@pytest.fixture
def backend(bench: Bench) -> Any:
    from lbw.hosts.backend import Backend  # can be imported once a host runs

    backend = Backend()
    backend.network_names(renewed=True)
    return backend


@pytest.fixture
def file(backend: Any, bench: Bench) -> Iterator[Path]:
    path = Path(bench.webui.networks.available_networks["t_lora"].filename).with_suffix(".json")
    yield path
    path.unlink(missing_ok=True)


def test_a_default_is_in_the_file_beside_the_lora(backend: Any, file: Path):
    assert backend.own_default("t_lora") == ""
    file.write_text('{"additional weight": "OUTD:stop=5"}')
    assert backend.own_default("t_lora") == "OUTD:stop=5"
    backend.set_own_default("t_lora", "INS")
    assert json.loads(file.read_text()) == {"additional weight": "INS"}


@pytest.mark.parametrize("name", ["nope", "", "../t_lora", "t_lora.safetensors", "/etc/passwd", "x" * 500])
def test_only_what_the_host_lists_leads_to_a_file(backend: Any, name: str):
    with pytest.raises(UnknownNetworkError, match="no LoRA is called"):
        backend.own_default(name)
    with pytest.raises(UnknownNetworkError, match="no LoRA is called"):
        backend.set_own_default(name, "INS")


def test_a_name_is_not_looked_for_among_the_files(backend: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch):
    looked: list[Any] = []
    for name in ("list_available_networks", "update_available_networks_by_names"):
        monkeypatch.setattr(bench.webui.networks, name, lambda *names: looked.append(names), raising=False)
    with pytest.raises(UnknownNetworkError):
        backend.own_default("nope")
    assert looked == []


def test_the_hosts_editor_does_not_bring_the_old_default_back(
    backend: Any, file: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    """It writes what its page of cards remembers of a file."""
    filename = bench.webui.networks.available_networks["t_lora"].filename
    other = {"filename": "/loras/other.safetensors", "user_metadata": {"notes": "other"}}
    item = {"filename": filename, "user_metadata": {"notes": "mine"}}
    entered: list[str] = []
    pages = [
        SimpleNamespace(items={"t_lora": item, "other": other, "none": {}},
                        lister=SimpleNamespace(update_file_entry=entered.append)),
        SimpleNamespace(items={}),
    ]
    module = ModuleType("modules.ui_extra_networks")
    module.extra_pages = pages  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules.ui_extra_networks", module)
    file.write_text('{"notes": "mine"}')
    backend.set_own_default("t_lora", "INS")
    assert item["user_metadata"] == {"notes": "mine", "additional weight": "INS"}
    assert other["user_metadata"] == {"notes": "other"}
    assert entered == [str(file)]


def test_the_panel_offers_what_can_be_done(backend: Any, file: Path):
    def offered(in_tag: str) -> list[str]:
        html = own_html("t_lora", in_tag, backend)
        return [key for key in ("put", "save", "remove") if f'data-own="{key}"' in html]

    assert offered("") == []
    assert offered("INS") == ["save"]
    backend.set_own_default("t_lora", "OUTD")
    assert offered("") == ["put", "remove"]
    assert offered("INS") == ["put", "save", "remove"]
    assert offered("OUTD") == ["remove"]
    assert "data-own" not in own_html("nope", "INS", backend)
    html = own_html('<b>"', "INS", backend)
    assert "<b>" not in html and "&lt;b&gt;&quot;" in html


def test_the_pages_words_are_no_markup(backend: Any, file: Path):
    file.write_text('{"additional weight": "\\"&amp;"}')
    assert "lbw=&quot;&amp;amp;" in own_html("t_lora", "", backend)
