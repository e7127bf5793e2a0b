"""How the host stores a model: on the CPU but for the part at work, in 8 or 16 bits, with its channels last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lbw.tags.families import SD1
from tests.host.conftest import Bench
from tests.host.measure import copy_weights, restore_counter
from tests.host.test_isolation import difference
from tests.host.test_modes import SCHEDULED, STEPS, output_block
from tests.unit.ulp import ulp_distance

HIRES = {
    "enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 3, "denoising_strength": 0.7
}


@contextmanager
def model_loaded_with(bench: Bench, **switches: bool) -> Iterator[None]:
    """The same checkpoint, loaded by a host that was started with these switches."""
    from modules import sd_models

    info, options = bench.webui.shared.sd_model.sd_checkpoint_info, bench.webui.shared.cmd_opts
    before = {name: getattr(options, name) for name in switches}
    vars(options).update(switches)
    try:
        sd_models.load_model(info)
        yield
    finally:
        vars(options).update(before)
        sd_models.load_model(info)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that were sent to a device, in order. Where all of them are one, as without a GPU, each parameter
    moves to other memory all the same, and what was there is lost."""
    sent: list[nn.Module] = []
    original = nn.Module.to

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        result = original(module, *args, **kwargs)
        if torch._C._nn._parse_to(*args, **kwargs)[0] is not None:
            sent.append(module)
            for parameter in module.parameters():
                old = parameter.data
                parameter.data = old.clone()
                old.fill_(float("nan"))
        return result

    monkeypatch.setattr(nn.Module, "to", to)
    return sent


@pytest.mark.parametrize("switch", ["medvram", "lowvram"])
def test_weights_that_move_between_evaluations(bench: Bench, moves: list[nn.Module], switch: str):
    usual = bench.webui.generate(prompt=SCHEDULED, steps=STEPS)
    with model_loaded_with(bench, **{switch: True}):
        moves.clear()
        with restore_counter(bench.webui) as counter:
            result, record = bench.record("t_lora", prompt=SCHEDULED, steps=STEPS)
            assert counter.take() == 0, "the host re-patched"
        unet = bench.webui.shared.sd_model.model.diffusion_model
        assert moves.count(unet.middle_block) == (2 * STEPS if switch == "lowvram" else 0), "block by block"
        assert output_block(record) == [1, 1, 0, 0]
        assert output_block(record, block="IN04") == [0, 0, 0, 0]
        assert output_block(record, block="BASE") == [1, 1, 1, 1]
        bench.webui.generate(prompt="a red cat", steps=1)
        assert bench.differences_from_base() == []
    assert difference(usual, result) == 0


def test_lowvram_reads_the_hires_prompt_before_the_first_pass(bench: Bench, moves: list[nn.Module]):
    """The text encoder makes room for the U-Net, so the host activates the networks of both passes in turn."""
    fields = {"prompt": SCHEDULED, "hr_prompt": "a dog <lora:t_lora2:0.5:lbw=INALL:start=1>", "steps": STEPS, **HIRES}
    usual = bench.webui.generate(**fields)
    with model_loaded_with(bench, lowvram=True):
        result, record = bench.record("t_lora", "t_lora2", **fields)
    assert output_block(record) == [1, 1, 0, 0, 0, 0, 0]
    assert output_block(record, "t_lora2", "IN04") == [0, 0, 0, 0, 0, 0.5, 0.5]
    assert difference(usual, result) == 0
    assert result.infotexts == usual.infotexts


def test_channels_last(bench: Bench):
    usual = bench.webui.generate(prompt=SCHEDULED.replace("t_lora", "t_locon"), steps=STEPS)
    with model_loaded_with(bench, opt_channelslast=True):
        kernel = bench.layers()["diffusion_model_output_blocks_5_0_in_layers_2"].weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) and not kernel.is_contiguous()
        with restore_counter(bench.webui) as counter:
            result, record = bench.record("t_locon", prompt=SCHEDULED.replace("t_lora", "t_locon"), steps=STEPS)
            assert counter.take() == 0, "the host re-patched"
        assert output_block(record, "t_locon") == [1, 1, 0, 0]
        assert kernel.is_contiguous(memory_format=torch.channels_last)
        bench.webui.generate(prompt="a red cat", steps=1)
        assert bench.differences_from_base() == []
    assert difference(usual, result) <= 1


class Weights:
    """The weights of the layers that t_lora changes, as each evaluation found them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.base = self.now()
        self.seen: list[dict[str, Tensor]] = []

    def now(self) -> dict[str, Tensor]:
        layers = self.bench.layers()
        return copy_weights({name: layers[name] for name in self.bench.deltas["t_lora"]})

    def __call__(self, _params: Any) -> None:
        self.seen.append(self.now())

    def assert_exact(self, origins: dict[str, Tensor], strength: float, on: list[bool]) -> None:
        """Each weight is the origin plus the delta, rounded once; where the LoRA is off it is the base, bit for bit.

        Where a sum cancels out, all its digits are those that float32 rounded, in which it is computed; it rounds each
        of the delta's terms.
        """
        assert len(self.seen) == len(on)
        for step, weights in enumerate(self.seen):
            for name, weight in weights.items():
                block = SD1.block_of(name) or ""
                if block == "BASE" or (block.startswith("OUT") and on[step]):
                    wanted = origins[name].double() + strength * self.bench.deltas["t_lora"][name]
                    noise = 4 * torch.finfo(torch.float32).eps * float(origins[name].float().abs().max())
                    assert ulp_distance(weight, wanted.to(weight.dtype), noise) <= 1, (step, name)
                else:
                    assert same_bits(weight, self.base[name]), (step, name)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.view(torch.uint8).equal(b.view(torch.uint8)) and a.dtype == b.dtype


@pytest.fixture
def in_8_bits(bench: Bench, option: Callable[..., None]) -> Iterator[Callable[[bool], None]]:
    """Have the host store weights in 8 bits, with or without a master in 16 bits, and compute in bfloat16."""
    from modules import sd_models

    def store(with_master: bool) -> None:
        option(fp8_storage="Enable", cache_fp16_weight=with_master)
        sd_models.reload_model_weights()

    info = bench.webui.shared.sd_model.sd_checkpoint_info
    yield store
    option(fp8_storage="Disable", cache_fp16_weight=False)
    sd_models.reload_model_weights()  # goes through 16 bits
    sd_models.load_model(info)


@pytest.mark.parametrize("master", [True, False], ids=["with a master", "without"])
def test_weights_stored_in_8_bits(bench: Bench, in_8_bits: Callable[[bool], None], master: bool):
    in_8_bits(master)
    layers = bench.layers()
    weights = Weights(bench)
    assert {weight.dtype for weight in weights.base.values()} == {torch.float8_e4m3fn}
    origins = {name: layers[name].fp16_weight if master else weight for name, weight in weights.base.items()}
    with restore_counter(bench.webui) as counter, bench.webui.observing(weights):
        result = bench.webui.generate(prompt=SCHEDULED.replace(":1:", ":0.7:"), steps=STEPS)
        assert counter.take() == 0, "the host re-patched"
    weights.assert_exact(origins, 0.7, [True, True, False, False])
    plain = bench.webui.generate(prompt="a red cat", steps=STEPS)
    assert difference(result, plain) > 0
    assert all(same_bits(weight, weights.base[name]) for name, weight in weights.now().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_in_16_bits(bench: Bench, dtype: torch.dtype):
    """As on a GPU, or where somebody has converted the model."""
    from modules import sd_models

    info = bench.webui.shared.sd_model.sd_checkpoint_info
    for layer in bench.webui.shared.sd_model.model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(dtype)
    try:
        weights = Weights(bench)
        with (
            restore_counter(bench.webui) as counter,
            bench.webui.observing(weights),
            torch.autocast("cpu", dtype=torch.bfloat16),
        ):
            result = bench.webui.generate(prompt=SCHEDULED.replace(":1:", ":0.7:"), steps=STEPS)
            assert counter.take() == 0, "the host re-patched"
            weights.assert_exact(weights.base, 0.7, [True, True, False, False])
            assert difference(result, bench.webui.generate(prompt="a red cat", steps=STEPS)) > 0
        assert all(same_bits(weight, weights.base[name]) for name, weight in weights.now().items())
    finally:
        sd_models.load_model(info)
