"""On the Forge family: extensions that give the U-Net patches, or a copy with options, of their own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.host.conftest import Bench
from tests.host.measure import replaced
from tests.host.test_modes import output_block

STEPS = 5
PROMPT = "a red cat <lora:t_lora:0.8:lbw=OUTALL:start=1:stop=4>"
STRENGTHS = [0, 0.8, 0.8, 0.8, 0]
PATCHED = "diffusion_model_output_blocks_5_1_transformer_blocks_0_attn1_to_q"
"""A layer that the LoRA changes, too."""


@pytest.fixture(autouse=True)
def _forge(bench: Bench) -> None:
    if not bench.webui.is_forge:
        pytest.skip("for the Forge family")


def memory_management() -> Any:
    for name in ("backend.memory_management", "ldm_patched.modules.model_management"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise AssertionError("this host has no memory management that the test knows")


def with_patch(bench: Bench, patch: Tensor) -> Any:
    """A copy of the U-Net's patcher, with a patch that is added to a weight."""
    patcher = bench.webui.shared.sd_model.forge_objects.unet.clone()
    key = next(
        name for name, _ in patcher.model.named_parameters()
        if name.removesuffix(".weight").replace(".", "_") == PATCHED
    )  # fmt: skip
    patches = {key: ("diff", (patch,))}
    if "filename" in inspect.signature(patcher.add_patches).parameters:
        assert patcher.add_patches(filename="a neighbour", patches=patches)
    else:
        assert patcher.add_patches(patches)
    return patcher


@contextmanager
def before_each_pass(bench: Bench, act: Callable[[Any], None]) -> Iterator[None]:
    """Have ``act(p)`` called where extensions such as ControlNet, IP-Adapter and FreeU set up the U-Net."""
    runner = bench.webui.scripts.scripts_txt2img

    def and_then(call: Callable[..., None]) -> Callable[..., None]:
        def process_before_every_sampling(p: Any, *args: Any, **kwargs: Any) -> None:
            call(p, *args, **kwargs)
            act(p)

        return process_before_every_sampling

    with replaced(runner, "process_before_every_sampling", and_then):
        yield


def patch_for(bench: Bench) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    base = bench.base[PATCHED]
    return torch.randn(base.shape, generator=generator).to(base.dtype) * 0.1


def shares_of(bench: Bench, patch: Tensor) -> tuple[list[tuple[float, float]], Callable[[Any], None]]:
    """How much of the LoRA and of the neighbour's patch is in the weight at each evaluation, and what measures it."""
    found: list[tuple[float, float]] = []
    lora = bench.deltas["t_lora"][PATCHED]
    directions = torch.stack([lora.flatten(), patch.double().flatten()], dim=1)

    def note(_params: Any) -> None:
        change = bench.layers()[PATCHED].weight.detach().double() - bench.base[PATCHED].double()
        shares = torch.linalg.lstsq(directions, change.flatten()[:, None]).solution.flatten().tolist()
        found.append((round(shares[0], 2), round(shares[1], 2)))

    return found, note


def test_a_copy_of_the_unet_with_options_of_its_own(bench: Bench):
    """As ControlNet, IP-Adapter and FreeU make one."""
    _, alone = bench.record("t_lora", prompt=PROMPT, steps=STEPS)
    seen: list[Any] = []

    def act(p: Any) -> None:
        patcher = p.sd_model.forge_objects.unet.clone()
        patcher.model_options["transformer_options"]["of_a_neighbour"] = True
        p.sd_model.forge_objects.unet = patcher
        seen.append(patcher)

    with before_each_pass(bench, act):
        _, record = bench.record("t_lora", prompt=PROMPT, steps=STEPS)
    assert len(seen) == 1
    assert output_block(record) == output_block(alone) == STRENGTHS
    assert bench.differences_from_base() == []


def test_patches_that_another_extension_adds_before_the_pass(bench: Bench):
    patch = patch_for(bench)
    shares, note = shares_of(bench, patch)

    def act(p: Any) -> None:
        p.sd_model.forge_objects.unet = with_patch(bench, patch)

    with before_each_pass(bench, act), bench.webui.observing(note):
        bench.webui.generate(prompt=PROMPT, steps=STEPS)
    assert shares == [(strength, 1) for strength in STRENGTHS]
    bench.webui.generate(prompt="nothing", steps=1)
    assert bench.differences_from_base() == []


@pytest.mark.parametrize("evaluation", [0, 1, 2, 4])
def test_patches_that_another_extension_has_merged_in_the_middle_of_a_pass(bench: Bench, evaluation: int):
    """The host takes a copy of what is in the weight, and puts it back later."""
    patch = patch_for(bench)
    shares, note = shares_of(bench, patch)

    def act(_params: Any) -> None:
        if len(shares) == evaluation:
            patcher = with_patch(bench, patch)
            memory_management().load_model_gpu(patcher)
            bench.webui.shared.sd_model.forge_objects.unet = patcher

    with bench.webui.observing(act, before=True), bench.webui.observing(note):
        bench.webui.generate(prompt=PROMPT, steps=STEPS)
    assert len(shares) == STEPS
    assert shares[evaluation + 1 :] == [(strength, 1) for strength in STRENGTHS[evaluation + 1 :]]
    bench.webui.generate(prompt="nothing", steps=1)
    assert bench.differences_from_base() == []
    _, record = bench.record("t_lora", prompt=PROMPT, steps=STEPS)
    assert output_block(record) == STRENGTHS
