"""Another checkpoint between generations: the LoRA follows, and the first model comes back bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import nn

from tests.host import slow_path
from tests.host.checkpoints import other_weights, switch, use, write_checkpoint
from tests.host.conftest import Bench
from tests.host.families import trained_layers, write_family_lora
from tests.host.measure import restore_counter
from tests.host.test_isolation import SCHEDULED, difference

SDXL_PROMPT = "a red cat <lora:t_family:1:lbw=0.5,0,0,0,1,0,1,1,1,0,0,0:stop=3>"


@pytest.fixture
def other_checkpoints(bench: Bench) -> Iterator[list[str]]:
    from modules import sd_models

    first = bench.webui.shared.sd_model.sd_checkpoint_info
    yield [title for title, info in sd_models.checkpoints_list.items() if info.filename != first.filename]
    switch(first)


def test_another_checkpoint_of_the_same_kind_is_the_new_base(bench: Bench, other_checkpoints: list[str]):
    """The host may load it into the same layers."""
    before = bench.webui.generate(prompt=SCHEDULED)
    first = bench.webui.shared.sd_model.sd_checkpoint_info
    other = write_checkpoint(bench.webui, "another", other_weights)
    use([other.title], "another")
    there = bench.webui.generate(prompt=SCHEDULED)
    assert difference(before, there) > 1
    assert difference(there, slow_path.generate(bench.webui, SCHEDULED)) <= 1

    switch(first)
    assert difference(before, bench.webui.generate(prompt=SCHEDULED)) == 0


def test_sdxl_with_both_text_encoders(bench: Bench, other_checkpoints: list[str]):
    bench.not_on_forge("has no MultiheadAttention")
    bench.webui.generate(prompt=SCHEDULED)
    use(other_checkpoints, "sdxl")

    def attention() -> dict[str, Any]:
        layers = bench.layers()
        weights = {name: getattr(layer, "in_proj_weight", None) for name, layer in layers.items()}
        return {name: weight.detach().clone() for name, weight in weights.items() if weight is not None}

    write_family_lora(bench.webui.lora_folder / "t_family.safetensors", trained_layers(bench.layers()))
    base = attention()
    assert base, "the second text encoder has MultiheadAttention"
    with restore_counter(bench.webui) as counter:
        ours = bench.webui.generate(prompt=SDXL_PROMPT)
        assert counter.take() == 0
    assert difference(ours, slow_path.generate(bench.webui, SDXL_PROMPT)) <= 1
    plain = bench.webui.generate(prompt="a red cat")
    assert difference(ours, plain) > 1
    assert all(weight.equal(base[name]) for name, weight in attention().items())


def test_the_17_value_trap_on_sdxl_is_told(bench: Bench, other_checkpoints: list[str]):
    use(other_checkpoints, "sdxl")
    unet = {name: layer for name, layer in trained_layers(bench.layers()).items() if name.startswith("diffusion_model")}
    write_family_lora(bench.webui.lora_folder / "t_family.safetensors", unet)
    by_number = "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
    result = bench.webui.generate(prompt=f"a red cat <lora:t_family:1:lbw={by_number}>", steps=1)
    assert "17 values have none for OUT00-OUT02 of this SDXL model" in result.comments
    assert "0 in IN00-IN08 M00 OUT00-OUT02 OUT07-OUT08" in result.comments


def test_another_vae_leaves_the_lora_where_it_is(bench: Bench, option: Callable[..., None]):
    """The host takes the model apart for it, and announces it as newly loaded."""
    bench.not_on_forge("loads a VAE with the checkpoint")
    from modules import sd_vae

    before = bench.webui.generate(prompt=SCHEDULED)
    model = bench.webui.shared.sd_model
    weights = {key: value * 0.5 for key, value in model.first_stage_model.state_dict().items()}
    Path(sd_vae.vae_path).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(sd_vae.vae_path) / "pale.safetensors")
    sd_vae.refresh_vae_list()
    for vae in ("pale.safetensors", "None"):
        option(sd_vae=vae)
        sd_vae.reload_vae_weights()
        with restore_counter(bench.webui) as counter:
            result, record = bench.record("t_lora", prompt=SCHEDULED)
            assert counter.take() == 0, "the host re-patched"
        assert [round(found["t_lora"]["OUT05"][0], 2) for found in record.strengths] == [1] * 4 + [0] * 4
        assert (difference(before, result) == 0) == (vae == "None")
    assert model is bench.webui.shared.sd_model


def test_the_vae_is_no_business_of_ours(bench: Bench):
    """It has layers of the same kinds, which networks cannot name."""
    bench.not_on_forge("has the VAE apart from the model")
    vae = bench.webui.shared.sd_model.first_stage_model
    bench.webui.generate(prompt=SCHEDULED)
    layers = [layer for layer in vae.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert layers
    assert not [layer for layer in layers if vars(layer).get("network_weights_backup") is not None]
