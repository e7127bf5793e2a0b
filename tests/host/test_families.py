"""Every family of models: blocks, steps and exact weights, whatever the layers are called and hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from lbw.tags.families import ORIGINAL_LAYOUTS, SD1, is_text_encoder
from lbw.tags.presets import DEFAULT_PRESETS
from tests.host import slow_path
from tests.host.checkpoints import use
from tests.host.conftest import Bench
from tests.host.families import Deltas, labels_of, trained_layers, weights_of, write_family_lora
from tests.host.lora_files import attention_layers, write_lora
from tests.host.measure import messages, restore_counter, status
from tests.host.test_isolation import difference
from tests.host.webui import WebUI
from tests.unit.networks import lora_engine
from tests.unit.ulp import ulp_distance

FAMILIES = {"sd1": 17, "inpainting": 17, "edit": 17, "sd2": 17, "sdxl": 12, "refiner": 26, "sd3": 26}
"""How many values the usual vector for a model of the family has."""
STEPS = 3
EIGHTHS = [0.5, *((number % 9 - 2) / 8 for number in range(25))]
"""A value for each of the 26 blocks, some of them 0, neighbours apart."""


class Watch:
    """At each evaluation compares the weights with the base plus each network's delta times its strength, in float64.

    Args:
        strengths: for each network (its deltas, what gives the strength that a layer should have in a step).
    """

    def __init__(self, layers: Mapping[str, Any], strengths: list[tuple[Deltas, Callable[[str, int], float]]]) -> None:
        self.layers, self.strengths = layers, strengths
        self.base = weights_of(layers, strengths[0][0])
        self.evaluations = 0
        self.wrong: list[tuple[int, str, str, int]] = []

    def __call__(self, _params: Any) -> None:
        for (name, parameter), base in self.base.items():
            wanted, is_on = base.double(), False
            for deltas, strength in self.strengths:
                value = strength(name, self.evaluations % STEPS)
                wanted, is_on = wanted + value * deltas[name][parameter], is_on or value != 0
            weight = self.layers[name].get_parameter(parameter).detach()
            in_float32 = torch.finfo(torch.float32).eps * float(base.abs().max())  # what 16 bits are computed in
            noise = in_float32 if weight.dtype.itemsize < 4 else 0.0
            distance = ulp_distance(weight, wanted.to(weight.dtype), noise)
            if distance > int(is_on):
                self.wrong.append((self.evaluations, name, parameter, distance))
        self.evaluations += 1

    def is_base_back(self) -> bool:
        return all(
            self.layers[name].get_parameter(parameter).equal(base) for (name, parameter), base in self.base.items()
        )


def fields_of(family: str) -> dict[str, Any]:
    """A request of three steps, and of three more at twice the size; to edit an image, instruct-pix2pix needs one, and
    follows it by a scale of its own."""
    if family != "edit":
        return {
            "steps": STEPS,
            "enable_hr": True,
            "hr_scale": 2,
            "hr_upscaler": "Lanczos",
            "hr_second_pass_steps": STEPS,
            "denoising_strength": 1.0,
        }
    picture = Image.new("RGB", (64, 64), (200, 40, 40))
    return {"steps": STEPS, "init_images": [picture], "denoising_strength": 1.0, "image_cfg_scale": 1.5}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_a_model_of_the_family_has_the_strength_of_its_block(
    bench: Bench, checkpoints: list[str], family: str, caplog: pytest.LogCaptureFixture
):
    use(checkpoints, family)
    layers = trained_layers(bench.layers())
    found = labels_of(bench.webui.shared.sd_model)
    labels = {name: found[layer] for name, layer in layers.items()}
    folder = bench.webui.lora_folder
    one = write_family_lora(folder / "t_family.safetensors", layers)
    two = write_family_lora(folder / "t_family2.safetensors", layers, seed=6)
    ratios = {None: 1.0, **dict(zip(SD1.labels, EIGHTHS, strict=True))}
    usual = ORIGINAL_LAYOUTS[FAMILIES[family]]
    usual_ratios = {None: 1.0, **dict.fromkeys(SD1.labels, 0.0), **dict(zip(usual, EIGHTHS, strict=False))}
    deep = set(SD1.labels[SD1.labels.index("IN05") : SD1.labels.index("OUT05") + 1])

    def strength_of_one(name: str, step: int) -> float:
        return 0.8 * ratios[labels[name]] * (is_text_encoder(name) or step < 2)

    def strength_of_two(name: str, step: int) -> float:
        if is_text_encoder(name):
            return 0.3 * usual_ratios["BASE"]
        if labels[name] in deep and "attn" in name:
            return 0.0
        return -0.6 * usual_ratios[labels[name]] * (step == 1)

    prompt = (
        f"a red cat <lora:t_family:0.8:lbw={','.join(map(str, EIGHTHS))}:stop=2> <lora:t_family2:te=0.3:unet=-0.6:"
        f"lbw={','.join(map(str, EIGHTHS[: len(usual)]))}:lbwe=ATTNDEEPOFF:step=1-2>"
    )
    watch = Watch(bench.layers(), [(one, strength_of_one), (two, strength_of_two)])
    fields = fields_of(family)
    with (
        restore_counter(bench.webui) as counter,
        bench.webui.observing(watch),
        caplog.at_level(logging.DEBUG, logger="lbw"),
    ):
        torch.manual_seed(1)  # the host draws from what the autoencoder makes of a picture
        ours = bench.webui.generate(prompt=prompt, **fields)
        assert counter.take() == 0, "the host re-patched"
    assert watch.evaluations == (2 * STEPS if "enable_hr" in fields else STEPS)
    assert watch.wrong == []
    assert set(labels.values()) >= {None, *ORIGINAL_LAYOUTS[20]} - ({"M00"} if family == "sd3" else set())
    told = [record.getMessage() for record in caplog.records if "in no block" in record.getMessage()]
    unclaimed = sorted(name for name, label in labels.items() if label is None)
    assert [line.rpartition(": ")[2] for line in told] == [", ".join(unclaimed)]
    short = ("17 values have none for" if family in ("sd1", "sd2", "inpainting", "edit") else
             "12 values have none for" if family == "sdxl" else None)
    assert [short is not None and short in message for message in messages(ours)] == [True] * (short is not None)
    torch.manual_seed(1)
    slowly = slow_path.generate(bench.webui, prompt, **fields)
    if all(base.dtype == torch.float32 for base in watch.base.values()):  # or else the host rounds for each network
        assert difference(ours, slowly) <= 1
    torch.manual_seed(1)
    assert difference(ours, bench.webui.generate(prompt="a red cat", **fields)) > 0
    assert watch.is_base_back()


@pytest.mark.parametrize(
    ("family", "blocks"),
    [
        ("sd1", ("OUT03", "OUT04", "OUT05", "OUT06")),
        ("sdxl", ("OUT00", "OUT01", "OUT02")),
        ("sd3", tuple(f"OUT{i:02d}" for i in range(6))),
    ],
)
def test_a_default_preset_means_the_blocks_of_the_family(
    bench: Bench, checkpoints: list[str], family: str, blocks: tuple[str, ...]
):
    """OUTD, as its line for the family says, without a warning; and what is at 0 stands in the status line."""
    use(checkpoints, family)
    layers = trained_layers(bench.layers())
    found = labels_of(bench.webui.shared.sd_model)
    labels = {name: found[layer] for name, layer in layers.items()}
    deltas = write_family_lora(bench.webui.lora_folder / "t_family.safetensors", layers)

    def strength(name: str, _step: int) -> float:
        return 0.5 * (labels[name] in (None, "BASE", *blocks))

    watch = Watch(bench.layers(), [(deltas, strength)])
    with bench.webui.observing(watch):
        result = bench.webui.generate(["\n".join(DEFAULT_PRESETS.splitlines())], prompt=TAGGED, steps=2)
    assert watch.wrong == [] and watch.evaluations == 2
    warned = [message for message in messages(result) if "values have none for" in message]
    assert messages(result) == warned and len(warned) == (family == "sd1"), "a LoCon has parts in OUT00 of SD1"


TAGGED = "a red cat <lora:t_family:0.5:lbw=OUTD>"


def test_a_lora_of_another_family_is_applied_where_it_matches(bench: Bench, checkpoints: list[str]):
    """Nothing raises, the layers of another shape are named once, and another LoRA works."""
    write_lora(bench.webui.lora_folder / "t_sd1.safetensors", attention_layers(bench.layers()), seed=11)
    text = "diffusion_model_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    width = bench.layers()[text].weight.shape[1]
    use(checkpoints, "sd2")
    layers = bench.layers()
    deltas = write_family_lora(bench.webui.lora_folder / "t_family.safetensors", trained_layers(layers))
    base = weights_of(layers, deltas)
    seen: list[dict[tuple[str, str], Tensor]] = []
    with bench.webui.observing(lambda _params: seen.append(weights_of(layers, deltas))):
        result = bench.webui.generate(prompt="a red cat <lora:t_sd1:1:stop=1> <lora:t_family:1:stop=2>", steps=3)
    assert result.comments.count("<lora:t_sd1>") == 1 and "parts cannot be used and are left out" in result.comments
    assert len(result.images) == 1
    assert layers[text].weight.shape[1] != width, "SD2 reads a text of another width than SD1"
    name = "diffusion_model_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    wanted = base[name, "weight"].double() + deltas[name]["weight"]
    assert ulp_distance(seen[0][name, "weight"], wanted.float()) > 1, "both are in it at first"
    assert ulp_distance(seen[1][name, "weight"], wanted.float()) <= 1
    assert seen[2][name, "weight"].equal(base[name, "weight"])


@pytest.mark.parametrize("family", ["sd2", "sdxl", "refiner", "sd3"])
def test_a_lora_of_another_family_gives_what_it_gives_without_us(
    bench: Bench, checkpoints: list[str], family: str, capfd: pytest.CaptureFixture
):
    """SD1's in a model of the family, and the family's in SD1: the host applies what it can."""
    write_lora(bench.webui.lora_folder / "t_sd1.safetensors", attention_layers(bench.layers()), seed=11)

    def compare(name: str) -> None:
        hosts = bench.webui.generate(args=["", False], prompt=f"a red cat <lora:{name}:1>", steps=STEPS)
        capfd.readouterr()
        ours = bench.webui.generate(prompt=f"a red cat <lora:{name}:1:stop=9>", steps=STEPS)
        assert difference(ours, hosts) <= 1
        assert all(line.startswith(f"<lora:{name}>: ") for line in messages(ours)) and len(messages(ours)) <= 1
        assert "lbw" not in "".join(capfd.readouterr())

    use(checkpoints, family)
    write_family_lora(bench.webui.lora_folder / "t_family.safetensors", trained_layers(bench.layers()))
    compare("t_sd1")
    use(checkpoints, "sd1")
    compare("t_family")


@pytest.mark.parametrize("parts", [("_q_proj", "_k_proj", "_v_proj"), ("",)], ids=["q, k and v", "all in one"])
def test_sd3s_attention_is_patched_as_the_host_does(webui: WebUI, parts: tuple[str, ...]):
    """By the host's own classes, also on a host that has no such model at hand."""
    import network_lora

    import network

    joint = pytest.importorskip("modules.models.sd3.mmdit", reason="this host knows no SD3")

    name = "diffusion_model_joint_blocks_3_x_block_attn_qkv"
    layer = joint.QkvLinear(16, 48).requires_grad_(False)
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
    engine = lora_engine()
    assert engine.bind(layer, {name: layer}, [net]).messages == ()
    engine.manual_lora_update({name + part: (0.7,) for part in parts}, (("attention", 0.7, 0.7, None),))
    assert not hosts.equal(base)
    assert torch.allclose(layer.weight, hosts, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "preset", "zeros", "warns"),
    [
        ("sdxl", "NONE", "", False),
        ("sdxl", "INALL", "M00 OUT00-OUT08", False),
        ("sd3", "ALL", "", False),
        ("sdxl", ",".join(["1"] * 17), "IN00 IN03 IN06 OUT00-OUT02", True),
        ("sd3", ",".join(["1"] * 17), "IN00 IN03 IN06 IN09-IN11 OUT00-OUT02", True),
    ],
)
def test_blocks_at_0_are_told_and_warned_of_where_that_changes_something(
    bench: Bench, checkpoints: list[str], family: str, preset: str, zeros: str, warns: bool
):
    use(checkpoints, family)
    layers = {name: layer for name, layer in trained_layers(bench.layers()).items() if "diffusion_model" in name}
    write_family_lora(bench.webui.lora_folder / "t_family.safetensors", layers)
    presets = "\n".join(DEFAULT_PRESETS.splitlines())
    result = bench.webui.generate([presets], prompt=f"a cat <lora:t_family:1:lbw={preset}>", steps=1)
    told = status(result).split(" | ")[0]
    assert ["values have none for" in line for line in messages(result)] == [True] * warns
    assert (f"0 in {zeros}" in told) if zeros else (("no block" in told) == (preset == "NONE"))


def test_words_for_both_text_encoders_of_sdxl_count(bench: Bench, checkpoints: list[str]):
    from modules.sd_hijack import model_hijack

    use(checkpoints, "sdxl")
    layers = trained_layers(bench.layers())
    path = bench.webui.lora_folder / "t_pair.safetensors"
    write_family_lora(path, layers)
    widths = {"clip_l": len(bench.layers()["0_transformer_text_model_final_layer_norm"].weight),
              "clip_g": len(bench.layers()["1_model_ln_final"].weight)}  # fmt: skip
    pair = {f"bundle_emb.qxpair.{encoder}": torch.ones(2, width) for encoder, width in widths.items()}
    save_file(load_file(path), bench.webui.lora_folder / "t_alone.safetensors")
    save_file(load_file(path) | pair, path)
    seen: list[Any] = []

    def look(_params: Any) -> None:
        seen.append(model_hijack.embedding_db.word_embeddings["qxpair"].vec)

    with bench.webui.observing(look):
        result = bench.webui.generate(prompt="a qxpair cat <lora:t_pair:1:lbw=OUTALL>", steps=1)
    assert messages(result) == [] and "parts fit" not in result.comments
    assert {key: tuple(vectors.shape) for key, vectors in seen[0].items()} == {
        key: (2, width) for key, width in widths.items()
    }
    without = bench.webui.generate(prompt="a qxpair cat <lora:t_alone:1:lbw=OUTALL>", steps=1)
    assert list(result.images[0].getdata()) != list(without.images[0].getdata()), "the word means something else"
    assert "qxpair" not in model_hijack.embedding_db.word_embeddings
