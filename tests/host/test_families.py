"""Every family of models: blocks, steps and exact weights, whatever the layers are called and hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from lbw.blocks import block_of
from lbw.engine import LoraEngine
from tests.host import slow_path
from tests.host.conftest import Bench
from tests.host.lora_files import attention_layers, write_lora
from tests.host.measure import restore_counter
from tests.host.test_isolation import difference
from tests.host.test_model_switch import use
from tests.host.webui import WebUI
from tests.unit.ulp import ulp_distance

FAMILIES = ("inpainting", "edit", "sd2", "sdxl", "refiner", "sd3")
WITHOUT_TEXT_ENCODER = ("refiner", "sd3")
"""The host knows no names for the layers of theirs."""
OUTPUT_BLOCKS = ",".join(["0.5", *["0"] * 13, *["1"] * 12])
"""A vector of 26 values: half the text encoder, and the output blocks."""
STOP = 2


def parts_of(name: str, layer: nn.Module) -> dict[str, tuple[str, torch.Size]]:
    """{a part's name in the file: (the parameter that it is for, its shape)}."""
    if name.endswith("x_block_attn_qkv"):
        number = name.partition("joint_blocks_")[2].partition("_")[0]
        out, into = layer.weight.shape
        shape = torch.Size((out // 3, into))
        return {f"transformer.transformer_blocks.{number}.attn.to_{part}": ("weight", shape) for part in "qkv"}
    if name.startswith("diffusion_model"):
        return {"lora_unet" + name.removeprefix("diffusion_model"): ("weight", layer.weight.shape)}
    if "resblocks" not in name:
        return {"lora_te1_text_model" + name.partition("transformer_text_model")[2]: ("weight", layer.weight.shape)}
    prefix = "lora_te2" if name.startswith("1_") else "lora_te"
    number, _, part = name.partition("resblocks_")[2].partition("_")
    key = f"{prefix}_text_model_encoder_layers_{number}_"
    if isinstance(layer, nn.MultiheadAttention):
        shape = layer.out_proj.weight.shape
        parts = {f"{key}self_attn_{part}_proj": ("in_proj_weight", shape) for part in "qkv"}
        return parts | {f"{key}self_attn_out_proj": ("out_proj.weight", shape)}
    return {key + part.replace("mlp_c_fc", "mlp_fc1").replace("mlp_c_proj", "mlp_fc2"): ("weight", layer.weight.shape)}


def trained_layers(layers: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The attention, the first layer of the U-Net, and the text encoders that trainers know by CLIP's names."""
    found = attention_layers(layers)
    for name, layer in layers.items():
        is_open_clip = name.endswith("_attn") or name.endswith(("mlp_c_fc", "mlp_c_proj"))
        is_first = name == "diffusion_model_input_blocks_0_0"
        is_joint = "joint_blocks" in name and name.endswith(("attn_qkv", "attn_proj", "mlp_fc1"))
        if is_first or is_joint or ("resblocks_1" in name and is_open_clip):
            found[name] = layer
    return found


def write_family_lora(path: Path, layers: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """Write a LoRA of rank 4 and alpha 4.

    Returns:
        {layer name: {parameter: its delta in float64}}.
    """
    random = torch.Generator().manual_seed(5)
    tensors: dict[str, Tensor] = {}
    deltas: dict[str, dict[str, Tensor]] = {}
    for name, layer in layers.items():
        for key, (parameter, shape) in parts_of(name, layer).items():
            out, into, *kernel = shape
            into = 4 if into == 9 else into
            up = torch.randn((out, 4), generator=random) * 0.02
            down = torch.randn((4, into, *kernel), generator=random)
            tensors[f"{key}.lora_up.weight"] = up.reshape(out, 4, *[1] * len(kernel))
            tensors[f"{key}.lora_down.weight"] = down
            delta = (up.double() @ down.double().flatten(1)).reshape(out, into, *kernel)
            if into != shape[1]:
                delta = torch.cat([delta, delta.new_zeros(out, shape[1] - into, *kernel)], dim=1)
            known = deltas.setdefault(name, {})
            known[parameter] = torch.cat([known[parameter], delta]) if parameter in known else delta
    save_file(tensors, path)
    return deltas


def weights_of(layers: Mapping[str, Any], deltas: Mapping[str, Mapping[str, Tensor]]) -> dict[tuple[str, str], Tensor]:
    return {
        (name, parameter): layers[name].get_parameter(parameter).detach().clone()
        for name, parameters in deltas.items()
        for parameter in parameters
    }


def fields_of(family: str) -> dict[str, Any]:
    """A request of three steps; to edit an image, instruct-pix2pix needs one, and follows it by a scale of its own."""
    if family != "edit":
        return {"steps": 3}
    picture = Image.new("RGB", (64, 64), (200, 40, 40))
    return {"steps": 3, "init_images": [picture], "denoising_strength": 1.0, "image_cfg_scale": 1.5}


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_and_steps_in_a_model_of_the_family(bench: Bench, checkpoints: list[str], family: str):
    use(checkpoints, family)
    layers = bench.layers()
    trained = trained_layers(layers)
    if family in WITHOUT_TEXT_ENCODER:
        trained = {name: layer for name, layer in trained.items() if name.startswith("diffusion_model")}
    deltas = write_family_lora(bench.webui.lora_folder / "t_family.safetensors", trained)
    base = weights_of(layers, deltas)
    seen: list[dict[tuple[str, str], Tensor]] = []
    prompt = f"a red cat <lora:t_family:0.8:lbw={OUTPUT_BLOCKS}:stop={STOP}>"
    fields = fields_of(family)
    with (
        restore_counter(bench.webui.networks) as counter,
        bench.webui.observing(lambda _params: seen.append(weights_of(layers, deltas))),
    ):
        torch.manual_seed(1)  # the host draws from what the autoencoder makes of a picture
        ours = bench.webui.generate(prompt=prompt, **fields)
        assert counter.take() == 0, "the host re-patched"
    assert len(seen) == 3
    for step, weights in enumerate(seen):
        for (name, parameter), weight in weights.items():
            label = block_of(name)
            ratio = 0.5 if label == "BASE" else float((label or "").startswith("OUT") and step < STOP)
            wanted = base[name, parameter].double() + 0.8 * ratio * deltas[name][parameter]
            assert ulp_distance(weight, wanted.to(weight.dtype)) <= (1 if ratio else 0), (step, name, parameter)
    labels = {block_of(name) for name in deltas}
    assert labels > ({"IN00", "OUT11"} if family == "sd3" else {"M00", "IN00", "OUT03"})
    assert ("BASE" in labels) == (family not in WITHOUT_TEXT_ENCODER)
    torch.manual_seed(1)
    assert difference(ours, slow_path.generate(bench.webui, prompt, **fields)) <= 1
    torch.manual_seed(1)
    assert difference(ours, bench.webui.generate(prompt="a red cat", **fields)) > 0
    assert all(weight.equal(base[key]) for key, weight in weights_of(layers, deltas).items())


def test_a_lora_of_another_family_is_applied_where_it_matches(bench: Bench, checkpoints: list[str]):
    """Nothing raises, the layers of another shape are named once, and another LoRA works."""
    write_lora(bench.webui.lora_folder / "t_sd1.safetensors", attention_layers(bench.layers()), seed=11)
    use(checkpoints, "sd2")
    layers = bench.layers()
    deltas = write_family_lora(bench.webui.lora_folder / "t_family.safetensors", trained_layers(layers))
    base = weights_of(layers, deltas)
    seen: list[dict[tuple[str, str], Tensor]] = []
    with bench.webui.observing(lambda _params: seen.append(weights_of(layers, deltas))):
        result = bench.webui.generate(prompt="a red cat <lora:t_sd1:1:stop=1> <lora:t_family:1:stop=2>", steps=3)
    assert result.comments.count("<lora:t_sd1>") == 1 and "parts do not fit this model" in result.comments
    assert len(result.images) == 1
    width = layers["diffusion_model_input_blocks_1_1_transformer_blocks_0_attn2_to_k"].weight.shape[1]
    assert width == 48, "SD2 reads a text of another width than SD1"
    name = "diffusion_model_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    wanted = base[name, "weight"].double() + deltas[name]["weight"]
    assert ulp_distance(seen[0][name, "weight"], wanted.float()) > 1, "both are in it at first"
    assert ulp_distance(seen[1][name, "weight"], wanted.float()) <= 1
    assert seen[2][name, "weight"].equal(base[name, "weight"])


@pytest.mark.parametrize("parts", [("_q_proj", "_k_proj", "_v_proj"), ("",)], ids=["q, k and v", "all in one"])
def test_sd3s_attention_is_patched_as_the_host_does(webui: WebUI, parts: tuple[str, ...]):
    """By the host's own classes, also on a host that has no such model at hand."""
    import network_lora

    import network
    from modules.models.sd3.mmdit import QkvLinear

    name = "diffusion_model_joint_blocks_3_x_block_attn_qkv"
    layer = QkvLinear(16, 48).requires_grad_(False)
    layer.network_layer_name = name
    base = layer.weight.clone()
    net = network.Network("attention", None)
    net.unet_multiplier = 0.7
    random = torch.Generator().manual_seed(4)
    for part in parts:
        up, down = torch.randn(48 // len(parts), 4, generator=random), torch.randn(4, 16, generator=random)
        tensors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}
        weights = network.NetworkWeights(name + part, name + part, tensors, layer)
        net.modules[name + part] = network_lora.ModuleTypeLora().create_module(net, weights)
    loaded = webui.networks.loaded_networks
    before, loaded[:] = list(loaded), [net]
    try:
        webui.networks.network_apply_weights(layer)
    finally:
        loaded[:] = before
    hosts = layer.weight.clone()
    layer.weight.copy_(base)
    webui.networks.network_reset_cached_weight(layer)
    engine = LoraEngine()
    assert engine.bind(layer, {name: layer}, [net]).messages == ()
    engine.manual_lora_update({name + part: (0.7,) for part in parts}, (("attention", 0.7, 0.7, None),))
    assert not hosts.equal(base)
    assert torch.allclose(layer.weight, hosts, rtol=1e-6, atol=1e-6)
