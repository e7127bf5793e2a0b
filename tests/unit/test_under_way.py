"""Generations that failed without a word are over."""

from __future__ import annotations

from pathlib import Path

from lbw.hosts.forge.networks import Loading
from tests.unit.test_forge import HostModule


def test_a_host_whose_generation_of_ours_is_over_gets_its_functions_back_with_what_it_loads_next(tmp_path: Path):
    host, over = HostModule(tmp_path, by_file=True, of_parts=True), [False]
    loading = Loading(host, lambda: setattr(host, "last", None), is_over=lambda: over[0])
    loading.begin()
    host.load_networks(["a"], [1.0], [1.0])
    assert host.merged == [host.unet, host.clip] and len(loading.networks) == 1
    over[0] = True
    host.load_networks(["a"], [0.5], [0.5])
    assert host.merged[0] is not host.unet, "the host has merged it by itself"
    assert loading.networks == [] and host.load_networks.__func__ is HostModule.load_networks


def test_a_host_whose_function_somebody_else_has_wrapped_meanwhile_loads_by_its_own(tmp_path: Path):
    host, over = HostModule(tmp_path, by_file=True, of_parts=True), [False]
    loading = Loading(host, lambda: setattr(host, "last", None), is_over=lambda: over[0])
    loading.begin()
    ours = host.load_networks
    host.load_networks = lambda *args: ours(*args)  # type: ignore[method-assign]
    over[0] = True
    host.load_networks(["a"], [0.5], [0.5])
    assert host.merged[0] is not host.unet
