"""On a host of the Forge family: the adapter tells the solver's step of each evaluation of every sampler."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host.forge_samplers import HOSTS, rows_of
from tests.host.webui import WebUI

SAMPLERS = sorted({sampler for rows in HOSTS.values() for sampler in rows})


@pytest.fixture
def quick(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> WebUI:
    """The WebUI with a model of one operation: evaluations are counted here, and there are many."""
    if not webui.is_forge:
        pytest.skip("the host is none of the Forge family")
    unet = webui.shared.sd_model.forge_objects_original.unet.model
    monkeypatch.setattr(unet.diffusion_model, "forward", lambda x, *_args, **_named: x * 0.5)
    return webui


def steps_told(webui: WebUI, sampler: str, **fields: Any) -> list[int]:
    from lbw.hosts.serving import adapter
    from modules import sd_samplers

    if sampler not in sd_samplers.all_samplers_map:
        pytest.skip(f"this host has no {sampler}")
    told: list[int] = []

    def before_evaluation(params: Any) -> None:
        told.append(adapter.solver_step(webui.denoiser(params), params.sampling_step))

    with webui.observing(before_evaluation, before=True):
        webui.generate(prompt="a red cat", sampler_name=sampler, **fields)
    return told


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_evaluation_is_told_the_solvers_step(quick: WebUI, sampler: str):
    from modules import sd_samplers

    told = steps_told(quick, sampler)
    rows = rows_of(sd_samplers)
    if sampler not in rows:
        pytest.skip("it was not recorded on this host")
    assert told == rows[sampler]


@pytest.mark.parametrize("sampler", ["DPM adaptive", "ODE (Bosh3)"])
def test_a_solver_that_chooses_its_steps_goes_through_all_of_them(quick: WebUI, sampler: str):
    told = steps_told(quick, sampler)
    assert told[0] == 0
    assert set(told) == set(range(max(told) + 1)), "none is left out"
    assert max(told) >= 7


def test_restarted_steps_are_steps_of_their_own(quick: WebUI):
    assert steps_told(quick, "Restart", steps=24) == [evaluation // 2 for evaluation in range(2 * 24 - 1)]
