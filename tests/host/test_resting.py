"""As on a GPU: layers are patched while they are at work, and nothing is held of them before and afterwards.

Where there is no GPU the kernels run on the CPU, thread by thread, and a layer counts as being on the GPU if the host
has sent it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lbw.engine import parameters
from lbw.engine.engine import LoraEngine
from lbw.engine.headroom import Headroom
from lbw.tags.families import SD1
from tests.host.conftest import Bench
from tests.host.lora_files import attention_layers, conv_layers, write_lora
from tests.host.measure import OUTPUT_BLOCKS, copy_weights, forget_conditioning, messages, restore_counter
from tests.host.test_isolation import difference, without_scripts
from tests.host.test_memory import options
from tests.host.test_memory_modes import HIRES, model_loaded_with, same_bits
from tests.host.webui import STAND_IN
from tests.unit.cuda_on_cpu import cuda_on_cpu
from tests.unit.networks import batches_of
from tests.unit.ulp import ulp_distance

on_the_gpu = pytest.mark.parametrize("small", [""], ids=["all of it on the GPU"], indirect=True)
"""The same is to be seen where parts come and go."""

STEPS = 4
MIDDLE_BLOCK = ",".join(["0", *["0"] * 12, "1", *["0"] * 12])
STOP = f"a red cat <lora:r_lora:1:lbw={OUTPUT_BLOCKS}:stop=2>"
THREE = (
    f"a red cat <lora:r_lora:0.7:stop=1> <lora:r_lora2:0.5:-0.4:lbw={OUTPUT_BLOCKS}:start=2> "
    f"<lora:r_locon:0.3:lbw={MIDDLE_BLOCK}:step=1-3>"
)
CURVE = "a red cat <lora:r_lora:te=0:unet=0@0,1@1>"
PLAIN = "a red cat <lora:r_lora:1>"
ELSEWHERE = torch.device("xla")

ON = {
    "all": lambda _block: True,
    "OUT": lambda block: block.startswith("OUT"),
    "MID": lambda block: block in ("M00", "none"),  # what is in no block is left alone by block weights
}


@dataclass
class Small:
    """A host with a small GPU, and a model in 16 bits."""

    bench: Bench
    base: dict[str, Tensor]
    deltas: dict[str, dict[str, Tensor]]
    engine: LoraEngine
    switch: str

    def generate(self, **fields: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.bench.webui.generate(**{"steps": STEPS, **fields})

    def now(self) -> dict[str, Tensor]:
        return copy_weights(self.bench.layers())

    def is_pristine(self) -> bool:
        return all(same_bits(weight, self.base[name]) for name, weight in self.now().items())

    def is_at_rest(self) -> bool:
        """Whether nothing is held. Under lowvram weights wait on the CPU as they are, and what recovers them too."""
        if self.switch == "lowvram":
            return not any(each.is_loaded for each in batches_of(self.engine))
        return self.is_pristine() and self.engine.held == 0


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Have the engine rest as on a GPU, or not, with the GPU's kernels in any case."""

    def set_rests(value: bool) -> None:
        monkeypatch.setattr(LoraEngine, "rests", property(lambda _engine: value))

    with cuda_on_cpu():
        yield set_rests


@pytest.fixture(params=["", "medvram", "lowvram"], ids=["all of it on the GPU", "medvram", "lowvram"])
def small(
    request: pytest.FixtureRequest, bench: Bench, rests: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Small]:
    from lbw.hosts import hooks
    from modules import devices, lowvram

    modules_of = cache(lambda part: frozenset(part.modules()))  # of each layer, where it is is asked often

    def device_of(layer: nn.Module) -> torch.device:
        model, here = bench.webui.shared.sd_model, lowvram.module_in_gpu
        unet = model.model.diffusion_model
        blocks = [unet.input_blocks, unet.middle_block, unet.output_blocks] if request.param == "lowvram" else [unet]
        moved = any(layer in modules_of(part) for part in (model.cond_stage_model, *blocks))
        is_here = not moved or (here is not None and layer in modules_of(here))
        return torch.device("cpu") if is_here else ELSEWHERE

    bench.not_on_forge("its layers always rest, and its own tests are about that")
    if request.param and not Path(devices.__file__).is_relative_to(STAND_IN):
        pytest.skip("a real host does not decode 16 bits on a CPU that way")
    rests(True)
    with model_loaded_with(bench, **({request.param: True} if request.param else {})):
        for layer in bench.webui.shared.sd_model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
                layer.to(torch.bfloat16)
        if request.param:
            monkeypatch.setattr(parameters, "device_of", device_of)
        monkeypatch.setattr(hooks.engine, "headroom", Headroom(devices.device))
        monkeypatch.setattr(Headroom, "may_hold", lambda _headroom, _size: False)
        monkeypatch.setattr(devices, "dtype", torch.bfloat16)
        layers = bench.layers()
        # Thread by thread, all layers would take minutes.
        attention, convs = attention_layers(layers), conv_layers(layers)
        files = {"r_lora": some(attention), "r_lora2": some(attention), "r_locon": some(attention | convs)}
        deltas = {
            name: write_lora(bench.webui.lora_folder / f"{name}.safetensors", of, seed=seed, dtype=torch.bfloat16)
            for seed, (name, of) in enumerate(files.items(), 11)
        }
        made = Small(bench, copy_weights(layers), deltas, hooks.engine, request.param)
        yield made
        made.generate(prompt="nothing", steps=1)


def some(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {name: layer for index, (name, layer) in enumerate(layers.items()) if index % 9 in (0, 5)}


class Truth:
    """The weights in each evaluation are those of the strengths in its step, rounded once; what is not patched is the
    base, bit for bit."""

    def __init__(self, small: Small) -> None:
        self._small = small
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, _params: Any) -> None:
        self.seen.append(self._small.now())

    def assert_unet(self, strengths: Mapping[str, tuple[str, list[float]]]) -> None:
        """``strengths`` are {network: (its blocks, one strength for each evaluation)}."""
        assert {len(each) for _blocks, each in strengths.values()} == {len(self.seen)}
        for step, weights in enumerate(self.seen):
            for layer, weight in weights.items():
                block = SD1.block_of(layer) or "none"
                if block == "BASE":
                    continue
                terms = [
                    values[step] * self._small.deltas[name][layer]
                    for name, (blocks, values) in strengths.items()
                    if layer in self._small.deltas[name] and ON[blocks](block) and values[step]
                ]
                if terms:
                    wanted = self._small.base[layer].double() + sum(terms)
                    distance = ulp_distance(weight, wanted.to(weight.dtype), float(wanted.abs().max()) * 1e-6)
                    assert distance <= 1, (step, layer)
                else:
                    assert same_bits(weight, self._small.base[layer]), (step, layer)
        self.seen.clear()


@pytest.mark.parametrize(
    ("small", "policy"),
    [("", "gpu"), ("", "lean"), ("", "ram"), ("medvram", "gpu"), ("medvram", "lean"), ("lowvram", "lean")],
    indirect=["small"],
)
def test_weights_are_exact_in_each_step_and_pristine_behind_the_last(small: Small, policy: str):
    truth = Truth(small)
    with options(small.bench, lbw_base_weights=policy), small.bench.webui.observing(truth):
        for _ in range(2):
            with restore_counter(small.bench.webui) as counter:
                small.generate(prompt=STOP)
                assert counter.take() == 0, "the host re-patched"
            truth.assert_unet({"r_lora": ("OUT", [1, 1, 0, 0])})
            assert small.is_at_rest()


def test_three_networks_curves_and_plain_ones_in_turn(small: Small):
    truth = Truth(small)
    with small.bench.webui.observing(truth):
        small.generate(prompt=THREE)
        truth.assert_unet({
            "r_lora": ("all", [0.7, 0, 0, 0]), "r_lora2": ("OUT", [0, 0, -0.4, -0.4]),
            "r_locon": ("MID", [0, 0.3, 0.3, 0]),
        })  # fmt: skip
        assert small.is_at_rest()
        small.generate(prompt=CURVE)
        truth.assert_unet({"r_lora": ("all", [0, 1 / 3, 2 / 3, 1])})
        assert small.is_at_rest()
        small.generate(prompt="nothing")
        truth.assert_unet({"r_lora": ("all", [0, 0, 0, 0])})
        assert small.is_pristine()
        small.generate(prompt=PLAIN)
        truth.assert_unet({"r_lora": ("all", [1, 1, 1, 1])})
        assert small.is_at_rest()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        without_scripts(small.bench, "nothing")
    assert small.is_pristine()


@pytest.mark.parametrize("small", ["", "medvram"], ids=["all of it on the GPU", "medvram"], indirect=True)
def test_images_are_those_of_a_gpu_on_which_layers_stay_patched(
    small: Small, rests: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
):
    fields = {"prompt": THREE, "hr_prompt": CURVE, **HIRES}
    results = [small.generate(**fields) for _ in range(2)]
    small.generate(prompt="nothing", steps=1)
    rests(False)
    monkeypatch.setattr(parameters, "device_of", lambda _layer: torch.device("cpu"))
    usual = small.generate(**fields)
    for result in results:
        assert difference(usual, result) == 0
        assert result.infotexts == usual.infotexts


@contextmanager
def memory_runs_out(small: Small, *, once: bool) -> Iterator[list[int]]:
    """In the second step of a pass. What is yielded grows each time."""
    state, times = small.bench.webui.shared.state, []

    def run_out(_module: nn.Module, _inputs: Any) -> None:
        if state.sampling_step == 1 and not (times and once):
            times.append(state.sampling_step)
            torch.rand(1)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    unet = small.bench.webui.shared.sd_model.model.diffusion_model
    hook = unet.output_blocks[-1].register_forward_pre_hook(run_out)
    try:
        yield times
    finally:
        hook.remove()


@on_the_gpu
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ SDE", "DDIM", "UniPC", "LCM"])
def test_a_pass_in_which_memory_runs_out_is_sampled_once_more_to_the_same_image(small: Small, sampler: str):
    fields = {"prompt": STOP, "sampler_name": sampler, "subseed": 3, "subseed_strength": 0.1, "batch_size": 2}
    if sampler != "UniPC":  # the host's has an order that a short hires pass does not reach
        fields |= HIRES
    usual = small.generate(**fields)
    with memory_runs_out(small, once=True) as times:
        result = small.generate(**fields)
    assert len(times) == 1
    assert difference(usual, result) == 0
    assert messages(usual) == []
    (message,) = messages(result)
    assert "memory ran out while" in message and "given back" in message
    assert small.is_at_rest()


@on_the_gpu
def test_a_pass_in_which_another_checkpoint_has_taken_over_is_not_begun_anew(small: Small):
    """As a refiner does, in the same model, if one checkpoint is kept: nothing would lead back to the first."""
    usual = small.generate(prompt=STOP)
    model = small.bench.webui.shared.sd_model
    info = model.sd_checkpoint_info

    def take_over(_params: Any) -> None:
        model.sd_checkpoint_info = object()

    try:
        with (
            memory_runs_out(small, once=True) as times,
            small.bench.webui.observing(take_over),
            pytest.raises(torch.cuda.OutOfMemoryError, match="has given back what it held"),
        ):
            small.generate(prompt=STOP)
    finally:
        model.sd_checkpoint_info = info
    assert len(times) == 1
    assert small.is_at_rest()
    assert difference(small.generate(prompt=STOP), usual) == 0


def test_memory_that_runs_out_again_is_the_hosts_own_error(small: Small):
    usual = small.generate(prompt=STOP)
    with memory_runs_out(small, once=False) as times, pytest.raises(torch.cuda.OutOfMemoryError, match="CUDA out of"):
        small.generate(prompt=STOP)
    assert len(times) == 2
    assert small.is_at_rest()
    assert difference(small.generate(prompt=STOP), usual) == 0
    assert small.is_at_rest()


INNER: dict[str, tuple[list[Any], Callable[[Any], None]]] = {
    "without scripts": ([], lambda p: setattr(p, "scripts", None)),
    "with the extension": ([], lambda _p: None),
    "with the extension switched off": (["", False], lambda _p: None),
}
"""The extension's arguments, and what is changed in the request."""


@on_the_gpu
@pytest.mark.parametrize("prompt", ["a face", "a face <lora:r_lora2:0.6>"])
@pytest.mark.parametrize("kind", INNER)
def test_a_generation_inside_another_is_what_it_would_be_on_its_own(small: Small, kind: str, prompt: str):
    """A detailer's, say, while layers of the outer one's text encoder wait to be at work."""

    arguments, change = INNER[kind]

    def inner() -> Any:
        p = small.bench.webui.request(arguments, prompt=prompt, steps=2)
        change(p)
        forget_conditioning(p)
        return small.bench.webui.processing.process_images(p)

    def outer(between: Callable[[], Any]) -> Any:
        p = small.bench.webui.request(prompt=STOP, steps=STEPS, n_iter=2)
        save_samples = p.save_samples
        p.save_samples = lambda: (between(), save_samples())[1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return small.bench.webui.run(p)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone = inner()
    usual = outer(lambda: None)
    made: list[Any] = []
    with_inner = outer(lambda: made.append(inner()))
    assert [difference(each, alone) for each in made] == [0, 0]
    assert [np.asarray(image).tolist() for image in with_inner.images] == [
        np.asarray(image).tolist() for image in usual.images
    ]
    small.generate(prompt="nothing", steps=1)
    assert small.is_at_rest()


@on_the_gpu
def test_a_cell_of_the_hosts_plot_that_fails_leaves_nothing_to_the_next_one(small: Small):
    """Nobody is told of the failure: the host shows it, and goes on with the next cell."""
    processing = small.bench.webui.processing
    usual = small.generate(prompt=PLAIN)
    small.generate(prompt=STOP)  # its conditioning is known from now on, so that the text encoder waits
    p = small.bench.webui.request(prompt=STOP, steps=STEPS)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("broken")

    p.sample = fail
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="broken"):
        processing.process_images(p)
    assert small.engine.held
    for prompt in (PLAIN, f"{PLAIN} <lora:r_locon:0>", "nothing"):
        result = small.generate(prompt=prompt)
        assert prompt == "nothing" or difference(result, usual) == 0
        assert small.is_at_rest()


@on_the_gpu
def test_a_pass_that_cannot_be_prepared_is_the_hosts_own(small: Small, monkeypatch: pytest.MonkeyPatch):
    plain = "a blue cat <lora:r_lora:0:1>"  # prompts that are known already may have been encoded by either
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = small.bench.webui.request(args=["", False], prompt=plain, steps=STEPS)
        alone = small.bench.webui.run(p)

    def fail(*_arguments: Any) -> None:
        raise ValueError("no plan")

    small.generate(prompt=STOP)
    with monkeypatch.context() as patch:
        patch.setattr(LoraEngine, "begin_pass", fail)
        result = small.generate(prompt=plain)
    assert difference(result, alone) == 0
    (message,) = messages(result)
    assert "no plan" in message and "the host applies the LoRAs itself" in message
    small.generate(prompt=STOP)
    assert small.is_at_rest()
