"""Hosts before 1.10 and 1.8, which announce neither a pass nor whose evaluation it is: the stand-in without both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from tests.host.conftest import Bench
from tests.host.measure import Recording
from tests.host.test_schedule import timeline

HALF = "a red cat <lora:t_lora:1:stop=0.5>"


@pytest.fixture(autouse=True)
def older(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Takes the hook away, and the word whose evaluation it is; brings the host's function that makes samplers."""
    from modules import scripts, sd_samplers, sd_samplers_cfg_denoiser

    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        monkeypatch.setattr(runner, "process_before_every_sampling", lambda *_args, **_kwargs: None, raising=False)
    monkeypatch.setattr(scripts, "ScriptRunner", object)
    tell = sd_samplers_cfg_denoiser.cfg_denoiser_callback

    def tell_less(params: Any) -> None:
        params.denoiser = None
        tell(params)

    monkeypatch.setattr(sd_samplers_cfg_denoiser, "cfg_denoiser_callback", tell_less)
    create = sd_samplers.create_sampler
    yield lambda: sd_samplers.create_sampler
    assert sd_samplers.create_sampler is create


def record(bench: Bench, **fields: Any) -> tuple[Any, Recording]:
    return bench.record("t_lora", prompt=HALF, steps=4, **fields)


def test_each_batch_counts_its_steps(bench: Bench):
    _, found = record(bench, n_iter=2)
    assert timeline(found) == [1, 1, 0, 0] * 2


def test_img2img_has_its_sampler_beforehand(bench: Bench):
    picture = Image.new("RGB", (64, 64), (200, 40, 40))
    _, found = record(bench, init_images=[picture], denoising_strength=1.0, n_iter=2)
    assert timeline(found) == [1, 1, 0, 0] * 2


def test_the_hires_pass_counts_from_its_own_step_0(bench: Bench):
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 4}
    _, found = record(bench, **hires, denoising_strength=1.0)
    assert timeline(found) == [1, 1, 0, 0] * 2


def test_what_another_script_hangs_on_a_request_stays(bench: Bench):
    calls: list[str] = []
    p = bench.webui.request(prompt=HALF, steps=2)
    sample = p.sample
    p.sample = lambda *args, **kwargs: (calls.append("sample"), sample(*args, **kwargs))[1]
    bench.webui.run(p)
    bench.webui.run(p)
    assert calls == ["sample", "sample"]


def test_a_sampler_whose_launch_another_script_has_replaced(
    bench: Bench, older: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
):
    from modules import sd_samplers

    calls: list[int] = []
    create = sd_samplers.create_sampler

    def created(*args: Any) -> Any:
        sampler = create(*args)
        launch = sampler.launch_sampling
        sampler.launch_sampling = lambda *args: (calls.append(args[0]), launch(*args))[1]
        return sampler

    with monkeypatch.context() as patch:
        patch.setattr(sd_samplers, "create_sampler", created)
        _, found = record(bench)
    assert calls == [4] and timeline(found) == [1, 1, 0, 0]


def test_a_copy_without_scripts_makes_an_image_of_its_own(bench: Bench):
    made: list[Any] = []
    p = bench.webui.request(prompt=HALF, steps=2)

    def save_samples() -> bool:
        copied = copy.copy(p)
        copied.scripts, copied.width, copied.height = None, 128, 128
        del copied.save_samples
        made.append(bench.webui.processing.process_images(copied))
        return False

    p.save_samples = save_samples
    bench.webui.run(p)
    assert made[0].images[0].size == (128, 128)


def test_a_sampler_that_fails_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def fail(_params: Any) -> None:
        raise RuntimeError("meant to fail")

    unet = bench.webui.shared.sd_model.model.diffusion_model
    with monkeypatch.context() as patch:
        patch.setattr(unet, "forward", lambda *_args, **_kwargs: fail(None))
        with pytest.raises(RuntimeError, match="meant to fail"):
            bench.webui.generate(prompt=HALF)
    _, found = record(bench)
    assert timeline(found) == [1, 1, 0, 0]
