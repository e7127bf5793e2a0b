"""Files in names that the host does not know: their parts are those that the trainer's own library merges."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.host.checkpoints import use
from tests.host.conftest import Bench
from tests.host.foreign_files import FORMS, RANK, Writer, Written, weight_of
from tests.host.measure import forget_conditioning, messages, recording
from tests.host.test_isolation import difference
from tests.unit.ulp import ulp_distance

STEPS = 2


class Weights:
    """What the weights for which a file has parts are at each evaluation, against what its library makes of them."""

    def __init__(self, webui: Any, written: Written) -> None:
        self.webui, self.written = webui, written
        self.base = {key: weight_of(webui, key).clone() for key in written}
        self.strengths: list[set[float]] = []
        """At each evaluation, the strengths of 0, 0.5, 1 that there are among the layers; -1 is none of them."""

    def __call__(self, _params: Any) -> None:
        self.strengths.append({self.strength(key) for key in self.written})

    def keys_at(self, strength: float) -> set[str]:
        """The parts that are at a strength now."""
        return {key for key in self.written if self.strength(key) == strength}

    def strength(self, key: str) -> float:
        weight, base = weight_of(self.webui, key), self.base[key]
        for strength in (0.0, 0.5, 1.0):
            wanted = base.double() + strength * self.written[key]
            noise = float(torch.finfo(torch.float32).eps * base.abs().max())
            if ulp_distance(weight, wanted.to(weight.dtype), noise) <= (2 if strength else 0):
                return strength
        return -1.0


@pytest.fixture
def generate(bench: Bench) -> Callable[..., tuple[Any, Weights]]:
    """Write a file of a form, and generate with it."""

    def run(form: str, tag: str, **fields: Any) -> tuple[Any, Weights]:
        if bench.webui.is_forge and ("DoRA" in form or "text encoder" in form):
            pytest.skip("the host's formula for DoRA is another; its text encoder is at work before the first step")
        if bench.webui.networks.loaded_networks:
            bench.webui.generate(prompt="nothing", steps=1)  # what a file is written for is the pristine weights
        path = bench.webui.lora_folder / "t_foreign.safetensors"
        path.unlink(missing_ok=True)
        watch = Weights(bench.webui, FORMS[form](bench.webui, path))
        bench.webui.networks.list_available_networks()
        with bench.webui.observing(watch):
            result = bench.webui.generate(prompt=f"a cat {tag}", steps=STEPS, sampler_name="Euler", **fields)
        return result, watch

    return run


@pytest.fixture
def setting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change settings of ours for the length of a test."""

    def change(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setitem(bench.webui.shared.opts.data, name, value)

    return change


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_what_its_library_merges(generate: Any, form: str):
    result, weights = generate(form, "<lora:t_foreign:1>")
    assert messages(result) == [] and len(weights.strengths) == STEPS
    assert len(weights.written) >= 10 and all(each.abs().max() > 0 for each in weights.written.values())
    assert all(each == {1.0} for each in weights.strengths), weights.strengths


def test_blocks_steps_and_the_text_encoder_s_strength_go_for_them_too(generate: Any):
    tag = "<lora:t_foreign:0:lbw=NONE,M00=1:te=0:unet=1:stop=1>"
    result, weights = generate("diffusers", tag)
    assert messages(result) == []
    assert weights.strengths == [{0.0, 1.0}, {0.0}]


def test_at_half_strength_they_are_half(generate: Any):
    _result, weights = generate("OneTrainer", "<lora:t_foreign:0.5>")
    assert weights.strengths == [{0.5}] * STEPS


@pytest.mark.parametrize("form", ["diffusers", "OneTrainer"])
def test_a_plain_tag_is_not_left_to_a_host_that_knows_no_such_names(generate: Any, setting: Any, form: str):
    setting(lbw_plain_loras=False)
    _result, weights = generate(form, "<lora:t_foreign:1>")
    assert weights.strengths == [{1.0}] * STEPS


def test_such_names_can_be_left_to_the_host(generate: Any, setting: Any):
    setting(lbw_foreign_names=False)
    _result, weights = generate("diffusers", "<lora:t_foreign:1>")
    assert weights.strengths == [{0.0}] * STEPS


def test_the_setting_counts_from_the_next_image_on(bench: Bench, generate: Any, setting: Any):
    setting(lbw_foreign_names=False)
    _result, weights = generate("diffusers", "<lora:t_foreign:1>")
    setting(lbw_foreign_names=True)
    with bench.webui.observing(weights):
        bench.webui.generate(prompt="a cat <lora:t_foreign:1>", steps=STEPS, sampler_name="Euler")
    assert weights.strengths == [{0.0}] * STEPS + [{1.0}] * STEPS


@pytest.mark.parametrize("form", ["diffusers", "OneTrainer"])
def test_with_the_extension_off_such_a_file_is_what_it_is_to_the_host(bench: Bench, generate: Any, form: str):
    _result, weights = generate(form, "<lora:t_foreign:1>")
    assert bench.webui.networks.load_network.__module__ == "networks"
    weights.strengths.clear()
    with bench.webui.observing(weights):
        result = bench.webui.generate(
            ["", False], prompt="a cat <lora:t_foreign:1>", steps=STEPS, sampler_name="Euler"
        )
    assert weights.strengths == [{0.0}] * STEPS and len(result.images) == 1
    is_refused = not bench.webui.networks.loaded_networks
    assert is_refused == (form == "OneTrainer" and not bench.webui.is_forge)


def test_whoever_generates_without_us_gets_the_host_s_idea_of_the_file(bench: Bench, generate: Any):
    _result, weights = generate("diffusers", "<lora:t_foreign:1>")
    weights.strengths.clear()
    p = bench.webui.request(prompt="a cat <lora:t_foreign:1>", steps=STEPS, sampler_name="Euler")
    p.scripts = None
    forget_conditioning(p)
    with bench.webui.observing(weights):
        bench.webui.run(p)
    assert weights.strengths == [{0.0}] * STEPS


def test_they_are_gone_with_the_tag(bench: Bench, generate: Any):
    _result, weights = generate("PEFT", "<lora:t_foreign:1>")
    with bench.webui.observing(weights):
        bench.webui.generate(prompt="a cat", steps=1)
    assert weights.strengths[-1] == {0.0} and bench.differences_from_base() == []


def test_the_text_encoder_s_parts_are_in_the_conditioning(bench: Bench, generate: Any):
    """Which the host keeps for the next image, by the tags' text."""
    bench.not_on_forge("its files here are for the U-Net alone")
    tag = "<lora:t_foreign:1:unet=0>"
    off, _weights = generate("diffusers", tag, args=["", False])
    request = {"prompt": f"a cat {tag}", "steps": STEPS, "sampler_name": "Euler"}
    on = bench.webui.generate(**request)
    assert difference(off, on) > 0
    again = bench.webui.generate(["", False], **request)
    assert difference(off, again) == 0


def test_others_keep_their_weights(bench: Bench, generate: Any):
    with recording(bench.webui, bench.base, {"t_lora": bench.deltas["t_lora"]}) as record:
        generate("OneTrainer", "<lora:t_foreign:0:te=0:stop=0> <lora:t_lora:0.5>")
    values = [value for found in record.strengths for pair in found["t_lora"].values() for value in pair]
    assert values == pytest.approx([0.5] * len(values), abs=2e-3)


def test_names_that_the_host_knows_may_stand_beside_others(
    bench: Bench, generate: Any, monkeypatch: pytest.MonkeyPatch
):
    """Here in the first half of the U-Net."""
    bench.not_on_forge("its network has no modules")

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("unet.down_blocks")]:
            layer, side = re.fullmatch(r"unet\.(.+)\.lora\.(up|down)\.weight", name).groups()
            tensors[f"lora_unet_{layer.replace('.', '_')}.lora_{side}.weight"] = tensors.pop(name)

    monkeypatch.setitem(FORMS, "mixed", with_file(rename, "diffusers"))
    result, weights = generate("mixed", "<lora:t_foreign:1>")
    (network,) = bench.webui.networks.loaded_networks
    assert 0 < len(network.modules) < len(weights.written)
    assert messages(result) == [] and weights.strengths == [{1.0}] * STEPS


def test_a_part_of_another_shape_is_left_out_by_name(bench: Bench):
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{key}.lora.up.weight": torch.ones(3, 2), f"{key}.lora.down.weight": torch.ones(2, 5)}
    save_file(tensors, bench.webui.lora_folder / "t_wide.safetensors")
    bench.webui.networks.list_available_networks()
    result = bench.webui.generate(prompt="a cat <lora:t_wide:1> <lora:t_lora:1>", steps=1)
    (message,) = [line for line in messages(result) if "t_wide" in line]
    assert "0 of 1 parts can be used with this SD1 model, first diffusion_model_input_blocks_1_1_" in message


def test_a_strength_is_measured_of_them_too(bench: Bench, generate: Any):
    from lbw.hosts import network_files

    _result, weights = generate("OneTrainer", "<lora:t_foreign:0>")
    measured = network_files.measure("t_foreign")
    assert {part.key for part in measured.parts} == weights.written.keys()


def test_the_rank_can_be_cut(bench: Bench, generate: Any):
    """Also of a network that is in use already."""
    bench.not_on_forge("it has no such key")
    _result, weights = generate("diffusers", f"<lora:t_foreign:1:dyn={RANK}>")
    with bench.webui.observing(weights):
        bench.webui.generate(prompt=f"a cat <lora:t_foreign:1:dyn={RANK // 2}>", steps=1)
    assert weights.strengths == [{1.0}] * STEPS + [{-1.0}]


def with_file(change: Callable[[dict[str, Tensor]], None], form: str) -> Writer:
    """A form of which ``change`` changes the tensors."""

    def write(webui: Any, path: Path) -> Written:
        written = FORMS[form](webui, path)
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        return written

    return write


def test_what_a_refused_file_bundles_is_there(bench: Bench, generate: Any, monkeypatch: pytest.MonkeyPatch):
    bench.not_on_forge("it has another way with them")
    word = {"bundle_emb.t_word.string_to_param.*": torch.zeros(1, text_width(bench.webui))}
    monkeypatch.setitem(FORMS, "bundled", with_file(lambda tensors: tensors.update(word), "OneTrainer"))
    _result, weights = generate("bundled", "<lora:t_foreign:1>")
    (network,) = bench.webui.networks.loaded_networks
    assert {*network.bundle_embeddings} == {"t_word"} and weights.strengths == [{1.0}] * STEPS


def text_width(webui: Any) -> int:
    return next(layer for name, layer in webui.layers().items() if name.endswith("self_attn_q_proj")).weight.shape[1]


@pytest.mark.parametrize(
    ("family", "form"),
    [("sdxl", "diffusers with PEFT"), ("sdxl", "OneTrainer"), ("sd2", "diffusers"), ("sd2", "OneTrainer, OMI")],
)
def test_other_families_have_their_names(
    bench: Bench, generate: Any, checkpoints: list[str], family: str, form: str
):
    bench.not_on_forge("its files here are for the U-Net alone")
    use(checkpoints, family)
    result, weights = generate(form, "<lora:t_foreign:1>")
    assert messages(result) == [] and weights.strengths == [{1.0}] * STEPS
    assert any("resblocks" in key for key in weights.written)


def test_projections_of_an_attention_count_one_by_one(
    bench: Bench, generate: Any, checkpoints: list[str], monkeypatch: pytest.MonkeyPatch
):
    """The host adds its own to an OpenCLIP only where it has all four."""
    bench.not_on_forge("its files here are for the U-Net alone")

    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if re.search(r"text_encoder_2.+(k_proj|out_proj)", name)]:
            del tensors[name]

    monkeypatch.setitem(FORMS, "q and v", with_file(drop, "diffusers"))
    use(checkpoints, "sdxl")
    _result, weights = generate("q and v", "<lora:t_foreign:1>")
    ends = {strength: {key.rpartition("attn_")[2] for key in weights.keys_at(strength)} for strength in (0.0, 1.0)}
    assert {"q_proj", "v_proj"} <= ends[1.0] and ends[0.0] == {"k_proj", "out_proj"}


SD3 = {
    "lycoris_transformer_blocks_1_attn_to_k": ("diffusion_model_joint_blocks_1_x_block_attn_qkv", 1),
    "transformer.transformer_blocks.1.attn.add_q_proj": ("diffusion_model_joint_blocks_1_context_block_attn_qkv", 0),
    "transformer.transformer_blocks.1.ff.net.0.proj": ("diffusion_model_joint_blocks_1_x_block_mlp_fc1", None),
}
"""{a trainer's name: (the host's layer, the third of its rows)}. The host passes over the second, and refuses a file
with an alpha of the first."""


def test_sd3_has_diffusers_names(bench: Bench, checkpoints: list[str]):
    bench.not_on_forge("its stand-in has no SD3")
    use(checkpoints, "sd3")
    layers, tensors, random = bench.webui.layers(), {}, torch.Generator().manual_seed(1)
    base = {name: layers[name].weight.detach().clone() for name, _third in SD3.values()}
    wanted = {name: weight.double() for name, weight in base.items()}
    for name, (layer, third) in SD3.items():
        weight = wanted[layer] if third is None else wanted[layer].chunk(3)[third]
        up, down = torch.randn(len(weight), 2, generator=random).half(), torch.randn(2, weight.shape[1]).half()
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
        weight += 0.5 * up.double() @ down.double()
    save_file(tensors, bench.webui.lora_folder / "t_sd3.safetensors")
    bench.webui.networks.list_available_networks()
    found: list[dict[str, Tensor]] = []

    def look(_params: Any) -> None:
        found.append({name: layers[name].weight.detach().clone() for name in wanted})

    with bench.webui.observing(look):
        result = bench.webui.generate(prompt="a cat <lora:t_sd3:1>", steps=1, sampler_name="Euler")
    assert messages(result) == [] and found
    for name, weight in found[0].items():
        assert ulp_distance(weight, wanted[name].to(weight.dtype), 1e-6) <= 1, name
