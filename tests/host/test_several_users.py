"""Several users at one server. What the process keeps, who shares it, and where else that is tested:

=================================================  ====================================  ==============================
What                                               Whose                                 Tested in
=================================================  ====================================  ==============================
a session, its plan, warnings, summary, hand;      one generation's                      test_isolation, test_http,
notes, comments, played prompts, plot                                                    test_copied_requests, test_live
presets and rules that a request brings            one request's                         test_http
preset files, LoRAs' own defaults                  all users': the server's files        here, test_saving
generations under way (``under_way``),             all users', found by the id of a      test_live, test_live_routes
the last 8 that are over (``tasks``)               task alone
engine, records and pages of layers, parts,        all users', in the host's queue       test_isolation,
the host's caches of encoded prompts               alone                                 test_model_switch, here
functions of the host that are stood in for,       all users', in the host's queue       test_isolation, test_forge,
the host's settings that a request puts in force   alone; but see ``parse`` below        test_older_hosts, here
lists of LoRA files                                all users'; never seen half made      here
norms of the model's weights, keys and origins     all users', by model and state of a   test_strengths,
of files                                           file, in the host's queue alone       test_file_origin
the queue of bakings, at most 8 waiting            all users', in the order of asking    test_bake_jobs, test_bake_http
a baking, its secret, its file                     its user's; 2 files of all users stay test_bake_jobs
readings of texts, families, curves (lru_cache)    all users', by all that they are of;  here
                                                   nobody can change one
fonts, compiled kernels, pinned memory             all users'; made once, under locks    the crowd below, test_kernels
=================================================  ====================================  ==============================

``parse`` and the panel's looks wait for nobody: they see the settings and the model that are in force now, also those
of a request under way, and tell nothing of what is in files while an image is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from lbw.tags import presets, saving
from tests.endurance.several_users import QUICK_CLIENTS, QUICK_S, Report, crowd
from tests.host.conftest import Bench
from tests.host.measure import copy_weights, forget_conditioning
from tests.host.test_bake import bake
from tests.server import Server

PLAIN = "a red cat <lora:t_half:1>"
SCHEDULED = "a red cat <lora:t_half:1:lbw=OUTALL:stop=4>"
STEPS = 2
A_MOMENT_S = 0.5


@pytest.mark.skipif(bool(os.environ.get("WEBUI_ROOT")), reason="it asks for models that the small WebUI has")
def test_in_a_crowd_each_gets_what_its_request_gives_alone(server: Server):
    report = Report(os.environ.get("WEBUI_FAMILY", "a1111"), QUICK_CLIENTS, seed=1)
    crowd(server, report, QUICK_S, is_quick=True)
    assert report.faults == []
    assert sum(sum(counts.values()) for counts in report.counts.values()) >= QUICK_CLIENTS


def made_with(bench: Bench, args: list[Any] | None = None) -> dict[str, Tensor]:
    """What the model is evaluated with last: its weights, and the encoded prompt."""
    found: dict[str, Tensor] = {}

    def take(params: Any) -> None:
        found.update(copy_weights(bench.layers()))
        found["prompt"] = params.text_cond.clone()

    with bench.webui.observing(take, before=True):
        bench.webui.generate(args, prompt=PLAIN, steps=STEPS)
    assert found  # the host only writes to its console what is raised there
    return found


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if not one[name].equal(other[name])]


@pytest.mark.parametrize("way", ["by the host", "off", "ours"])
def test_to_the_last_bit_it_is_of_no_account_who_came_before(
    bench: Bench, option: Callable[..., None], way: str
):
    """What the host puts into weights and what we do is rounded in two ways, where a file's numbers have 16 bits."""
    stored = load_file(bench.webui.lora_folder / "t_locon.safetensors")
    save_file({name: value.half() for name, value in stored.items()}, bench.webui.lora_folder / "t_half.safetensors")
    off = ["", False]

    def made() -> dict[str, Tensor]:
        option(lbw_plain_loras=way != "by the host")
        return made_with(bench, off if way == "off" else None)

    bench.webui.generate(prompt=SCHEDULED, steps=1)
    forget_conditioning(bench.webui)
    wanted = made()
    for others, args in ((True, None), (True, off), (False, None)):
        option(lbw_plain_loras=others)
        bench.webui.generate(args, prompt=SCHEDULED, steps=1)
        bench.webui.generate(args, prompt=PLAIN, steps=STEPS)
        assert differing(made(), wanted) == []


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def is_waiting(future: Future) -> bool:
    return not wait([future], A_MOMENT_S).done


def test_what_is_baked_while_others_make_images_is_what_is_baked_alone(
    bench: Bench, option: Callable[..., None], pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Others' settings are in force then, files cannot be looked into, and for a moment there is no model."""
    from modules import sd_models
    from modules.call_queue import queue_lock

    half = ",".join(["0.5"] * 17)
    prompt = f"<lora:t_locon:1:lbw={half}> [<lora:t_lora:1>:<lora:t_lora2:1>:0.5]"
    alone = bake(tmp_path / "alone.safetensors", prompt)
    assert "values have none for" in alone.messages[0] and "a file has no schedule" in alone.messages[1]
    with queue_lock:
        option(lbw_prompt_editing=False)
        with monkeypatch.context() as changing:
            changing.setattr(sd_models.model_data, "sd_model", None)
            baking = pool.submit(bake, tmp_path / "beside.safetensors", prompt)
            assert is_waiting(baking)
        option(lbw_prompt_editing=True)
    assert baking.result().messages == alone.messages
    assert (tmp_path / "beside.safetensors").read_bytes() == (tmp_path / "alone.safetensors").read_bytes()


def test_a_model_that_goes_while_it_is_looked_at_is_none(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    from lbw.hosts.backend import Backend
    from lbw.hosts.serving import adapter
    from modules import sd_models

    with monkeypatch.context() as changing:
        changing.setattr(adapter, "is_loaded", lambda: True)  # as it was a moment ago
        changing.setattr(sd_models.model_data, "sd_model", None)
        assert Backend().layer_names() == ()


def test_while_files_are_looked_for_none_is_missing(bench: Bench, pool: ThreadPoolExecutor, monkeypatch):
    from lbw.hosts.backend import Backend

    networks, begun, go_on = bench.webui.networks, Event(), Event()
    look = networks.list_available_networks

    def look_slowly() -> None:
        kept = [(names, dict(names)) for names in (networks.available_networks, networks.available_network_aliases)]
        for names, _before in kept:
            names.clear()
        begun.set()
        go_on.wait(60)
        for names, before in kept:
            names.update(before)
        look()

    Backend().network_names(renewed=True)
    monkeypatch.setattr(networks, "list_available_networks", look_slowly)
    looking = pool.submit(Backend().network_names, renewed=True)
    assert begun.wait(60)
    asking = pool.submit(Backend().own_default, "t_lora")
    wait([asking], A_MOMENT_S)
    go_on.set()
    assert asking.result() == ""
    assert "t_lora" in looking.result()


def test_what_is_saved_while_a_file_is_made_with_the_defaults_stays(
    pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, begun, saved = tmp_path / "presets.txt", Event(), Event()
    write = presets.write_atomically

    def write_slowly(*args: Any) -> None:
        begun.set()
        saved.wait(A_MOMENT_S)
        write(*args)

    monkeypatch.setattr(presets, "write_atomically", write_slowly)
    making = pool.submit(presets.read_or_create, path, "A:0\n")
    assert begun.wait(60)
    saving.save(path, "A:0\n", "MINE:1\n", saving.version_of("A:0\n"), presets.parse_presets)
    saved.set()
    making.result()
    assert path.read_text() == "MINE:1\n"


def test_nobody_can_change_what_others_read():
    """Readings of texts are kept for whoever has the same text."""
    text, rules = "MINE:" + ",".join(["1"] * 17), "MINE:OUT03:attn:0"
    for found in (presets.parse_presets(text)[0], presets.unusable_lines(text), presets.parse_rule_sets(rules)[0]):
        found.clear()
        found["YOURS"] = "0"
    assert [*presets.parse_presets(text)[0]] == [*presets.parse_rule_sets(rules)[0]] == ["MINE"]
    assert presets.unusable_lines(text) == {}
