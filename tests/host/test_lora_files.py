"""LoRA files that do not do what they should: each is told, in one line, and costs nobody else anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.host.conftest import Bench
from tests.host.lora_files import attention_layers, kohya_name, write_lora
from tests.host.measure import messages, status

STEPS = 2
GOOD = "<lora:t_lora:1:stop=1>"

WEIGHT = "diffusion_model_output_blocks_5_1_transformer_blocks_0_attn1_to_q"
OTHER = "diffusion_model_output_blocks_5_1_transformer_blocks_0_attn1_to_k"
ENCODER = "transformer_text_model_encoder_layers_0_self_attn_q_proj"


def write(bench: Bench, name: str, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    path = bench.webui.lora_folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata or None)


def rewrite(bench: Bench, name: str, change: Callable[[str, Tensor], Tensor | None]) -> None:
    """t_lora once more, with other tensors; those for which ``change`` gives none are as they were."""
    tensors = load_file(bench.webui.lora_folder / "t_lora.safetensors")
    write(bench, name, {key: value if (new := change(key, value)) is None else new for key, value in tensors.items()})


def about(result: Any, name: str) -> list[str]:
    return [line for line in messages(result) if line.startswith(f"<lora:{name}>: ")]


def of_flux(bench: Bench, name: str) -> None:
    parts = [f"lora_unet_double_blocks_{i}_img_attn_qkv" for i in range(19)] + ["lora_te1_of_flux"]
    down = {f"{part}.lora_down.weight": torch.ones(4, 8) for part in parts}
    write(bench, name, down | {f"{part}.lora_up.weight": torch.ones(8, 4) for part in parts})


def test_a_file_for_another_model_is_told_with_what_it_is_for_and_not_said_to_work(bench: Bench):
    of_flux(bench, "t_flux")
    result, record = bench.record("t_lora", prompt=f"a cat <lora:t_flux:1:lbw=OUTD> {GOOD}", steps=STEPS)
    assert messages(result) == [
        "<lora:t_flux>: 0 of 20 parts are for this SD1 model, so that it has no effect; it is made for Flux (kohya's "
        "names, such as lora_unet_double_blocks_0_img_attn_qkv); load such a model for it"
    ]
    assert status(result).startswith("t_flux: no effect: 0 of 20 parts fit; t_lora: steps 0-0 of 2 |")
    assert [found["t_lora"]["OUT05"][0] for found in record.strengths] == pytest.approx([1, 0], abs=2e-3)


def test_it_is_told_of_a_plain_tag_too(bench: Bench):
    of_flux(bench, "t_flux")
    result = bench.webui.generate(prompt="a cat <lora:t_flux:1>", steps=STEPS)
    assert len(about(result, "t_flux")) == 1 and "made for Flux" in about(result, "t_flux")[0]
    assert status(result).startswith("t_flux: no effect: 0 of 20 parts fit | base weights ")


def test_it_is_told_where_the_host_applies_plain_loras(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.not_on_forge("leaves all LoRAs to us")
    monkeypatch.setitem(bench.webui.shared.opts.data, "lbw_plain_loras", False)
    of_flux(bench, "t_flux")
    result, record = bench.record("t_lora", prompt="a cat <lora:t_flux:1> <lora:t_lora:1>", steps=STEPS)
    (line,) = messages(result)
    assert "made for Flux" in line
    assert status(result) == "t_flux: no effect: 0 of 20 parts fit | base weights as they are"
    assert record.strengths[0]["t_lora"]["OUT05"][0] == pytest.approx(1, abs=2e-3)


def test_names_that_the_host_does_not_know_are_told_as_what_they_are(bench: Bench):
    parts = [f"unet.down_blocks.7.attentions.{i}.transformer_blocks.0.attn1.to_q" for i in range(14)]
    down = {f"{part}.lora_A.weight": torch.ones(4, 8) for part in parts}
    write(bench, "t_strange", down | {f"{part}.lora_B.weight": torch.ones(8, 4) for part in parts})
    (line,) = about(bench.webui.generate(prompt="a cat <lora:t_strange:1:lbw=OUTD>", steps=STEPS), "t_strange")
    assert "0 of 14 parts are for this SD1 model" in line and "diffusers' names" in line and parts[0] in line
    assert "convert it to kohya's" in line


def test_a_file_without_parts_is_told_as_such(bench: Bench):
    write(bench, "t_nothing", {"lora_unet_somewhere.alpha": torch.ones(1)})
    (line,) = about(bench.webui.generate(prompt="a cat <lora:t_nothing:1:lbw=OUTD>", steps=STEPS), "t_nothing")
    assert line == "<lora:t_nothing>: its file has no parts of a LoRA, so it has no effect; see what kind of file it is"


def test_how_many_parts_are_in_force_is_told_where_it_is_not_all(bench: Bench):
    tensors = load_file(bench.webui.lora_folder / "t_lora.safetensors")
    count = sum(key.endswith("lora_up.weight") and key.startswith("lora_unet") for key in tensors)
    for part in ("lora_unet_no_such_layer", "lora_unet_input_blocks_99_1_proj_in", "lora_te_text_model_no_such_layer"):
        tensors |= {f"{part}.lora_down.weight": torch.ones(4, 8), f"{part}.lora_up.weight": torch.ones(8, 4)}
    encoders = sum(key.endswith("lora_up.weight") for key in tensors) - count - 2
    write(bench, "t_some", tensors)
    result = bench.webui.generate(prompt="a cat <lora:t_some:1:lbw=INALL>", steps=STEPS)
    told = f"{count} of {count + 2} U-Net and {encoders - 1} of {encoders} text encoder parts fit"
    assert status(result).split(" | ")[0].endswith(f", {told}")
    assert messages(result) == []


def test_nothing_is_said_of_numbers_where_all_parts_are_in_force(bench: Bench):
    result = bench.webui.generate(prompt=f"a cat {GOOD} <lora:t_locon:1:lbw=INALL>", steps=STEPS)
    assert "parts fit" not in result.comments


def test_one_side_alone_is_told_alone(bench: Bench):
    tensors = load_file(bench.webui.lora_folder / "t_lora.safetensors")
    encoder = {key: value for key, value in tensors.items() if not key.startswith("lora_unet")}
    unet = [f"lora_unet_double_blocks_{number}_img_attn_qkv" for number in range(3)]
    write(bench, "t_encoder", encoder | {f"{part}.lora_up.weight": torch.ones(8, 4) for part in unet}
          | {f"{part}.lora_down.weight": torch.ones(4, 8) for part in unet})  # fmt: skip
    result = bench.webui.generate(prompt="a cat <lora:t_encoder:1:lbw=INALL>", steps=STEPS)
    assert status(result).split(" | ")[0].endswith(", 0 of 3 U-Net parts fit")


def test_parts_of_another_size_are_not_in_force(bench: Bench):
    write_lora(bench.webui.lora_folder / "t_wide.safetensors", attention_layers(bench.layers()), seed=7, width=7)
    result = bench.webui.generate(prompt=f"a cat <lora:t_wide:1:lbw=INALL> {GOOD}", steps=STEPS)
    (line,) = messages(result)
    count = len(attention_layers(bench.layers()))
    assert f"0 of {count} parts can be used with this SD1 model, first " in line and "the shape is" in line
    assert status(result).startswith(f"t_wide: no effect: 0 of {count} parts fit; ")


BAD = {
    "nan": ("lora_up.weight", float("nan"), "NaN or infinite"),
    "infinity": ("lora_down.weight", float("inf"), "NaN or infinite"),
    "bad alpha": ("alpha", float("nan"), "nan"),
    "infinite alpha": ("alpha", float("-inf"), "-inf"),
    "alpha 0": ("alpha", 0.0, "its alpha is 0"),
}


@pytest.mark.parametrize(
    ("fault", "arguments"), [("nan", ""), *((fault, ":lbw=OUTALL:stop=9") for fault in BAD)]
)
def test_a_part_with_numbers_that_are_none_is_named_and_left_out(bench: Bench, fault: str, arguments: str):
    suffix, number, words = BAD[fault]

    def change(key: str, value: Tensor) -> Tensor | None:
        if key != f"{kohya_name(WEIGHT)}.{suffix}":
            return None
        value = value.clone()
        value.view(-1)[-1] = number
        return value

    rewrite(bench, "t_bad", change)
    bench.deltas["t_bad"] = {name: delta for name, delta in bench.deltas["t_lora"].items() if name != WEIGHT}
    seen: list[Tensor] = []
    with bench.webui.observing(lambda _params: seen.append(bench.layers()[WEIGHT].weight.detach().clone())):
        result, record = bench.record("t_bad", prompt=f"a cat <lora:t_bad:1{arguments}>", steps=STEPS)
    (line,) = messages(result)
    assert line.startswith("<lora:t_bad>: 1 part cannot be used and is left out, first ") and words in line
    assert f"first {WEIGHT}: " in line
    assert all(weight.equal(bench.base[WEIGHT]) for weight in seen)
    assert [found["t_bad"]["OUT05"][0] for found in record.strengths] == pytest.approx([1, 1], abs=2e-3)
    if arguments:
        assert "U-Net parts fit" in status(result)


def test_the_host_does_not_apply_such_a_part_either(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.not_on_forge("leaves all LoRAs to us")
    monkeypatch.setitem(bench.webui.shared.opts.data, "lbw_plain_loras", False)
    rewrite(bench, "t_bad", lambda key, value: value * torch.nan if key.endswith("to_q.lora_up.weight") else None)
    result = bench.webui.generate(prompt="a cat <lora:t_bad:1>", steps=STEPS)
    (line,) = messages(result)
    assert "NaN or infinite" in line and "parts cannot be used and are left out" in line
    assert all(layer.isfinite().all() for layer in (bench.layers()[WEIGHT].weight, bench.layers()[OTHER].weight))


def dora(bench: Bench, name: str, shape: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """t_lora with lengths for the output channels of all layers but norms; {layer: its lengths}."""
    of_layers = {}
    tensors = load_file(bench.webui.lora_folder / "t_lora.safetensors")
    random = torch.Generator().manual_seed(5)
    for layer, weight in bench.base.items():
        key = kohya_name(layer)
        if f"{key}.lora_up.weight" in tensors:
            lengths = weight.float().flatten(1).norm(dim=1) * (1 + 0.1 * torch.rand(len(weight), generator=random))
            of_layers[layer] = lengths
            tensors[f"{key}.dora_scale"] = shape(lengths.reshape(-1, *[1] * (weight.dim() - 1)))
    write(bench, name, tensors)
    return of_layers


@pytest.mark.parametrize("arguments", ["", ":lbw=OUTALL:stop=1"])
def test_lengths_of_output_channels_may_come_without_the_other_dimensions(
    bench: Bench, arguments: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
):
    """They are then of output channels, and divided by the norms of these."""
    lengths = dora(bench, "t_flat", Tensor.flatten)

    def weights(name: str) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        with bench.webui.observing(lambda _params: seen.update(
            {key: layer.weight.detach().clone() for key, layer in attention_layers(bench.layers()).items()}
        )):  # fmt: skip
            result = bench.webui.generate(prompt=f"a cat <lora:{name}:1{arguments}>", steps=1)
        assert messages(result) == []
        return seen

    flat = weights("t_flat")
    assert not flat[WEIGHT].equal(bench.base[WEIGHT])
    torch.testing.assert_close(flat[WEIGHT].norm(dim=1), lengths[WEIGHT], rtol=1e-3, atol=1e-3)
    assert "IndexError" not in "".join(capfd.readouterr()) + caplog.text


def test_lengths_of_no_layers_size_get_one_message(
    bench: Bench, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
):
    dora(bench, "t_short", lambda lengths: lengths.flatten()[:3])
    result = bench.webui.generate(prompt=f"a cat <lora:t_short:1:lbw=OUTALL> {GOOD}", steps=STEPS)
    (line,) = messages(result)
    assert line.startswith("<lora:t_short>: 0 of ") and "first " in line
    text = "".join(capfd.readouterr()) + caplog.text
    assert "IndexError" not in text and text.count("t_short>") == 1


def test_a_lora_that_is_missing_stands_in_the_status_line(bench: Bench):
    result = bench.webui.generate(prompt=f"a cat <lora:t_nope:1:lbw=OUTD> {GOOD}", steps=STEPS)
    assert status(result).startswith("t_lora: steps 0-0 of 2; t_nope: not found |")


def test_a_lora_that_is_missing_is_told_if_it_is_the_only_one(bench: Bench):
    result = bench.webui.generate(prompt="a cat <lora:t_nope:1>", steps=STEPS)
    assert status(result).startswith("t_nope: not found | base weights ")
    assert "t_nope" not in (bench.webui.generate(prompt="a cat", steps=STEPS).comments or "")


def test_a_locon_with_all_by_number_tells_what_it_leaves_at_0(bench: Bench):
    vector = ",".join(["1"] * 17)
    result = bench.webui.generate(prompt=f"a cat <lora:t_locon:1:lbw={vector}>", steps=1)
    assert "0 in IN00 IN03 IN06 IN09-IN11 OUT00-OUT02" in status(result)
    assert ["values have none for" in line for line in messages(result)] == [True]
    result = bench.webui.generate(prompt=f"a cat <lora:t_lora:1:lbw={vector}>", steps=1)
    assert messages(result) == [] and "0 in" not in status(result)
