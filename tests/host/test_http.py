"""The HTTP API: our own routes, the check of requests before the host begins them, and what the README says of both."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lbw.request.arguments import ARGUMENTS
from lbw.tags.families import FLUX, ORIGINAL_LAYOUTS
from tests.server import Server, running_server

PROJECT = Path(__file__).resolve().parents[2]
SMALL = {"prompt": "a red cat", "seed": 1, "steps": 2, "width": 64, "height": 64}
ZEROS = ",".join(["0"] * 17)
ROUTES = {
    "/lbw/v1/presets": "get", "/lbw/v1/elements": "get", "/lbw/v1/blocks": "get", "/lbw/v1/parse": "post",
    "/lbw/v1/strengths": "get", "/lbw/v1/own_default": "get", "/lbw/v1/live": "get",
}


@pytest.fixture
def post(server: Server, session: requests.Session) -> Callable[..., requests.Response]:
    return lambda path, body: session.post(server.url + path, json=body, timeout=60)


@pytest.fixture
def get(server: Server, session: requests.Session) -> Callable[..., Any]:
    return lambda path: session.get(server.url + path, timeout=60).json()


def with_args(args: Any, **fields: Any) -> dict[str, Any]:
    return {**SMALL, "alwayson_scripts": {"LoRA Block Weight": {"args": args}}, **fields}


def pixels(answer: dict[str, Any], index: int = 0) -> bytes:
    """The pixels of one of an answer's images, without its infotext."""
    with Image.open(io.BytesIO(base64.b64decode(answer["images"][index]))) as image:
        return image.tobytes()


def extra(answer: requests.Response) -> dict[str, Any]:
    return json.loads(answer.json()["info"])["extra_generation_params"]


@pytest.mark.parametrize(
    ("args", "place", "expected", "got"),
    [
        ([{"preset": "A"}], [0, "preset"], "one of the keys presets, active", '"A"'),
        ([{"active": 1}], [0, "active"], "true or false", "1"),
        ([{"active": None}], [0, "active"], "true or false", "null"),
        ([{"mode": "XYZ plot"}], [0, "mode"], "1 (XYZ plot)", '"XYZ plot"'),
        ([{"threshold": 256}], [0, "threshold"], "a number from 0 to 255", "256"),
        ([{"seed_count": 1.5}], [0, "seed_count"], "a whole number from 1 to 100", "1.5"),
        ([{"presets": ["A"]}], [0, "presets"], "a text", "a list of 1"),
        ([{"presets": "x" * 1_000_001}], [0, "presets"], "at most 1000000 characters", "x"),
        ([{"x_type": "Seed"}], [0, "x_type"], "Original Weights", '"Seed"'),
        ([{"default_preset": {}}], [0, "default_preset"], "a text", "an object of 0"),
        ([{"active": True}, 1], [], "one object", "a list of 2"),
        ("A", [], "a list", '"A"'),
        (None, [], "a list", "null"),
    ],
)
@pytest.mark.parametrize("path", ["txt2img", "img2img"])
def test_a_wrong_object_is_refused_before_any_work(post, get, path: str, args: Any, place: list, expected: str, got):
    before = get("/sdapi/v1/progress")["state"]["job_timestamp"]
    answer = post(f"/sdapi/v1/{path}", with_args(args, init_images=["bm8gaW1hZ2U="]))
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == ["body", "alwayson_scripts", "LoRA Block Weight", "args", *place]
    assert expected in detail["expected"]
    assert got in detail["got"]
    assert detail["msg"] == f"{detail['loc'][-1]}: expected {detail['expected']}, got {detail['got']}"
    assert get("/sdapi/v1/progress")["state"]["job_timestamp"] == before


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_has_not_are_refused(server: Server, session: requests.Session, number: str):
    body = json.dumps(with_args([{"threshold": 0.125}])).replace("0.125", number)
    answer = session.post(
        f"{server.url}/sdapi/v1/txt2img", data=body, headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code == 422
    assert "threshold: expected a number from 0 to 255" in answer.text


def test_the_title_may_be_written_in_any_case_as_on_the_host(post):
    body = {**SMALL, "alwayson_scripts": {"lora block weight": {"args": [{"nope": 1}]}}}
    assert post("/sdapi/v1/txt2img", body).status_code == 422


@pytest.mark.parametrize("scripts", [{"LoRA Block Weight": 5}, {"LoRA Block Weight": None}])
def test_what_is_no_object_of_arguments_is_refused(post, scripts: Any):
    answer = post("/sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": scripts})
    assert answer.status_code == 422
    assert "an object with the key args" in answer.text


def test_a_wrong_value_by_position_is_a_warning_in_the_answer(post):
    answer = post("/sdapi/v1/txt2img", with_args([f"MINE:{ZEROS}", "maybe"]))
    assert answer.status_code == 200
    assert extra(answer)["LBW warnings"] == ['argument 2, active: expected true or false, got "maybe"; '
                                             "the default true is used"]


def test_other_scripts_and_requests_without_ours_are_left_alone(post):
    assert post("/sdapi/v1/txt2img", SMALL).status_code == 200
    assert "not found" in post("/sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": {"Nope": {"args": [{"a": 1}]}}}).text
    assert post("/sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": 5}).json()["detail"][0]["loc"] == [
        "body", "alwayson_scripts"]
    assert post("/sdapi/v1/txt2img", {**SMALL, "script_name": "Nope"}).json()["detail"] == "Script 'Nope' not found"


def test_the_originals_example_of_a_plot_makes_a_grid(post):
    """Word for word, with its 17 values: two seeds beside each other."""
    body = {**SMALL, "prompt": "myprompt, <lora:demo:1:XYZ>", "script_name": "LoRA Block Weight",
            "script_args": ["XYZ:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", True, 1, "seed", "-1,-1", *[""] * 12]}
    answer = post("/sdapi/v1/txt2img", body).json()
    info = json.loads(answer["info"])
    assert (len(answer["images"]), info["index_of_first_image"], len(set(info["all_seeds"]))) == (3, 1, 2)
    assert len(pixels(answer)) > 2 * len(pixels(answer, 1))
    for index, seed in enumerate(info["all_seeds"], 1):
        alone = post("/sdapi/v1/txt2img", {**SMALL, "prompt": "myprompt, <lora:demo:1>", "seed": seed}).json()
        assert pixels(answer, index) == pixels(alone)
        assert f"Seed: {seed}" in info["infotexts"][index]
    assert "LBW warnings" not in info["extra_generation_params"]


def test_the_originals_example_of_regular_usage_makes_an_image(post):
    """It says 1, XYZ plot, and no axis."""
    presets = "MYSETS:1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0\nYOURSETS:0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1"
    scripts = {"LoRA Block Weight": {"args": [presets, True, 1, *[""] * 14]}}
    body = {**SMALL, "prompt": "myprompt, <lora:demo:1:MYSETS>", "alwayson_scripts": scripts}
    answer = post("/sdapi/v1/txt2img", body).json()
    alone = {**SMALL, "prompt": "myprompt, <lora:demo:1:lbw=1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0>"}
    assert [pixels(answer), len(answer["images"])] == [pixels(post("/sdapi/v1/txt2img", alone).json()), 1]
    assert "LBW warnings" not in json.loads(answer["info"])["extra_generation_params"]


def test_the_originals_example_of_the_analyzer_examines_17_blocks(post):
    """Word for word: a sheet, a chart, and the images."""
    body = {**SMALL, "prompt": "myprompt, <lora:demo:1:XYZ>", "script_name": "LoRA Block Weight",
            "script_args": ["XYZ:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", True, 2, "", "", "", "", "", "", "0,1", "17ALL",
                            1, "white", 20, True, "", ""]}
    answer = post("/sdapi/v1/txt2img", body)
    assert list(json.loads(extra(answer)["LBW analysis"])["percent"]) == list(ORIGINAL_LAYOUTS[17])
    assert len(answer.json()["images"]) == 2 + 1 + 17
    assert "LBW warnings" not in extra(answer)


@pytest.mark.parametrize("count", [5, 17, 18, 20])
def test_lists_of_other_lengths_leave_other_scripts_arguments_alone(post, count: int):
    values = [f"XYZ:{ZEROS}", True, 1, "values", "0,1", *[""] * 15][:count]
    body = {**SMALL, "prompt": "a red cat <lora:demo:1:XYZ>", "script_name": "lora block weight", "script_args": values}
    assert "LBW warnings" not in extra(post("/sdapi/v1/txt2img", body))


def test_a_plot_and_another_users_image_do_not_disturb_each_other(post):
    """Both are sent at once, and queue; neither sees the other's presets or marks."""
    plot = {**SMALL, "prompt": "a red cat <lora:demo:1:XYZ>", "script_name": "LoRA Block Weight",
            "script_args": [f"XYZ:{ZEROS}", True, 1, "values", "0,0.5,1", "Block ID", "IN04-OUT05"]}
    single = {**SMALL, "prompt": "a red cat <lora:demo:1:lbw=XYZ>"}
    bodies = [plot, single, plot, single]
    alone = [post("/sdapi/v1/txt2img", body).json() for body in bodies[:2]] * 2
    with ThreadPoolExecutor(max_workers=4) as pool:
        together = list(pool.map(lambda body: post("/sdapi/v1/txt2img", body).json(), bodies))
    assert [answer["images"] for answer in together] == [answer["images"] for answer in alone]
    assert [len(answer["images"]) for answer in together] == [4, 1, 4, 1]


def test_an_infotext_makes_the_image_again_without_its_presets(post):
    """By the request's ``infotext`` field, the host's own way."""
    weights = "1," + ",".join(["R"] * 16)
    args = [{"presets": f"MINE:{weights}", "default_preset": "MINE"}]
    first = post("/sdapi/v1/txt2img", with_args(args, prompt="a red cat <lora:demo:1>", batch_size=2)).json()
    told = json.loads(first["info"])["infotexts"][0]
    again = post("/sdapi/v1/txt2img", {"infotext": told, "batch_size": 2}).json()
    assert again["images"] == first["images"]  # files, so pixels and infotexts
    assert json.loads(again["info"])["infotexts"][0] == told
    plain = post("/sdapi/v1/txt2img", {**SMALL, "prompt": "a red cat <lora:demo:1>", "batch_size": 2}).json()
    assert pixels(plain) != pixels(first)


def test_requests_at_the_same_time_keep_apart(post):
    """They queue, as the host's do; each has a preset of the same name and its own meaning."""
    def body(value: str) -> dict[str, Any]:
        args = [{"presets": "MINE:" + ",".join([value] * 17), "default_preset": "MINE"}]
        return with_args(args, prompt="a red cat <lora:demo:1>", steps=3)

    bodies = [body("0"), body("1"), {**SMALL, "prompt": "a red cat <lora:demo:1>", "steps": 3}, body("0.5")]
    alone = [post("/sdapi/v1/txt2img", body).json() for body in bodies]
    with ThreadPoolExecutor(max_workers=8) as pool:
        together = list(pool.map(lambda body: post("/sdapi/v1/txt2img", body).json(), bodies * 2))
    assert [answer["images"] for answer in together] == [answer["images"] for answer in alone * 2]
    assert len(set(map(pixels, alone))) == 3  # the preset of ones is what no preset is


def test_img2img_takes_the_same_arguments(post):
    image = post("/sdapi/v1/txt2img", SMALL).json()["images"][0]
    args = [{"presets": f"MINE:{ZEROS}", "default_preset": "MINE"}]
    body = with_args(args, init_images=[image], prompt="a red cat <lora:demo:1>")
    answer, without = post("/sdapi/v1/img2img", body), post("/sdapi/v1/img2img", {**body, "prompt": SMALL["prompt"]})
    assert pixels(answer.json()) == pixels(without.json())
    assert extra(answer)["LBW default preset"] == f"MINE:{ZEROS}"


def test_presets_rule_sets_and_blocks_are_told(get):
    presets = {preset["name"]: preset for preset in get("/lbw/v1/presets")["presets"]}
    assert presets["OUTD"]["values"] == "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
    assert presets["OUTD"]["blocks"] == list(ORIGINAL_LAYOUTS[17])
    assert {"name": "ATTNDEEPOFF", "rules": "IN05-OUT05:attn:0"} in get("/lbw/v1/elements")["rule_sets"]
    assert get("/lbw/v1/blocks")["model"] == "sd"
    assert get("/lbw/v1/blocks?model=sdxl")["blocks"] == list(ORIGINAL_LAYOUTS[20])
    flux = get("/lbw/v1/blocks?model=flux")
    assert flux["layouts"] == {str(length): list(layout) for length, layout in FLUX.layouts.items()}
    assert (flux["title"], flux["layouts"]["61"]) == ("Flux", list(ORIGINAL_LAYOUTS[61]))
    assert get("/lbw/v1/blocks?model=qwen_image")["groups"]["LAST"][-1] == "B59"
    assert get("/lbw/v1/blocks?model=nope")["detail"][0]["loc"] == ["query", "model"]


def test_the_blocks_at_0_in_which_a_file_has_parts_are_named(post):
    prompt = "<lora:demo:1:lbw=OUTD> <lora:demo:1:lbw=ALL> <lora:nowhere:1:lbw=NONE> <lora:demo:1>"
    answer = post("/lbw/v1/parse", {"prompt": prompt, "steps": 2}).json()
    deep, everything, unknown, plain = (tag["zero_blocks"] for tag in answer["tags"])
    assert {"IN01", "M00", "OUT07"} <= {*deep} and not {"OUT03", "OUT06", "BASE"} & {*deep}
    assert everything == plain == [] and unknown is None
    assert answer["warnings"] == []
    whole = post("/lbw/v1/parse", {"prompt": prompt.replace("demo", "t_locon"), "steps": 2}).json()
    assert whole["tags"][1]["zero_blocks"] is None, "there is no such file"


def test_a_prompt_is_parsed_into_coefficients(post):
    prompt = "a cat <lora:a:0.5:0.8:lbw=OUTD:lbwe=OFF:start=2> <lora:b:lbw=NOPE> <hypernet:c:1>"
    answer = post("/lbw/v1/parse", {"prompt": prompt, "steps": 4, "elements": "OFF:OUT03:attn1:0.5"}).json()
    first, second = answer["tags"]
    assert (first["name"], first["te_multiplier"], first["unet_multiplier"]) == ("a", 0.5, 0.8)
    assert first["strengths"] == [0, 0, 1, 1]
    groups = {(group["block"], group["ratio"]): group["coefficients"] for group in first["groups"]}
    assert groups["BASE", 1] == [0.5] * 4
    assert groups["IN04", 0] == [0] * 4
    assert groups["OUT03", 1] == pytest.approx([0, 0, 0.8, 0.8])
    assert groups["OUT03", 0.5] == pytest.approx([0, 0, 0.4, 0.4])
    assert (second["name"], second["values"]) == ("b", None)
    assert len(answer["warnings"]) == 1
    assert "lbw=NOPE" in answer["warnings"][0]


def test_parsed_random_values_are_those_of_an_image_with_this_seed(post):
    prompt = "a red cat <lora:demo:1:lbw=" + ",".join(["R"] * 17) + ">"
    parsed = post("/lbw/v1/parse", {"prompt": prompt, "seed": 1}).json()["tags"][0]["values"]
    told = extra(post("/sdapi/v1/txt2img", {**SMALL, "prompt": prompt}))["LBW values"]
    assert told == "demo:" + ",".join(f"{value:g}" for value in parsed)


def test_parsed_curves_have_strengths_and_keyframes_of_each_pass(post):
    prompt = "<loractl:demo:te=0.5@0,1@1:unet=0@14sigma,1@4sigma:lbw=NONE@0,OUTD@2,ALL@100%:hr=0.25:hrlbw=OUTD>"
    asked = {"prompt": prompt, "steps": 5, "sigmas": [14, 10, 6, 4, 1]}
    answer = post("/lbw/v1/parse", asked).json()
    tag = answer["tags"][0]
    assert answer["warnings"] == []
    assert (tag["te_multiplier"], tag["unet_multiplier"], tag["values"]) == (0.5, 1, None)
    assert tag["strengths"] == pytest.approx([0, 0.4, 0.8, 1, 1])
    assert [keyframe["position"] for keyframe in tag["keyframes"]] == ["0", "2", "100%"]
    groups = {group["block"]: group for group in tag["groups"]}
    assert groups["OUT03"]["ratio"] is None
    assert groups["OUT03"]["coefficients"] == pytest.approx([0, 0.2, 0.8, 1, 1])
    assert groups["IN05"]["coefficients"] == pytest.approx([0, 0, 0, 0.5, 1])
    assert groups["BASE"]["coefficients"] == [0] * 5
    hires = post("/lbw/v1/parse", {**asked, "hires": True}).json()["tags"][0]
    assert (hires["te_multiplier"], hires["unet_multiplier"], hires["strengths"]) == (0.25, 0.25, [1] * 5)
    assert {group["block"]: group["ratio"] for group in hires["groups"]}["IN05"] == 0


def test_a_prompt_full_of_curves_is_answered_in_bounded_time(post):
    blocks = ";".join(f"{','.join([str(i % 7)] * 17)}@{i / 150:.3f}" for i in range(150))
    strengths = ",".join(f"{i % 5}@{i / 150:.3f}" for i in range(150))
    prompt = "".join(f"<lora:n{i}:{strengths}:lbw={blocks}>" for i in range(100))
    began = time.monotonic()
    answer = post("/lbw/v1/parse", {"prompt": prompt, "steps": 150})
    assert answer.status_code == 200
    assert time.monotonic() - began < 60


def test_an_answer_that_would_be_too_large_is_refused(post):
    """A hundred tags, each with many ratios in every block."""
    parts = ("to_q", "to_k", "to_v", "to_out", "proj_in", "ff_net")
    rules = ",".join(f"{label}:{part}:0.{i}" for label in ORIGINAL_LAYOUTS[26] for i, part in enumerate(parts))
    asked = {"prompt": "".join(f"<lora:n{i}:1:lbwe=A>" for i in range(200)), "elements": f"A:{rules}"}
    answer = post("/lbw/v1/parse", {**asked, "steps": 150})
    assert answer.status_code == 422
    assert "more than 1000000 coefficients" in answer.json()["detail"]
    answer = post("/lbw/v1/parse", {**asked, "steps": 1}).json()
    assert len(answer["tags"]) == 100
    assert "200 LoRA tags" in answer["warnings"][0]


def test_the_routes_are_in_the_openapi_page_with_their_types(get):
    document = get("/openapi.json")
    for path, method in ROUTES.items():
        schema = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["$ref"].rpartition("/")[2] in document["components"]["schemas"]
        assert document["paths"][path][method]["tags"] == ["LoRA Block Weight"]


def test_the_routes_are_behind_the_hosts_api_auth(tmp_path: Path, session: requests.Session):
    with running_server(tmp_path, "--nowebui", "--api-auth", "user:secret") as server:
        for path, method in ROUTES.items():
            ask = getattr(session, method)
            named = {"name": "demo", "id_task": "task(none)"}
            body = {"params": named} if method == "get" else {"json": {"prompt": ""}}
            found = 404 if path.endswith("live") else 200
            assert ask(server.url + path, timeout=10, **body).status_code == 401
            assert ask(server.url + path, timeout=10, auth=("user", "wrong"), **body).status_code == 401
            assert ask(server.url + path, timeout=10, auth=("user", "secret"), **body).status_code == found
        assert session.get(f"{server.url}/lbw/v1/strengths.png?name=demo", timeout=10).status_code == 401
        wrong = with_args([{"nope": 1}])
        assert session.post(f"{server.url}/sdapi/v1/txt2img", json=wrong, timeout=10).status_code == 401


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_files_strengths_are_numbers_and_a_picture(server: Server, session: requests.Session, get, theme: str):
    found = get("/lbw/v1/strengths?name=demo")
    assert found["warnings"] == []
    blocks = {item["block"]: item for item in found["blocks"]}
    assert set(blocks) >= {"BASE", "IN00", "M00", "OUT11"}
    assert sum(item["layers"] for item in found["cells"]) == found["total"]["layers"] > 0
    for item in (found["total"], *found["cells"], *found["elements"]):
        assert item["strength"] == pytest.approx(item["delta_norm"] / item["weight_norm"])
    assert sum(item["delta_norm"] ** 2 for item in found["blocks"]) == pytest.approx(found["total"]["delta_norm"] ** 2)
    answer = session.get(f"{server.url}/lbw/v1/strengths.png?name=demo&theme={theme}", timeout=60)
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.convert("L").getpixel((0, 0)) < 100) == (theme == "dark")


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("name=nope", 404, "no LoRA is called 'nope'"),
        ("name=..%2Fdemo", 404, "no LoRA is called '../demo'"),
        ("name=", 404, "no LoRA is called ''"),
        ("", 422, "field required"),
        (f"name={'x' * 501}", 422, "at most 500 characters"),
    ],
)
@pytest.mark.parametrize("path", ["strengths", "strengths.png", "own_default"])
def test_a_wrong_name_is_refused(server: Server, session: requests.Session, path: str, query: str, status, message):
    answer = session.get(f"{server.url}/lbw/v1/{path}?{query}", timeout=60)
    assert (answer.status_code, message in answer.text) == (status, True)


def test_a_files_own_default_is_told(server: Server, get):
    file = server.data / "models" / "Lora" / "demo.json"
    file.write_text('{"additional weight": ":lbw=OUTD:stop=5"}')
    try:
        assert get("/lbw/v1/own_default?name=demo") == {"name": "demo", "weights": "OUTD:stop=5"}
    finally:
        file.unlink()


def test_without_the_hosts_api_there_is_none_of_ours_but_for_what_the_page_needs():
    from fastapi import FastAPI

    from lbw.request import routes

    app = FastAPI()
    before = {route.path for route in app.routes}
    routes.add(app, None)  # type: ignore[arg-type]
    found = {route.path for route in app.routes} - before
    assert {path for path in found if not path.startswith("/internal/lbw/")} == {"/lbw/v1/live"}


def played(server: Server, session: requests.Session, task: str, prompt: str) -> tuple[dict[str, Any], list[Any]]:
    """Make an image, and move its first LoRA as soon as it is under way; the answers to the one and to the other."""
    body = {**SMALL, "prompt": prompt, "steps": 150, "force_task_id": task}
    url, answers = f"{server.url}/lbw/v1/live", []
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(lambda: session.post(f"{server.url}/sdapi/v1/txt2img", json=body, timeout=300).json())
        while not making.done():
            shown = session.get(url, params={"id_task": task}, timeout=60)
            if shown.status_code == 200 and shown.json()["running"] and shown.json()["loras"] and not answers:
                move = {"id_task": task, "moves": [{"index": 0, "strength": 0.3}]}
                answers = [shown, session.post(url, json=move, timeout=60)]
            time.sleep(0.02)
        return making.result(), answers


def test_a_client_plays_its_own_generation(server: Server, session: requests.Session, get, post):
    made, (shown, moved) = played(server, session, "task(client)", "a cat <lora:demo:1>")
    assert (shown.status_code, moved.status_code) == (200, 200)
    assert moved.json()["running"] and moved.json()["loras"][0]["next"] in (0.3, None)
    (infotext,) = json.loads(made["info"])["infotexts"]
    over = get("/lbw/v1/live?id_task=task(client)")
    assert not over["running"] and over["steps"] == 150
    tag = over["loras"][0]["played_tag"]
    assert infotext.startswith(f"a cat {tag}\n") and re.fullmatch(r"<lora:demo:te=1:unet=(1@0,.*)?0\.3(@\d+)?>", tag)
    again = post("/sdapi/v1/txt2img", {**SMALL, "prompt": f"a cat {tag}", "steps": 150}).json()
    assert pixels(again) == pixels(made)
    move = {"id_task": "task(client)", "moves": [{"index": 0, "strength": 0.3}]}
    assert post("/lbw/v1/live", move).status_code == 409
    assert get("/lbw/v1/live?id_task=task(other)")["detail"].startswith("no task of this id")


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}


def test_nothing_in_the_api_writes_a_file(server: Server, post, get):
    watched = [PROJECT / "scripts", server.data / "models", server.data / "extensions"]
    before = [files(folder) for folder in watched]
    for path in ("/lbw/v1/presets", "/lbw/v1/elements", "/lbw/v1/blocks"):
        get(path)
    names = {"presets": f"../../x:{ZEROS}\n/tmp/x:{ZEROS}", "elements": "$(touch x):::0\n\n`x`:::1"}
    post("/lbw/v1/parse", {"prompt": "<lora:../../x:1:lbw=../../x>", **names})
    post("/sdapi/v1/txt2img", with_args([{**names, "default_preset": "../../x"}], prompt="<lora:demo:1>"))
    assert [files(folder) for folder in watched] == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([argument.name for argument in ARGUMENTS])
FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TAG_TEXT = st.lists(
    st.sampled_from([
        "<lora:", "<lyco:", "demo", ":", ">", "lbw=", "lbwe=", "OUTD", "R,", "U,", "X+", "1,", "1e999", "nan", "-inf",
        "start=", "stop=", "step=", "x=", "te=", "%", "-", "0.5", "\n", "\x00", "猫", "../", "<", "=",
        "@", "0@0,1@", "sigma", "hr=", "hrlbw=", "NONE@0;", "curve=",
    ]) | st.text(max_size=4), max_size=30,
).map("".join)


UNREPEATABLE = [2**64, -(2**70), [[2**64]], {"a": [2**64]}, float("nan"), "\ud800", ["\udfff"]]


def send(server: Server, session: requests.Session, path: str, body: Any) -> requests.Response:
    data = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    return session.post(server.url + path, data=data, headers=headers, timeout=60)


@FUZZ
@given(args=st.lists(JSON, max_size=22) | st.lists(st.dictionaries(NAMES | st.text(max_size=5), JSON), max_size=2))
def test_no_arguments_can_break_a_request(server: Server, session: requests.Session, args: list[Any]):
    answer = send(server, session, "/sdapi/v1/txt2img", with_args(args, steps=1, prompt="<lora:demo:1:lbw=OUTD>"))
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        assert len(answer.json()["images"]) == 1
    else:
        assert "expected" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("value", UNREPEATABLE, ids=repr)
@pytest.mark.parametrize("position", [0, 1, 13, 30])
def test_what_the_hosts_answer_could_not_repeat_is_refused(server, session, position: int, value: Any):
    answer = send(server, session, "/sdapi/v1/txt2img", with_args([*[None] * position, value]))
    assert answer.status_code == 422
    assert "expected" in answer.json()["detail"][0]["msg"]


@FUZZ
@given(prompt=TAG_TEXT, presets=TAG_TEXT, elements=TAG_TEXT, default=TAG_TEXT)
def test_no_tags_or_presets_can_break_a_request(
    server: Server, session: requests.Session, prompt: str, presets: str, elements: str, default: str
):
    args = [presets, True, *[None] * 13, elements, None, None, default, presets]
    answer = send(server, session, "/sdapi/v1/txt2img", with_args(args, steps=1, prompt=prompt))
    assert answer.status_code == 200, answer.text
    parsed = send(server, session, "/lbw/v1/parse", {"prompt": prompt, "presets": presets, "elements": elements})
    assert parsed.status_code == 200, parsed.text


@pytest.fixture(scope="module")
def parse_schema(server: Server, session: requests.Session) -> dict[str, Any]:
    document = session.get(f"{server.url}/openapi.json", timeout=10).json()
    return document["components"]["schemas"]["ParseRequest"]


def from_schema(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Every object that a schema of texts, numbers, lists of numbers and switches allows."""
    kinds: dict[str, Callable[[dict[str, Any]], st.SearchStrategy[Any]]] = {
        "boolean": lambda field: st.booleans(),
        "number": lambda field: st.floats(field["minimum"], field["maximum"]),
        "array": lambda field: st.lists(kinds[field["items"]["type"]](field["items"]), max_size=field["maxItems"]),
        "string": lambda field: TAG_TEXT | st.text(max_size=min(50, field["maxLength"])),
        "integer": lambda field: st.integers(int(field["minimum"]), int(field["maximum"])),
    }
    fields = {name: kinds[field["type"]](field) for name, field in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema["required"]}
    return st.fixed_dictionaries(required, optional=fields)


@FUZZ
@given(data=st.data())
def test_all_that_the_schema_allows_is_answered_as_it_says(server, session, parse_schema, data: st.DataObject):
    body = data.draw(from_schema(parse_schema))
    answer = send(server, session, "/lbw/v1/parse", body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"tags", "warnings"}


@FUZZ
@given(body=JSON | st.dictionaries(st.sampled_from(["prompt", "steps", "seed", "presets", "default_preset"]), JSON))
def test_all_that_the_schema_forbids_is_refused(server, session, body: Any):
    assert send(server, session, "/lbw/v1/parse", body).status_code in (200, 422)


@pytest.mark.parametrize("path", ["/lbw/v1/parse", "/sdapi/v1/txt2img"])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"5", b'{"steps": ' + b"9" * 100_000 + b"}"]
)
def test_what_is_no_json_object_is_no_error_of_ours(server: Server, session: requests.Session, path: str, data: bytes):
    headers = {"Content-Type": "application/json"}
    answer = session.post(server.url + path, data=data, headers=headers, timeout=60)
    assert answer.status_code in (400, 422)


def readme_scripts() -> dict[str, str]:
    section = (PROJECT / "README.md").read_text().partition("\n## API\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return {"webuiapi" if "webuiapi" in block else "requests": block for block in blocks}


@pytest.mark.parametrize("name", ["webuiapi", "requests"])
def test_the_readmes_script_runs_as_it_stands(server: Server, tmp_path: Path, name: str):
    script = readme_scripts()[name].replace("7860", str(server.port))
    env = {"NO_PROXY": "127.0.0.1", "PATH": ""}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "cat.png").stat().st_size > 1000
    assert "no preset of this name" in result.stdout


def test_the_readmes_examples_of_arguments_are_read_without_a_warning(post):
    section = (PROJECT / "README.md").read_text().partition("\n## API\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        answer = post("/sdapi/v1/txt2img", {**SMALL, **json.loads("{" + block + "}")})
        assert answer.status_code == 200, answer.text
        assert "LBW warnings" not in extra(answer)
        assert extra(answer).get("LBW presets", "").startswith("MINE:") or "LBW plot" in extra(answer)


def test_the_readme_names_every_argument(server: Server):
    section = (PROJECT / "README.md").read_text().partition("\n## API\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", section, re.MULTILINE)
    assert [(int(number), name, expected.strip(), default.strip(), meaning.strip())
            for number, name, expected, default, meaning in rows] == [
        (number, argument.name, argument.expected, json.dumps(argument.default), argument.meaning)
        for number, argument in enumerate(ARGUMENTS, 1)
    ]
