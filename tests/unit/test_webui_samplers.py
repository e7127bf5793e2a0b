"""The stand-in WebUI's samplers evaluate the model where the real host's do, and report steps at the same moments.

`tests/data/samplers.json` has, for each sampler, [sampling_step that a step callback sees, sigma or timestep, ...] of
each model evaluation in 8 steps, as recorded on the real host.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gradio")

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "webui"))

from modules import (  # noqa: E402
    prompt_parser,
    rng,
    script_callbacks,
    sd_models,
    sd_samplers,
    sd_samplers_common,
    shared,
)

GOLDEN = json.loads((TESTS / "data" / "samplers.json").read_text(encoding="utf-8"))
STEPS = 8


class GaussianModel:
    """A model whose images are normally distributed around what the prompt says: its best prediction is known."""

    parameterization = "eps"
    cond_stage_key = "txt"
    model = SimpleNamespace(conditioning_key="crossattn")
    sd_checkpoint_info = None
    spread = 0.5

    def __init__(self):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0).float()

    def apply_model(self, x, t, cond):
        alpha = torch.lerp(
            self.alphas_cumprod[t.floor().long()], self.alphas_cumprod[t.ceil().long()], t.float() % 1)
        alpha = alpha.reshape(-1, 1, 1, 1)
        mean = cond["c_crossattn"][0].mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        variance = alpha * self.spread**2 + 1 - alpha
        return (1 - alpha).sqrt() / variance * (x - alpha.sqrt() * mean)


def scheduled(value: float):
    """The conditioning of one prompt, all of whose tokens are `value`."""
    return [prompt_parser.ScheduledPromptConditioning(STEPS * 2, torch.full((4, 3), value))]


def conds(count: int):
    parts = [[prompt_parser.ComposableScheduledPromptConditioning(scheduled(0.3))] for _ in range(count)]
    return prompt_parser.MulticondLearnedConditioning((count,), parts), [scheduled(-0.1)] * count


@pytest.fixture
def model(monkeypatch):
    model = GaussianModel()
    monkeypatch.setattr(sd_models.model_data, "sd_model", model)
    monkeypatch.setattr(sd_models.model_data, "was_loaded_at_least_once", True)
    shared.state.begin(job="test")
    yield model
    shared.state.end()


def generation(seeds: list[int]) -> SimpleNamespace:
    """As much of a generation as a sampler looks at."""
    return SimpleNamespace(
        steps=STEPS, scheduler=None, hr_scheduler=None, is_hr_pass=False, sampler_noise_scheduler_override=None,
        extra_generation_params={}, eta=None, s_min_uncond=0.0, s_churn=0.0, s_tmin=0.0, s_tmax=float("inf"),
        s_noise=1.0, cfg_scale=2.0, denoising_strength=0.75, scripts=None, refiner_checkpoint_info=None,
        refiner_switch_at=None, all_seeds=seeds, iteration=0, batch_size=len(seeds),
        rng=rng.ImageRNG((4, 8, 8), seeds))


def run(name: str, model, seeds: list[int], img2img: bool = False):
    """Sample, and return the latents with what a step callback saw at each evaluation."""
    seen = []

    def on_evaluation(params):
        seen.append((params.sampling_step, round(float(params.sigma[0]), 4), params.denoiser.step))

    p = generation(seeds)
    sampler = sd_samplers.create_sampler(name, model)
    cond, uncond = conds(len(seeds))
    image_cond = torch.zeros(len(seeds), 5, 1, 1)
    script_callbacks.on_cfg_denoiser(on_evaluation)
    try:
        noise = p.rng.next()
        if img2img:
            start = torch.full_like(noise, 0.2)
            latents = sampler.sample_img2img(p, start, noise, cond, uncond, image_conditioning=image_cond)
        else:
            latents = sampler.sample(p, noise, cond, uncond, image_conditioning=image_cond)
    finally:
        script_callbacks.remove_callbacks_for_function(on_evaluation)
    return latents, seen


@pytest.mark.parametrize("name", GOLDEN)
def test_every_evaluation_sees_the_step_and_noise_level_of_the_real_host(name, model):
    _, seen = run(name, model, [1])
    expected = [(step, level) for step, level, _ in GOLDEN[name]["evaluations"]]
    assert [step for step, _, _ in seen] == [step for step, _ in expected]
    assert [level for _, level, _ in seen] == pytest.approx([level for _, level in expected], abs=1.01e-4)
    assert [count for _, _, count in seen] == list(range(len(expected)))


@pytest.mark.parametrize("name", [sampler.name for sampler in sd_samplers.all_samplers])
def test_a_batch_equals_its_images_made_alone(name, model):
    if name == "DPM adaptive":
        pytest.skip("its step length depends on the whole batch")
    batch, _ = run(name, model, [1, 2])
    for index, seed in enumerate([1, 2]):
        alone, _ = run(name, model, [seed])
        assert torch.allclose(batch[index], alone[0], atol=1e-4)


@pytest.mark.parametrize("name", [sampler.name for sampler in sd_samplers.all_samplers])
def test_samples_have_the_distribution_that_the_model_describes(name, model):
    latents, _ = run(name, model, list(range(40)))
    if name == "LCM":  # wants a model that was trained for it; with this one it only has to stay in range
        assert latents.abs().max() < 10
        return
    # Guidance moves the mean from 0.3 by the difference of the prompts, 0.4, as far as the noise hides the image.
    assert 0.25 < float(latents.mean()) < 0.9
    assert 0.3 < float(latents.std()) < 0.75


@pytest.mark.parametrize("name", ["Euler a", "DPM++ 2M", "Heun", "UniPC", "DDIM", "DPM fast"])
def test_img2img_runs_its_share_of_the_steps(name, model):
    _, seen = run(name, model, [1], img2img=True)
    full = GOLDEN[name]["evaluations"]
    assert 0 < len(seen) < len(full)
    if name not in ("UniPC", "DPM fast"):  # these lay out their own way from where img2img enters
        assert [level for _, level, _ in seen] == pytest.approx([row[1] for row in full[-len(seen):]], abs=1.01e-4)


def test_second_order_samplers_are_marked_and_expect_two_evaluations_a_step():
    marked = {sampler.name for sampler in sd_samplers.all_samplers if sampler.options.get("second_order")}
    assert marked == {"DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart"}
    assert sd_samplers.find_sampler_config("Heun").total_steps(8) == 16
    assert sd_samplers.find_sampler_config("Euler").total_steps(8) == 8


def test_an_interrupted_pass_ends_at_the_next_evaluation_with_what_there_is(model):
    def interrupt(params):
        if params.denoiser.step == 3:
            shared.state.interrupt()

    script_callbacks.on_cfg_denoiser(interrupt)
    try:
        latents, seen = run("Euler a", model, [1])
    finally:
        script_callbacks.remove_callbacks_for_function(interrupt)
    assert len(seen) == 4
    assert latents.shape == (1, 4, 8, 8)
    assert issubclass(sd_samplers_common.InterruptedException, BaseException)
    assert not issubclass(sd_samplers_common.InterruptedException, Exception)


def test_many_restart_steps_go_back_up_in_noise(model):
    levels = []
    script_callbacks.on_cfg_denoiser(on_level := lambda params: levels.append(float(params.sigma[0])))
    try:
        p = generation([1])
        p.steps = 24
        sampler = sd_samplers.create_sampler("Restart", model)
        cond, uncond = conds(1)
        sampler.sample(p, p.rng.next(), cond, uncond, image_conditioning=torch.zeros(1, 5, 1, 1))
    finally:
        script_callbacks.remove_callbacks_for_function(on_level)
    assert any(later > earlier * 2 for earlier, later in pairwise(levels))
