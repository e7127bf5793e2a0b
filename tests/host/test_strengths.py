"""Strengths of network files on the host: true whatever is in the weights, and nothing of the host's is touched."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lbw.engine.strengths import UnknownNetworkError, UnmeasurableError
from tests.host.conftest import Bench
from tests.host.measure import copy_weights

SCHEDULED = "a red cat <lora:t_lora:1:lbw=OUTALL:stop=4> <lora:t_locon:0.5>"


def measure(name: str) -> Any:
    from lbw.hosts.backend import Backend  # can be imported once a host runs

    return Backend().strengths(name)


def names(*, renewed: bool) -> list[str]:
    from lbw.hosts.backend import Backend

    return Backend().network_names(renewed=renewed)


def state(bench: Bench) -> tuple[Any, ...]:
    """What a measurement must not touch: networks, weights, backups and names."""
    host = bench.webui.networks
    layers = bench.layers().values()
    if bench.webui.is_forge:
        objects = bench.webui.shared.sd_model.forge_objects
        return ([id(objects.unet), id(objects.clip)], [id(layer.weight) for layer in layers])
    kept = ("network_weights_backup", "network_bias_backup", "network_current_names")
    return (
        [(id(net), net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in host.loaded_networks],
        {name: id(net) for name, net in host.networks_in_memory.items()},
        [id(vars(layer).get(name)) for layer in layers for name in kept],
    )


def test_strengths_are_those_of_the_file_whatever_is_in_the_weights(bench: Bench):
    bench.webui.generate(prompt=SCHEDULED)
    before, weights = state(bench), copy_weights(bench.layers())
    if not bench.webui.is_forge:
        assert any(not weights[name].equal(bench.base[name]) for name in weights), "the LoRA has to be in the weights"
    for name in ("t_lora", "t_locon", "t_mid"):
        found = measure(name)
        assert found.name == name and found.messages == ()
        assert {part.key for part in found.parts} == set(bench.deltas[name])
        for part in found.parts:
            assert part.norms.delta == pytest.approx(float(bench.deltas[name][part.key].norm()), rel=1e-5)
            assert part.norms.weight == pytest.approx(float(bench.base[part.key].double().norm()), rel=1e-6)
    assert state(bench) == before
    assert all(layer.equal(weights[name]) for name, layer in copy_weights(bench.layers()).items())


@pytest.mark.parametrize("name", ["nope", "", "../t_lora", "t_lora.safetensors", "none", "/etc/passwd", "x" * 500])
def test_only_networks_that_the_host_knows_are_measured(bench: Bench, name: str):
    with pytest.raises(UnknownNetworkError, match="no LoRA is called"):
        measure(name)


def test_a_file_that_came_later_is_found(bench: Bench):
    folder = bench.webui.lora_folder
    (folder / "t_later.safetensors").write_bytes((folder / "t_lora.safetensors").read_bytes())
    assert "t_later" not in names(renewed=False) and "t_later" in names(renewed=True)
    assert measure("t_later").total == measure("t_lora").total
    (folder / "t_later.safetensors").unlink()
    with pytest.raises(UnmeasurableError, match="t_later: the file cannot be read"):
        measure("t_later")
    assert "t_later" not in names(renewed=True)


def test_a_broken_file_is_said_to_be_one_without_its_path(bench: Bench):
    path = bench.webui.lora_folder / "t_broken.safetensors"
    path.write_bytes((bench.webui.lora_folder / "t_lora.safetensors").read_bytes()[:2000])
    with pytest.raises(UnmeasurableError) as error:
        measure("t_broken")
    assert "t_broken: the file cannot be read" in str(error.value)
    assert str(path.parent) not in str(error.value)
    path.unlink(missing_ok=True)  # there are hosts that put it aside


def test_other_weights_in_the_same_layers_are_measured_anew(bench: Bench):
    layer = next(iter(bench.deltas["t_lora"]))

    def weight_norm() -> float:
        return next(part.norms.weight for part in measure("t_lora").parts if part.key == layer)

    bench.webui.generate(args=["", False], prompt="a red cat", steps=1)
    norm, weight = weight_norm(), bench.layers()[layer].weight
    weight.detach().mul_(2)
    try:
        from modules import script_callbacks

        script_callbacks.model_loaded_callback(bench.webui.shared.sd_model)
        assert weight_norm() == pytest.approx(2 * norm)
    finally:
        weight.detach().mul_(0.5)
        script_callbacks.model_loaded_callback(bench.webui.shared.sd_model)
    assert weight_norm() == norm


def test_a_measurement_waits_for_the_generation_that_is_under_way(bench: Bench):
    from modules.call_queue import queue_lock

    measured = threading.Event()
    thread = threading.Thread(target=lambda: (measure("t_lora"), measured.set()))
    with queue_lock:
        thread.start()
        assert not measured.wait(0.5)
    thread.join(20)
    assert measured.is_set()


def test_without_a_model_there_is_a_message_and_none_is_loaded(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    from modules import sd_models

    model = sd_models.model_data.sd_model
    monkeypatch.setattr(sd_models.model_data, "sd_model", None)
    with pytest.raises(UnmeasurableError, match="no model is loaded"):
        measure("t_lora")
    assert sd_models.model_data.sd_model is None
    monkeypatch.undo()
    assert sd_models.model_data.sd_model is model
