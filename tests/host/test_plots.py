"""Plots: each cell is the image that its tag makes alone, and the result says how to make it again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from lbw.tags.families import SD1
from tests.host.conftest import Bench
from tests.host.measure import messages

TAG = "a red cat <lora:t_lora:1:lbw=XYZ>"
ALONE = "a red cat <lora:t_lora:1:lbw={}>"
SHORT = {"steps": 2, "cfg_scale": 2}
PRESETS = "INS:1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0\nOUTD:1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"


def vector(**values: float) -> str:
    """A vector of 26 values, 1 where none is named."""
    return ",".join(f"{values.get(label, 1):g}" for label in SD1.labels)


def in_range(first: str, last: str, value: float) -> dict[str, float]:
    labels = SD1.labels
    return dict.fromkeys(labels[labels.index(first) : labels.index(last) + 1], value)


def xyz(x: tuple[str, str], y: tuple[str, str] = ("", ""), z: tuple[str, str] = ("", "")) -> list[Any]:
    return [PRESETS, True, 1, *x, *y, *z]


def cells(result: Any) -> list[np.ndarray]:
    return [np.asarray(image) for image in result.images[result.index_of_first_image :]]


def cell_texts(result: Any) -> list[str]:
    return result.infotexts[result.index_of_first_image :]


@pytest.fixture(autouse=True)
def _host_can_make_plots(bench: Bench) -> None:
    from lbw.hosts import plots

    if not plots._can_leave_batches_out():
        pytest.skip("this host cannot leave the image itself out")


def test_on_a_host_that_cannot_leave_the_image_out_one_is_made(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    from lbw.hosts import plots

    monkeypatch.setattr(plots, "_can_leave_batches_out", lambda: False)
    result = bench.webui.generate(xyz(("values", "0,0.5"), ("Block ID", "BASE")), prompt=TAG, **SHORT)
    assert len(result.images) == 1
    message = "no XYZ plot, because this WebUI cannot leave out the image itself, as it can since 1.7"
    assert messages(result)[0] == message


def pixels(bench: Bench, prompt: str, args: list[Any] | None = None, **fields: Any) -> np.ndarray:
    return np.asarray(bench.webui.generate(args or [PRESETS], prompt=prompt, **{**SHORT, **fields}).images[0])


GRIDS = {
    "values at blocks": (
        xyz(("values", "0,0.5"), ("Block ID", "IN05-OUT05,NOT BASE,BASE IN01")),
        [
            vector(**blocks(value))
            for blocks in (
                lambda value: in_range("IN05", "OUT05", value),
                lambda value: in_range("IN00", "OUT11", value),
                lambda value: {"BASE": value, "IN01": value},
            )
            for value in (0, 0.5)
        ],
    ),
    "original weights": (
        xyz(("Block ID", "M00,OUT11"), ("values", "0.7"), ("Original Weights", "INS,OUTD")),
        [
            "1,1,1,1,0,0,0,0.7,0,0,0,0,0,0,0,0,0", "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0.7",
            "1,0,0,0,0,0,0,0.7,1,1,1,1,0,0,0,0,0", "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0.7",
        ],
    ),
    "their sum": (
        xyz(("Original Weights", "INS,OUTD"), ("Original Weights", "INS,OUTD")),
        [
            "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0", "1,1,1,1,0,0,0,0,1,1,1,1,0,0,0,0,0",
            "1,1,1,1,0,0,0,0,1,1,1,1,0,0,0,0,0", "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
        ],
    ),
    "start and stop": (
        xyz(("start", "0,1"), ("stop", "1,50%")),
        [f"{vector()}:start={start}:stop={stop}" for stop in ("1", "50%") for start in (0, 1)],
    ),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_each_cell_is_the_image_of_its_tag_alone(bench: Bench, kind: str):
    args, tags = GRIDS[kind]
    result = bench.webui.generate(args, prompt=TAG, **SHORT)
    assert len(cells(result)) == len(tags)
    assert [message for message in messages(result) if "plot" in message] == [messages(result)[-1]]
    alone = {tag: pixels(bench, ALONE.format(tag)) for tag in tags}
    for image, text, tag in zip(cells(result), cell_texts(result), tags, strict=True):
        assert np.array_equal(image, alone[tag])
        assert text.startswith(ALONE.format(tag))


def test_a_preset_of_the_marks_name_is_where_the_plot_begins(bench: Bench):
    args = xyz(("seed", "1,5"))
    args[0] = "XYZ:1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
    result = bench.webui.generate(args, prompt=TAG, **SHORT)
    for image, seed in zip(cells(result), (1, 5), strict=True):
        assert np.array_equal(image, pixels(bench, ALONE.format("OUTD"), seed=seed))


def test_seeds_of_minus_one_are_drawn_once_and_written_down(bench: Bench):
    result = bench.webui.generate(xyz(("values", "0,1"), ("none", ""), ("seed", "-1,-1")), prompt=TAG, **SHORT)
    seeds = [int(re.search(r"Seed: (\d+)", text)[1]) for text in cell_texts(result)]
    assert len(result.images) == 2 + 4
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3] == result.all_seeds[3]
    assert np.array_equal(cells(result)[2], pixels(bench, ALONE.format(vector(**in_range("BASE", "OUT11", 0))),
                                                   seed=seeds[2]))


def test_elements_and_strength(bench: Bench):
    args = xyz(("elements", "IN05-OUT05:attn1:0,ATTNDEEPOFF"), ("strength", "1,0.5"))
    prompt = "a red cat <lora:t_lora:1:lbwe=XYZ>"
    result = bench.webui.generate(args, prompt=prompt, **SHORT)
    for image, (strength, rules) in zip(
        cells(result), [(s, r) for s in ("1", "0.5") for r in ("attn1", "attn")], strict=True
    ):
        alone = f"a red cat <lora:t_lora:{strength}:lbwe=MINE>"
        elements = [{"elements": f"MINE:::1,IN05-OUT05:{rules}:0"}]
        assert np.array_equal(image, pixels(bench, alone, elements))


def test_the_inverse_mark_gets_what_the_other_lacks(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:lbw=XYZ> <lora:t_lora2:0.5:ZYX>"
    result = bench.webui.generate(xyz(("Original Weights", "INS,OUTD")), prompt=prompt, **SHORT)
    inverse = "0,0,0,0,1,1,1,1,1,1,1,1,1,1,1,1,1", "0,1,1,1,1,1,1,1,0,0,0,0,1,1,1,1,1"
    for image, own, other in zip(cells(result), ("INS", "OUTD"), inverse, strict=True):
        alone = f"a red cat <lora:t_lora:1:lbw={own}> <lora:t_lora2:0.5:lbw={other}>"
        assert np.array_equal(image, pixels(bench, alone))


def test_equal_cells_are_made_once(bench: Bench, evaluations: Callable[..., Any]):
    result, count = evaluations(xyz(("values", "1,0"), ("Block ID", "IN05,M00,OUT05")), prompt=TAG)
    assert count == 4 * SHORT["steps"]
    assert len(cells(result)) == 6
    assert "4 of 4 cells; 2 equal to another of them" in messages(result)[-1]


@pytest.fixture
def evaluations(bench: Bench) -> Callable[..., Any]:
    """Generates, and counts how often the model was evaluated; ``then`` is called each time."""

    def generate(args: list[Any], then: Callable[[Any], None] = lambda _params: None, **fields: Any) -> Any:
        count = 0

        def observe(params: Any) -> None:
            nonlocal count
            count += 1
            then(count)

        with bench.webui.observing(observe):
            result = bench.webui.generate(args, **{**SHORT, **fields})
        return result, count

    return generate


def test_between_cells_nothing_is_read_and_prompts_are_encoded_only_anew_for_another_share(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    from modules import prompt_parser

    encoded, read = [], []
    encode = prompt_parser.get_multicond_learned_conditioning
    load = bench.webui.networks.load_network
    monkeypatch.setattr(
        prompt_parser, "get_multicond_learned_conditioning",
        lambda *args, **kwargs: encoded.append(args) or encode(*args, **kwargs),
    )
    monkeypatch.setattr(
        bench.webui.networks, "load_network", lambda *args: read.append(args) or load(*args)
    )

    def made_with(x: tuple[str, str], y: tuple[str, str] = ("", "")) -> tuple[int, int]:
        bench.webui.generate(prompt="nothing", steps=1)
        encoded.clear()
        read.clear()
        bench.webui.generate(xyz(x, y), prompt=TAG, **SHORT)
        return len(encoded), len(read)

    assert made_with(("values", "0,0.5,1"), ("Block ID", "IN05,OUT05")) == (1, 1)
    assert made_with(("start", "0,1"), ("stop", "1,2")) == (1, 1)
    assert made_with(("values", "0,0.5,1"), ("Block ID", "BASE")) == (3, 1)
    assert made_with(("strength", "0.5,1")) == (2, 1)


def test_progress_counts_all_cells(bench: Bench, evaluations: Callable[..., Any]):
    state = bench.webui.shared.state
    seen: list[tuple[int, int, str]] = []
    evaluations(
        xyz(("values", "0,0.5,1")), lambda _count: seen.append((state.job_no, state.job_count, state.job)),
        prompt=TAG, n_iter=2,
    )
    assert [(number, count) for number, count, _job in seen[:: SHORT["steps"]]] == [(i, 6) for i in range(6)]
    seen.clear()
    evaluations(
        xyz(("values", "0,0.5")), lambda _count: seen.append((state.job_no, state.job_count, state.job)), prompt=TAG,
        enable_hr=True, hr_upscaler="Latent", hr_scale=1.5,
    )
    assert [(number, count) for number, count, _job in seen[:: SHORT["steps"]]] == [(i, 4) for i in range(4)]


def test_hires_cells_are_the_images_of_their_tags(bench: Bench):
    fields = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5}
    result = bench.webui.generate(xyz(("values", "0,0.5"), ("Block ID", "IN05-OUT05")), prompt=TAG, **SHORT, **fields)
    for image, value in zip(cells(result), (0, 0.5), strict=True):
        tag = vector(**in_range("IN05", "OUT05", value))
        assert image.shape == (96, 96, 3)
        assert np.array_equal(image, pixels(bench, ALONE.format(tag), **fields))


def test_a_cell_of_several_images_is_their_grid(bench: Bench):
    fields = {"batch_size": 2, "n_iter": 2}
    result = bench.webui.generate(xyz(("values", "0,1")), prompt=TAG, **SHORT, **fields)
    assert len(cells(result)) == 8
    alone = bench.webui.generate([PRESETS], prompt=ALONE.format(vector()), **SHORT, **fields)
    for image, one in zip(cells(result)[4:], alone.images, strict=True):
        assert np.array_equal(image, np.asarray(one))
    assert result.images[0].width == 2 * 2 * 64


def test_img2img_has_plots_too(bench: Bench):
    image = bench.webui.generate(prompt="a dog", **SHORT).images[0]
    fields = {"init_images": [image], "denoising_strength": 0.8, "steps": 4}
    result = bench.webui.generate(xyz(("Original Weights", "INS,OUTD")), prompt=TAG, **{**SHORT, **fields})
    alone = [pixels(bench, ALONE.format(preset), **fields).astype(int) for preset in ("INS", "OUTD")]
    # The host draws the start from what its autoencoder says of the image, and with no seed.
    for found, own, other in zip(cells(result), alone, alone[::-1], strict=True):
        assert 5 * abs(found - own).mean() < abs(found - other).mean()


@pytest.mark.parametrize("stop", ["interrupted", "stopping_generation", "skipped"])
def test_what_is_done_is_returned(bench: Bench, evaluations: Callable[..., Any], stop: str):
    """Interrupt, interrupt after the current image, and skip, each in the first step of the second of four cells."""
    state = bench.webui.shared.state
    if not hasattr(state, stop):
        pytest.skip("this host has no such button")

    def press(count: int) -> None:
        if count == SHORT["steps"] + 1:
            setattr(state, stop, True)

    result, _count = evaluations(xyz(("Original Weights", "INS,OUTD"), ("stop", "1,2")), press, prompt=TAG)
    made = {"interrupted": ["INS"], "stopping_generation": ["INS", "OUTD"], "skipped": ["INS", "INS", "OUTD"]}[stop]
    assert len(cells(result)) == len(made)
    assert np.array_equal(cells(result)[0], pixels(bench, ALONE.format("INS:stop=1")))
    assert f"{len(made)} of 4 cells" in messages(result)[-1]
    width, height = result.images[0].size
    assert (width > 2 * 64, height > 2 * 64) == (True, True)


def test_a_cell_that_fails_costs_a_message(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    from modules import processing

    sample, calls = processing.StableDiffusionProcessingTxt2Img.sample, []

    def fails_second(p: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(p)
        if len(calls) == 2:
            raise MemoryError("no memory")
        return sample(p, *args, **kwargs)

    monkeypatch.setattr(processing.StableDiffusionProcessingTxt2Img, "sample", fails_second)
    result = bench.webui.generate(xyz(("Original Weights", "INS,OUTD,INS")), prompt=TAG, **SHORT)
    monkeypatch.undo()
    assert len(cells(result)) == 2
    assert "MemoryError: no memory" in json.loads(result.js())["extra_generation_params"]["LBW warnings"][0]


def test_infotexts_make_a_cell_and_the_plot_again(bench: Bench):
    from lbw.request import infotext

    args = xyz(("elements", "IN05-OUT05:attn1:0"), ("values", "0.5"))
    result = bench.webui.generate(args, prompt="a cat <lora:t_lora:1:lbw=XYZ:lbwe=XYZ>", **SHORT)
    cell = bench.webui.parse_infotext(cell_texts(result)[0])
    pasted = [{"pasted": infotext.pasted(cell), "elements": "NONE:::1"}]
    assert infotext.pasted_plot("mode")(cell) == "Disable"
    assert np.array_equal(cells(result)[0], pixels(bench, cell["Prompt"], pasted))
    grid = bench.webui.parse_infotext(result.infotexts[0])
    found = [infotext.pasted_plot(name)(grid) for name in ("mode", "x_type", "x_values", "y_values", "threshold")]
    assert found == ["XYZ plot", "elements", "IN05-OUT05:attn1:0", "0.5", None]


def test_files_are_saved_as_the_settings_say(bench: Bench, tmp_path: Path):
    def files(**fields: Any) -> list[str]:
        p = bench.webui.request(xyz(("values", "0,1"), ("none", ""), ("seed", "1,2")), prompt=TAG, **SHORT)
        p.outpath_samples, p.outpath_grids = str(tmp_path / "samples"), str(tmp_path / "grids")
        for name, value in fields.items():
            setattr(p, name, value)
        bench.webui.run(p)
        return sorted(str(path) for path in tmp_path.rglob("*.png"))

    assert files() == []
    saved = files(do_not_save_samples=False, do_not_save_grid=False)
    assert len(saved) == 2 + 4
    texts = [Image.open(path).info["parameters"] for path in saved]
    assert sum("LBW plot" in text for text in texts) == 2
    assert sum(vector() in text for text in texts) == 2


def test_a_plot_gives_way_to_a_script_of_the_menu(bench: Bench):
    p = bench.webui.request(xyz(("values", "0,1")), prompt=TAG, **SHORT)
    p.script_args = (1, *p.script_args[1:])
    result = bench.webui.run(p)
    assert len(result.images) == 1
    assert "a script is chosen in the Script menu" in messages(result)[0]


@pytest.mark.parametrize(
    ("args", "prompt", "expected"),
    [
        (xyz(("values", "0,1")), "a red cat <lora:t_lora:1:lbw=INS>", "no LoRA tag has lbw=XYZ"),
        (xyz(("", "")), "a red cat <lora:t_lora:1:lbw=INS>", None),
        ([PRESETS, False, 1, "values", "0,1"], "a red cat", None),
    ],
)
def test_without_anything_to_vary_one_image_is_made(bench: Bench, args: list[Any], prompt: str, expected: str | None):
    result = bench.webui.generate(args, prompt=prompt, **SHORT)
    assert len(result.images) == 1
    assert [expected in message for message in messages(result)] == ([True] if expected else [])


@pytest.mark.parametrize(
    ("axes", "size", "part"),
    [
        ([("values", ",".join(map(str, range(900))))], 512, "900 images would be 236 megapixels"),
        ([("values", "0," * 100), ("seed", "1," * 100)], 64, "no plot of 10000 images; expected at most 1000"),
        ([("values", "0," * 5000)] + [("seed", "1," * 90_000)] * 2, 64, "90000 values; expected at most 1000"),
        ([("elements", "x," * 400_000)], 64, "no rule set of this name"),
    ],
    ids=["large", "many", "endless", "wrong"],
)
def test_a_plot_beyond_the_limits_is_refused(bench: Bench, axes: list[tuple[str, str]], size: int, part: str):
    p = bench.webui.request(xyz(*axes), prompt=TAG, width=size, height=size, steps=1)
    with bench.webui.observing(lambda _params: bench.webui.shared.state.interrupt(), before=True):
        result = bench.webui.run(p)
    assert part in " ".join(messages(result))
    assert len(messages(result)) <= 52


def test_a_detailer_inside_a_cell_makes_one_image(bench: Bench):
    """It passes all scripts' arguments on to a generation of its own, ours too."""
    made: list[int] = []

    def generate_with_detailer(p: Any) -> None:
        postprocess = p.scripts.postprocess_image

        def detail(cell: Any, pp: Any) -> None:
            p.scripts.postprocess_image = postprocess
            inner = bench.webui.request(prompt=TAG, **SHORT)
            inner.script_args = cell.script_args
            made.append(len(bench.webui.processing.process_images(inner).images))
            p.scripts.postprocess_image = detail

        p.scripts.postprocess_image = detail
        try:
            bench.webui.run(p)
        finally:
            p.scripts.postprocess_image = postprocess

    generate_with_detailer(bench.webui.request(xyz(("values", "0,1")), prompt=TAG, **SHORT))
    assert made == [1, 1]


def test_a_style_may_hold_the_marked_tag(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    styles = bench.webui.shared.prompt_styles
    style = type(next(iter(styles.styles.values()), None) or _style())
    monkeypatch.setitem(styles.styles, "marked", style("marked", "<lora:t_lora:1:lbw=XYZ>", ""))
    result = bench.webui.generate(xyz(("Original Weights", "INS,OUTD")), prompt="a red cat", styles=["marked"], **SHORT)
    for image, preset in zip(cells(result), ("INS", "OUTD"), strict=True):
        assert np.array_equal(image, pixels(bench, f"a red cat, <lora:t_lora:1:lbw={preset}>"))


def differing_values(image: np.ndarray, original: np.ndarray, threshold: int) -> float:
    """The share, in percent, of colour values whose difference is above a threshold: from Pillow's histogram."""
    histogram = ImageChops.difference(Image.fromarray(image), Image.fromarray(original)).histogram()
    above = sum(sum(histogram[band * 256 + threshold + 1 : (band + 1) * 256]) for band in range(3))
    return 100 * above / sum(histogram)


def analyzer(weights: str, blocks: str, *rest: Any) -> list[Any]:
    return [PRESETS, True, 2, *[None] * 6, weights, blocks, *rest]


def analysis(result: Any) -> dict[str, Any]:
    return json.loads(json.loads(result.js())["extra_generation_params"]["LBW analysis"])


def test_the_analyzer_measures_what_each_block_changes(bench: Bench):
    result = bench.webui.generate(
        analyzer("0,0.8", "BASE,IN05-M00,OUT05 OUT06,OUT11", 2, "black", 3), prompt=TAG, **SHORT
    )
    found = analysis(result)
    every = 0
    for block, labels in {
        "BASE": ["BASE"], "IN05-M00": SD1.labels[6:14], "OUT05 OUT06": ["OUT05", "OUT06"], "OUT11": ["OUT11"]
    }.items():
        for number, seed in enumerate((1, 2)):
            values = {label: 0 if label in labels else 0.8 for label in SD1.labels}
            image = pixels(bench, ALONE.format(vector(**values)), seed=seed)
            original = pixels(bench, ALONE.format(vector(**dict.fromkeys(SD1.labels, 0.8))), seed=seed)
            assert found["percent"][block][number] == pytest.approx(differing_values(image, original, 3))
            every += found["percent"][block][number]
    assert every > 0
    assert (result.index_of_first_image, len(result.images)) == (3, 3 + 2 * 5)


def test_a_preset_is_made_of_the_analysis(bench: Bench):
    result = bench.webui.generate(analyzer("-1,1", "BASE,M00,OUT03-OUT05", 1, "white", "0"), prompt=TAG, **SHORT)
    found = analysis(result)
    (name, values), means = found["preset"].split(":"), {key: one[0] for key, one in found["percent"].items()}
    weights = dict(zip(SD1.labels, map(float, values.split(",")), strict=True))
    strongest = max(means.values())
    assert name == "ANALYZED"
    assert weights["M00"] == pytest.approx(means["M00"] / strongest, abs=0.006)
    assert weights["OUT04"] == pytest.approx(means["OUT03-OUT05"] / strongest, abs=0.006)
    assert weights["IN05"] == 1
    assert found["preset"] in messages(result)
    bench.webui.generate([found["preset"]], prompt=ALONE.format("ANALYZED"), **SHORT)


def test_the_sheet_shows_difference_image_and_original(bench: Bench):
    args = analyzer("0,1", "M00,OUT05", 1, "white", 20)
    result = bench.webui.generate(args, prompt=TAG, **SHORT)
    original, m00, out05 = cells(result)
    sheet = np.asarray(result.images[0])
    rows, columns = sheet.shape[0] - 2 * 64, sheet.shape[1] - 3 * 64
    for row, image in enumerate((m00, out05)):
        difference = 255 - np.abs(image.astype(int) - original)
        for column, expected in enumerate((difference, image, original)):
            part = sheet[rows + 64 * row : rows + 64 * (row + 1), columns + 64 * column : columns + 64 * (column + 1)]
            assert np.array_equal(part, expected)
    swapped = np.asarray(bench.webui.generate([*args, True], prompt=TAG, **SHORT).images[0])
    assert np.array_equal(swapped[-3 * 64 : -2 * 64, -2 * 64 : -64], original)
    assert np.array_equal(swapped[-64:, -64:], 255 - np.abs(out05.astype(int) - original))


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (analyzer("1", "M00"), "range '1': expected two numbers, such as 0.5,1, which is used"),
        (analyzer("0,1", "M00,XX"), "blocks: Block ID 'XX': 'XX' is not a block of this SD1/SD2 model"),
        (analyzer("0,1", "61ALL"), "blocks 61ALL: not for this SD1/SD2 model; all its blocks are examined"),
        (analyzer("1,1", "M00"), "no block made a difference"),
        (analyzer("0,1", "XX"), "no analysis"),
    ],
)
def test_what_the_analyzer_cannot_use_is_said(bench: Bench, args: list[Any], part: str):
    result = bench.webui.generate(args, prompt=TAG, steps=1)
    assert part in " ".join(messages(result))
    assert result.images


def test_an_interrupted_analysis_has_the_blocks_that_are_done(bench: Bench, evaluations: Callable[..., Any]):
    def press(count: int) -> None:
        if count == 2 * SHORT["steps"] + 1:
            bench.webui.shared.state.interrupt()

    result, _count = evaluations(analyzer("0,1", "M00,OUT05,OUT06"), press, prompt=TAG)
    assert list(analysis(result)["percent"]) == ["M00"]
    assert len(result.images) == 2 + 2


def _style() -> Any:
    from modules.styles import PromptStyle

    return PromptStyle("none", "", "")
