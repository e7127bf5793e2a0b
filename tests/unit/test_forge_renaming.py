"""Names that a host of the Forge family passes over become kohya's, if the host then finds more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lbw.hosts.forge.networks import Loading
from lbw.hosts.forge.renaming import Renaming
from tests.unit.model_layers import layers_of

LAYER = "unet.down_blocks.0.attentions.0.proj_in"
KEY = "diffusion_model_input_blocks_1_1_proj_in"
KOHYA = "lora_unet_input_blocks_1_1_proj_in"


def renamed(
    tensors: dict[str, Tensor],
    *,
    model: str = "sd1",
    read: tuple[str, ...] = (),
    wanted: bool = True,
    file: str = "x.bin",
) -> Any:
    return Renaming(lambda: layers_of(model), lambda: wanted)(tensors, read, file)


def lora(layer: str = LAYER, **more: Tensor) -> dict[str, Tensor]:
    both = {f"{layer}.lora_A.weight": torch.ones(4, 8), f"{layer}.lora_B.weight": torch.ones(8, 4)}
    return both | {f"{layer}.{name}": value for name, value in more.items()}


def test_what_the_host_has_read_stays_as_it_is():
    assert renamed(lora(), read=(KEY, "another")) is None


def test_who_does_not_want_it_gets_the_host_s_idea():
    assert renamed(lora(), wanted=False) is None


def test_what_is_for_no_layer_stays_as_it_is():
    assert renamed({"nonsense.lora_A.weight": torch.ones(1)}) is None


def test_names_become_kohya_s_and_others_stay():
    found = renamed({**lora(), "bundle_emb.word.clip_l": torch.ones(1), f"{LAYER}.base_layer.weight": torch.ones(8, 8)})
    assert {*found} == {f"{KOHYA}.lora_down.weight", f"{KOHYA}.lora_up.weight", "bundle_emb.word.clip_l"}


ENCODERS = {
    ("sd1", "text_encoder"): "lora_te1",
    ("sd2", "text_encoder"): "lora_te",
    ("sdxl", "text_encoder"): "lora_te1",
    ("sdxl", "text_encoder_2"): "lora_te2",
    ("sdxl_refiner", "text_encoder_2"): "lora_te",
}


@pytest.mark.parametrize(("model", "encoder"), ENCODERS)
def test_text_encoders_have_the_names_that_the_hosts_know(model: str, encoder: str):
    found = renamed(lora(f"{encoder}.text_model.encoder.layers.2.mlp.fc1"), model=model)
    start = ENCODERS[model, encoder]
    assert f"{start}_text_model_encoder_layers_2_mlp_fc1.lora_up.weight" in found


@pytest.mark.parametrize("shape", [(8,), (1, 8, 1, 1)])
def test_lengths_of_peft_become_those_of_the_host(shape: tuple[int, ...]):
    """Also where the host has read the rest of the part."""
    found = renamed(lora(lora_magnitude_vector=torch.ones(shape)), read=(KEY,))
    assert found[f"{KOHYA}.dora_scale"].shape == (8, 1)


def test_alpha_is_what_diffusers_has_noted(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_file(lora(), path, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2})})
    assert renamed(lora(), file=str(path))[f"{KOHYA}.alpha"] == 2
    own = renamed(lora(alpha=torch.tensor(3.0)), file=str(path))
    assert own[f"{KOHYA}.alpha"] == 3


class Patched:
    def __init__(self, model: Any, patches: dict[str, Any]) -> None:
        self.model, self.patches = model, patches


@pytest.fixture
def read() -> Callable[..., dict[str, Any]]:
    """What is found by a host that knows some names, with a renaming of its own."""

    def found(known: dict[str, str], tensors: dict[str, Any], rename: Callable[..., Any]) -> dict[str, Any]:
        class Module:
            loaded_networks: tuple[()] = ()
            available_networks: dict[str, Any] = {}  # noqa: RUF012

            @staticmethod
            def load_lora_for_models(model: Any, clip: Any, lora: Any, *_: Any) -> Any:
                found = lora.keys() & known.keys()
                patches = {known[name]: [(1.0, ("diff", (lora[name],)), 1.0)] for name in found}
                return Patched(model, patches), clip

        clip = type("Clip", (), {"patcher": Patched(None, {})})
        loading = Loading(Module, lambda: None, rename=rename)
        return loading.read(Patched(None, {}), clip, tensors, "file").patches

    return found


def test_the_host_reads_once_more_what_it_finds_more_in(read: Any):
    known = {"kohya's": "a.weight", "old": "b.weight"}
    assert {*read(known, {"foreign": 1, "old": 2}, lambda *_: {"kohya's": 1, "old": 2})} == {"a", "b"}
    assert {*read(known, {"foreign": 1, "old": 2}, lambda *_: None)} == {"b"}
    assert {*read(known, {"foreign": 1, "old": 2}, lambda *_: {"nonsense": 1})} == {"b"}


def test_a_renaming_is_told_what_the_host_has_found(read: Any):
    told: list[Any] = []
    read({"old": "b.weight"}, {"old": 2}, lambda *values: told.append(values))
    assert [(tensors, [*found], file) for tensors, found, file in told] == [({"old": 2}, ["b"], "file")]
