"""A refiner takes over in the middle of an image: what of a LoRA is in it, and what the prompt is encoded with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch import Tensor

from tests.host import slow_path
from tests.host.checkpoints import other_weights, switch, use, write_checkpoint
from tests.host.conftest import Bench
from tests.host.families import trained_layers, weights_of, write_family_lora
from tests.host.measure import Strengths, copy_weights, messages, restore_counter, strengths
from tests.host.test_isolation import difference

STEPS = 6


class Stages:
    """The strengths of t_lora at each evaluation, against the weights of the checkpoint in use, and its name."""

    def __init__(self, bench: Bench, bases: dict[str, dict[str, Tensor]]) -> None:
        self.bench, self.bases = bench, bases
        self.checkpoints: list[str] = []
        self.strengths: list[Strengths] = []

    def __call__(self, _params: Any) -> None:
        name = self.bench.webui.shared.sd_model.sd_checkpoint_info.name_for_extra
        self.checkpoints.append(name)
        deltas = {"t_lora": self.bench.deltas["t_lora"]}
        self.strengths.append(strengths(self.bench.layers(), self.bases[name], deltas))

    def of(self, block: str) -> list[float]:
        return [round(found["t_lora"][block][0], 2) for found in self.strengths]


Refined = tuple[Any, Stages]


@pytest.fixture
def refine(bench: Bench, option: Callable[..., None]) -> Iterator[Callable[..., Refined]]:
    """Generate with a refiner of the same kind as the checkpoint, with so many checkpoints in memory."""

    first = bench.webui.shared.sd_model.sd_checkpoint_info
    info = write_checkpoint(bench.webui, "refining", other_weights)

    def run(limit: int, prompt: str, *, slowly: bool = False, is_new: bool = False, **fields: Any) -> Refined:
        """With ``is_new``, there is room for the refiner, but it is not in memory yet."""
        option(sd_checkpoints_limit=1 if is_new else limit)
        switch(info)
        bases = {first.name_for_extra: bench.base, info.name_for_extra: copy_weights(bench.layers())}
        switch(first)
        option(sd_checkpoints_limit=limit)
        stages = Stages(bench, bases)
        fields = {"steps": STEPS, "refiner_checkpoint": info.title, "refiner_switch_at": 0.6, **fields}
        with bench.webui.observing(stages):
            if slowly:
                return slow_path.generate(bench.webui, prompt, **fields), stages
            return bench.webui.generate(prompt=prompt, **fields), stages

    yield run
    option(sd_checkpoints_limit=1)
    switch(first)


BASE_AND_OUT = ",".join(["0.5", *["0"] * 7, *["1"] * 9])


@pytest.mark.parametrize("limit", [1, 2])
def test_blocks_and_steps_go_on_in_the_refiner(
    bench: Bench, refine: Callable[..., Refined], capfd: pytest.CaptureFixture, limit: int
):
    _, stages = refine(limit, f"a red cat <lora:t_lora:1:lbw={BASE_AND_OUT}:stop={STEPS - 1}>", n_iter=2)
    assert stages.checkpoints == ([stages.checkpoints[0]] * 4 + ["refining"] * 2) * 2
    assert stages.of("OUT05") == [1, 1, 1, 1, 1, 0] * 2
    assert stages.of("IN04") == [0] * 12
    if not bench.webui.is_forge:  # whose text encoder is at work before
        assert stages.of("BASE") == [0.5] * 12
    assert "Error" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("limit", [1, 2])
def test_the_refiner_reads_the_prompt_with_the_blocks_of_the_tag(
    bench: Bench, refine: Callable[..., Refined], limit: int
):
    """The host encodes it anew before anybody is told of a further evaluation, and would use its own multipliers."""
    bench.not_on_forge("has no slow path across two models here")
    prompt = f"a red cat <lora:t_lora:1:lbw={BASE_AND_OUT}:stop=5>"
    with restore_counter(bench.webui) as counter:
        ours, _stages = refine(limit, prompt)
        assert counter.take() == 0, "the host re-patched"
    slowly, _ = refine(2, prompt, slowly=True)  # with 1, the host alone may unload the LoRAs
    assert difference(ours, slowly) <= 1
    assert difference(ours, refine(limit, prompt.replace("=0.5", "=1"))[0]) > 0


@pytest.mark.parametrize("limit", [1, 2])
def test_a_refiner_of_another_kind(
    bench: Bench, checkpoints: list[str], option: Callable[..., None], capfd: pytest.CaptureFixture, limit: int
):
    """SDXL's own: a LoRA that stays loaded is applied where its layers fit, and the rest is told once."""
    bench.not_on_forge("loads the LoRAs anew for the refiner")
    option(sd_checkpoints_limit=limit)
    use(checkpoints, "refiner")
    use(checkpoints, "sdxl")
    deltas = write_family_lora(bench.webui.lora_folder / "t_family.safetensors", trained_layers(bench.layers()))
    base = weights_of(bench.layers(), deltas)
    refiner = next(title for title in checkpoints if "refiner" in title)
    fields = {"steps": 3, "refiner_checkpoint": refiner, "refiner_switch_at": 0.5}
    seen: list[tuple[str, bool]] = []

    def note(_params: Any) -> None:
        name = bench.webui.shared.sd_model.sd_checkpoint_info.name_for_extra
        seen.append((name.partition("-")[2], bool(bench.webui.networks.loaded_networks)))

    with bench.webui.observing(note):
        result = bench.webui.generate(prompt="a red cat <lora:t_family:0.8:lbw=OUTALL:stop=2>", **fields)
    assert seen == [("sdxl", True), ("refiner", True), ("refiner", True)]
    assert len(result.images) == 1
    assert "Error" not in "".join(capfd.readouterr())
    assert result.comments.count("parts cannot be used and are left out") == 1
    use(checkpoints, "sdxl")
    bench.webui.generate(prompt="a red cat", steps=1)
    assert all(weight.equal(base[key]) for key, weight in weights_of(bench.layers(), deltas).items())
    option(sd_checkpoints_limit=1)
    use(checkpoints, "refiner")


def test_an_image_does_not_depend_on_whether_the_refiner_had_to_be_loaded(
    bench: Bench, refine: Callable[..., Refined], capfd: pytest.CaptureFixture
):
    bench.not_on_forge("loads the LoRAs anew for the refiner")
    prompt = f"a red cat <lora:t_lora:1:lbw={BASE_AND_OUT}:stop=5> <lora:t_lora2:0.5:lbw=NONE>"
    first, stages = refine(2, prompt, is_new=True)
    again, _ = refine(2, prompt)
    assert stages.checkpoints == [stages.checkpoints[0]] * 4 + ["refining"] * 2
    assert stages.of("OUT05") == [1, 1, 1, 1, 1, 0]
    assert difference(first, again) == 0
    assert messages(first) == messages(again) == []
    assert [net.name for net in bench.webui.networks.loaded_networks] == ["t_lora", "t_lora2"]
    assert "Error" not in "".join(capfd.readouterr())


def test_loras_that_are_the_hosts_alone_are_its_own_in_the_refiner_which_is_told(
    bench: Bench, refine: Callable[..., Refined], monkeypatch: pytest.MonkeyPatch
):
    bench.not_on_forge("loads the LoRAs anew for the refiner")
    monkeypatch.setitem(bench.webui.shared.opts.data, "lbw_plain_loras", False)
    first, _ = refine(2, "a red cat <lora:t_lora:1>", is_new=True)
    again, _ = refine(2, "a red cat <lora:t_lora:1>")
    assert messages(first) == ["the host has unloaded all LoRAs to load the refiner, which works without them"]
    assert messages(again) == []
    assert messages(refine(2, "a red cat", is_new=True)[0]) == []
