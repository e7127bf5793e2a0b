"""The stand-in as seen by `webuiapi`, the published client for the real WebUI's API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from PIL import Image, ImageChops, ImageStat
from webuiapi import WebUIApi

from tests.server import Server, running_server

SMALL = {"prompt": "a red cat", "negative_prompt": "blurry", "seed": 1, "steps": 4, "width": 64, "height": 64}
ZERO_PRESET = "NOTHING:" + ",".join(["0"] * 17)


@pytest.fixture(scope="module")
def api(server: Server) -> WebUIApi:
    client = WebUIApi(port=server.port)
    client.session.trust_env = False
    return client


@pytest.fixture
def txt2img(api: WebUIApi) -> Callable[..., Any]:
    return lambda **fields: api.txt2img(**{**SMALL, "alwayson_scripts": {}, "override_settings": {}, **fields})


@pytest.fixture
def post(server: Server) -> Callable[..., requests.Response]:
    return lambda path, **body: requests.post(f"{server.url}/sdapi/v1/{path}", json=body, timeout=60)


@pytest.fixture
def first_checkpoint(api: WebUIApi) -> Iterator[None]:
    """Leaves the server with the checkpoint that it had."""
    title = api.util_get_current_model()
    yield
    api.set_options({"sd_model_checkpoint": title})


def lbw_args(*args: Any) -> dict[str, Any]:
    return {"LoRA Block Weight": {"args": list(args)}}


def largest_difference(a: Image.Image, b: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


def test_the_same_request_makes_the_same_image(txt2img):
    assert txt2img().image.tobytes() == txt2img().image.tobytes()


def test_a_lora_changes_the_image(txt2img):
    without = txt2img().image
    assert txt2img(prompt="a red cat <lora:demo:1>").image.tobytes() != without.tobytes()
    assert txt2img().image.tobytes() == without.tobytes()


def test_the_answer_tells_how_the_images_were_made(txt2img):
    result = txt2img(n_iter=2, prompt="a red cat <lora:demo:0.5>")
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert result.parameters["prompt"] == "a red cat <lora:demo:0.5>"
    assert result.info["all_seeds"] == [1, 2]
    assert result.info["index_of_first_image"] == 0
    assert result.info["infotexts"][1].startswith("a red cat <lora:demo:0.5>\nNegative prompt: blurry\nSteps: 4, ")
    assert result.images[1].info["parameters"] == result.info["infotexts"][1]


def test_hires_pass_makes_a_larger_image(txt2img):
    assert txt2img(enable_hr=True, hr_scale=2, hr_second_pass_steps=3).image.size == (128, 128)


def test_img2img_starts_from_its_image(api):
    starts = [Image.new("RGB", (64, 64), colour) for colour in ("#c82020", "#2020c8")]
    red, blue = (api.img2img(images=[start], **SMALL, denoising_strength=0.3).image for start in starts)
    assert red.size == blue.size == (64, 64)
    assert ImageStat.Stat(red).mean[0] > ImageStat.Stat(blue).mean[0] + 50
    assert ImageStat.Stat(blue).mean[2] > ImageStat.Stat(red).mean[2] + 50


def test_options_are_set_and_told(api):
    before = api.get_options()
    assert before["sd_model_checkpoint"].startswith("demo-sd1")
    api.set_options({"s_noise": 0.5})
    try:
        assert api.get_options()["s_noise"] == 0.5
    finally:
        api.set_options({"s_noise": before["s_noise"]})
    assert api.get_options() == before


def test_an_override_holds_for_one_request(api, txt2img):
    api.set_options({"CLIP_stop_at_last_layers": 1})  # only what has been set once is set back, on the real host too
    plain = txt2img().image
    assert txt2img(override_settings={"CLIP_stop_at_last_layers": 2}).image.tobytes() != plain.tobytes()
    assert api.get_options()["CLIP_stop_at_last_layers"] == 1


def test_a_checkpoint_is_switched_and_back(api, txt2img, first_checkpoint):
    plain = txt2img().image
    title = api.util_get_current_model()
    other = next(name for name in api.util_get_model_names() if name.startswith("other-sd1"))
    api.util_set_model(other, find_closest=False)
    assert api.util_get_current_model().startswith("other-sd1")
    assert txt2img().image.tobytes() != plain.tobytes()
    api.util_set_model(title, find_closest=False)
    assert txt2img().image.tobytes() == plain.tobytes()


def test_loras_are_listed(api):
    loras = {lora["name"]: lora for lora in api.get_loras()}
    assert {"demo", "demo2"} <= set(loras)
    assert loras["demo"].keys() == {"name", "alias", "path", "metadata"}


def test_lists_are_what_the_client_expects(api):
    assert {"Euler a", "DPM++ 2M", "DDIM"} <= set(api.util_get_sampler_names())
    assert "karras" in api.util_get_scheduler_names()
    assert any(name.startswith("demo-sd1") for name in api.util_get_model_names())
    assert {"name": "Latent"} in api.get_latent_upscale_modes()
    assert api.get_cmd_flags()["api"] is True
    assert "lora block weight" in api.get_scripts()["txt2img"]
    assert set(api.get_embeddings()) == {"loaded", "skipped"}
    assert api.get_memory()["ram"]["total"] > 0
    for lister in (api.get_upscalers, api.get_sd_vae, api.get_hypernetworks, api.get_face_restorers,
                   api.get_realesrgan_models, api.get_prompt_styles):
        assert isinstance(lister(), list)
    assert api.refresh_checkpoints() is None


def test_script_info_names_the_arguments(server):
    infos = requests.get(f"{server.url}/sdapi/v1/script-info", timeout=10).json()
    ours = [info for info in infos if info["name"] == "lora block weight"]
    assert [info["is_img2img"] for info in ours] == [False, True]
    assert all(info["is_alwayson"] for info in ours)
    assert any(arg["label"] == "Active" for arg in ours[0]["args"])


def test_png_info_reads_back_the_parameters(api, txt2img):
    image = txt2img().image
    result = api.png_info(image)
    assert result.info == image.info["parameters"]
    assert result.parameters["Seed"] == "1"


def test_an_infotext_fills_in_what_the_request_leaves_out(txt2img, post):
    expected = txt2img(prompt="a red cat <lora:demo:0.7>", steps=3, cfg_scale=5)
    answer = post("txt2img", infotext=expected.image.info["parameters"]).json()
    assert answer["parameters"]["steps"] == 3
    assert answer["images"] == expected.json["images"]


def test_images_are_sent_and_saved_as_asked(txt2img, server):
    result = txt2img(send_images=False, save_images=True)
    assert result.images == []
    newest = max((server.data / "outputs").rglob("*.png"), key=lambda file: file.stat().st_mtime_ns)
    with Image.open(newest) as saved:
        assert saved.info["parameters"] == result.info["infotexts"][0]


class Generation(threading.Thread):
    """A request under way."""

    def __init__(self, request: Callable[[], Any]):
        super().__init__()
        self.request = request
        self.result: Any = None
        self.start()

    def run(self) -> None:
        self.result = self.request()


def wait_for_step(api: WebUIApi, step: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        progress = api.get_progress()
        if progress["state"]["sampling_step"] >= step:
            return progress
    raise AssertionError(f"step {step} was never reached")


def test_progress_is_told_and_interrupt_ends_a_generation(api, txt2img):
    reference = txt2img().image
    assert api.get_progress()["progress"] == 0

    generation = Generation(lambda: txt2img(steps=150, prompt="a red cat <lora:demo:1:stop=100>"))
    progress = wait_for_step(api, 3)
    assert 0 < progress["progress"] < 1
    assert progress["state"]["sampling_steps"] == 150
    assert progress["state"]["job_count"] == 1
    api.interrupt()
    interrupted_at = api.get_progress()["state"]["sampling_step"]
    generation.join(timeout=60)

    assert generation.result.image.size == (64, 64)
    assert interrupted_at < 140
    assert api.get_progress()["state"]["job_count"] == 0
    assert txt2img().image.tobytes() == reference.tobytes()


def test_skip_goes_on_with_the_next_image(api, txt2img):
    generation = Generation(lambda: txt2img(steps=40, n_iter=2))
    wait_for_step(api, 3)
    api.skip()
    generation.join(timeout=60)
    assert len(generation.result.images) == 2


def test_arguments_reach_the_extension(txt2img):
    tag = "a red cat <lora:demo:1:lbw=NOTHING>"
    without, full = txt2img().image, txt2img(prompt="a red cat <lora:demo:1>").image
    assert largest_difference(without, full) > 20
    assert txt2img(prompt=tag, alwayson_scripts=lbw_args(ZERO_PRESET, True)).image.tobytes() == without.tobytes()
    inactive = txt2img(prompt=tag, alwayson_scripts=lbw_args(ZERO_PRESET, False)).image
    assert largest_difference(inactive, full) <= 1


def test_arguments_left_out_keep_their_defaults(txt2img):
    tag = "a red cat <lora:demo:1:lbw=NOTHING>"
    without = txt2img().image
    assert txt2img(prompt=tag, alwayson_scripts=lbw_args(ZERO_PRESET)).image.tobytes() == without.tobytes()


def test_the_api_without_the_page_is_the_same(txt2img, api, tmp_path):
    with running_server(tmp_path, "--nowebui") as server:
        alone = WebUIApi(port=server.port)
        alone.session.trust_env = False
        assert alone.get_scripts() == api.get_scripts()
        prompt = "a red cat <lora:demo:1:lbw=INS>"
        image = alone.txt2img(**{**SMALL, "prompt": prompt, "alwayson_scripts": {}}).image
        assert image.tobytes() == txt2img(prompt=prompt).image.tobytes()


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("txt2img", {"alwayson_scripts": {"No such script": {}}}, 422, "Script 'No such script' not found"),
        ("txt2img", {"script_name": "No such script"}, 422, "Script 'No such script' not found"),
        ("img2img", {}, 404, "Init image not found"),
        ("img2img", {"init_images": ["bm8gaW1hZ2U="]}, 500, "Invalid encoded image"),
    ],
)
def test_an_error_is_answered_as_json(post, path, body, status, detail):
    answer = post(path, **body)
    assert answer.status_code == status
    assert answer.json() == {"error": "HTTPException", "detail": detail, "body": "", "errors": ""}


def test_a_wrong_type_is_answered_with_its_place(post):
    answer = post("txt2img", steps="many")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "steps"]


def test_an_unexpected_error_is_answered_as_json(post):
    answer = post("options", sd_model_checkpoint="no such model")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "RuntimeError", "detail": "", "body": "", "errors": "model 'no such model' not found"}
