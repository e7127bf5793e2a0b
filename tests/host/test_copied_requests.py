"""Each image's infotext and warnings are its own, also where a script makes several images of one request."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from PIL import Image

from tests.host.conftest import Bench
from tests.host.measure import messages
from tests.host.test_infotext import assert_close, lbw_part, paste
from tests.host.test_isolation import without_scripts
from tests.host.test_xyz_axes import plot
from tests.host.webui import WebUI

SHORT = {"steps": 2, "cfg_scale": 2}
RANDOM = "1," + ",".join(["R"] * 16)
HIRES = {
    "enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 2, "denoising_strength": 1.0,
}
PICTURE = Image.new("RGB", (64, 64), "#a02020")


def ours(infotext: str) -> dict[str, str]:
    """What an infotext has of ours, as its last line says it: {key: text}."""
    return {key: text for key, text in WebUI.parse_infotext(infotext).items() if key.startswith("LBW")}


_alone: dict[tuple[str, str], dict[str, str]] = {}


def alone(bench: Bench, prompt: str, **fields: Any) -> dict[str, str]:
    """What the infotext of such an image has of ours if nothing was made before it."""
    key = prompt, repr(sorted(fields.items(), key=lambda item: item[0]))
    if key not in _alone:
        _alone[key] = ours(bench.webui.generate(prompt=prompt, **{**SHORT, **fields}).infotexts[0])
    return _alone[key]


def by_copies(bench: Bench, prompts: list[str], **fields: Any) -> list[Any]:
    """Make an image of each prompt as scripts of the host do: by copies of one request, closed once."""
    p = bench.webui.request(**{**SHORT, **fields})
    results = []
    with closing(p):
        for prompt in prompts:
            one = copy.copy(p)
            one.prompt = prompt
            results.append(bench.webui.processing.process_images(one))
    return results


@pytest.fixture
def after_each_image(bench: Bench) -> Iterator[Callable[[Callable[[Any, Any], None]], None]]:
    """Have a function called with each request and its image where a detailer works, but inside of what it makes."""
    runners = [bench.webui.scripts.scripts_txt2img, bench.webui.scripts.scripts_img2img]
    known = [runner.postprocess_image for runner in runners]
    busy = []

    def hang(function: Callable[[Any, Any], None]) -> None:
        def postprocess(original: Callable[..., None]) -> Callable[..., None]:
            def call(p: Any, pp: Any) -> None:
                original(p, pp)
                if not busy:
                    busy.append(True)
                    try:
                        function(p, pp)
                    finally:
                        busy.clear()
            return call

        for runner, original in zip(runners, known, strict=True):
            runner.postprocess_image = postprocess(original)

    yield hang
    for runner in runners:
        del runner.postprocess_image


LATER = {
    "no tag": "a red cat",
    "a plain tag": "a red cat <lora:t_lora:0.7>",
    "a stop in steps": "a red cat <lora:t_lora:1:stop=3>",
    "a strength that is no curve": "a red cat <lora:t_lora:0.5:lbw=OUTD>",
    "a share": "a red cat <lora:t_lora:1:stop=25%>",
    "a preset": "a red cat <lora:t_lora2:1:lbw=INS>",
    "random values": f"a red cat <lora:t_lora2:1:lbw={RANDOM}>",
}
FIRST = f"a red cat <lora:t_lora:0@0,1@1:lbw=OUTD:stop=50%> <lora:t_lora2:1:lbw={RANDOM}:lbwe=ATTNDEEPON>"


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_a_copy_says_what_made_it_and_nothing_of_the_one_before(bench: Bench, later: str):
    results = by_copies(bench, [FIRST, later, FIRST])
    assert {*ours(results[0].infotexts[0])} >= {"LBW presets", "LBW steps", "LBW strengths", "LBW values"}
    assert ours(results[1].infotexts[0]) == alone(bench, later)
    assert ours(results[2].infotexts[0]) == ours(results[0].infotexts[0]) == alone(bench, FIRST)
    for result in results:
        told = {key: text for key, text in result.extra_generation_params.items() if key.startswith("LBW")}
        assert told == ours(result.infotexts[0])


def test_what_others_have_put_there_stays(bench: Bench):
    theirs = {"Somebody's key": "a value", "LBW of mine": "5", "A list": ["one"], "None of it": None}
    results = by_copies(bench, [FIRST, "a red cat", FIRST], extra_generation_params=dict(theirs))
    for result in results:
        assert {key: result.extra_generation_params[key] for key in theirs} == theirs
        assert "Somebody's key: a value" in result.infotexts[0]
        assert "LBW of mine: 5" in result.infotexts[0]


def test_copies_share_what_others_tell_as_they_do_without_us(bench: Bench):
    p = bench.webui.request(**SHORT, extra_generation_params={"Key": "value"})
    shared, shared_comments = p.extra_generation_params, p.comments
    for prompt in (FIRST, "a red cat"):
        one = copy.copy(p)
        one.prompt = prompt
        with closing(one):
            result = bench.webui.processing.process_images(one)
        assert result.extra_generation_params["Key"] == "value"
        assert p.extra_generation_params is one.extra_generation_params is shared
        assert p.comments is one.comments is shared_comments


CELLS = [
    ("a red cat <lora:t_lora:1:stop=50%>", "stop=50%,stop=3,lbw=OUTD"),
    ("a red cat <lora:t_lora:0@0,1@1>", '"t_lora:0@0,1@1","t_lora:1","t_lora:1:lbw=INS"'),
    ("a red cat <lora:t_lora:1:lbw=OUTD:stop=50%>", "<lora:t_lora:1:lbw=OUTD:stop=50%>, and a dog"),
]


@pytest.mark.parametrize(("prompt", "values"), CELLS, ids=["a share", "a curve", "no tag"])
def test_each_cell_of_the_hosts_plot_says_what_made_it(bench: Bench, prompt: str, values: str):
    result = plot(bench, prompt, ("Prompt S/R", values))
    grid, *cells = result.infotexts
    assert len(cells) == len(result.images) - 1 >= 2
    for infotext in cells:
        own = bench.webui.parse_infotext(infotext)["Prompt"]
        assert ours(infotext) == alone(bench, own)
    assert ours(grid) == ours(cells[0]) != {}
    assert "Script: X/Y/Z plot" in grid
    assert ours(cells[1]).get("LBW steps") is ours(cells[1]).get("LBW strengths") is None


def test_a_cell_that_fails_leaves_nothing_to_the_next_ones(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    fails_in(bench, monkeypatch, "stop=50%")
    result = plot(bench, "a red cat <lora:t_lora:1:stop=0.75>", ("Prompt S/R", "stop=0.75,stop=50%,stop=1"))
    assert result.infotexts[2] is None
    told = [ours(infotext).get("LBW steps") for infotext in result.infotexts if infotext]
    assert told == ["t_lora: 0-1 of 2"] * 2 + [None]


def prompts_from_file(bench: Bench, lines: list[str], **fields: Any) -> Any:
    scripts = bench.webui.scripts.scripts_txt2img.selectable_scripts
    number, script = next(
        found for found in enumerate(scripts, 1) if found[1].title() == "Prompts from file or textbox"
    )
    p = bench.webui.request(**{**SHORT, **fields, "prompt": ""})
    p.script_args = (number, *p.script_args[1:])
    with closing(p):
        bench.webui.shared.state.begin(job="test")
        try:
            return script.run(p, False, False, "start", "\n".join(lines))
        finally:
            bench.webui.shared.state.end()


def test_each_line_of_prompts_from_file_says_what_made_it(bench: Bench):
    lines = [FIRST, "a dog <lora:t_lora:1:stop=3>", "a bird"]
    result = prompts_from_file(bench, lines)
    found = [ours(infotext) for infotext in result.infotexts]
    assert found == [alone(bench, line) for line in lines]
    assert found[-1] == {}


def test_the_lines_of_a_file_tell_their_warnings_once_each(bench: Bench, caplog: pytest.LogCaptureFixture):
    lines = ["a cat <lora:t_lora:1:lbw=NOPE>", "a dog <lora:t_lora:1:lbw=NOPE>", "a bird <lora:t_lora:1:stop=abc>"]
    result = prompts_from_file(bench, lines)
    told = messages(result)
    assert len(told) == 2 and "NOPE" in told[0] and "stop=abc" in told[1]
    console = [record.getMessage() for record in caplog.records if record.name == "lbw"]
    assert len([line for line in console if "NOPE" in line]) == 1


def test_warnings_of_a_copy_are_its_own(bench: Bench, caplog: pytest.LogCaptureFixture):
    bad, worse = "a cat <lora:t_lora:1:lbw=NOPE>", "a cat <lora:t_lora:1:stop=abc>"
    results = by_copies(bench, [bad, "a dog", worse, bad])
    told = [messages(result) for result in results]
    assert [len(each) for each in told] == [1, 0, 1, 1]
    assert "NOPE" in told[0][0] and "stop=abc" in told[2][0] and told[3] == told[0]
    listed = [result.extra_generation_params.get("LBW warnings", []) for result in results]
    assert [len(each) for each in listed] == [1, 0, 1, 1]
    console = [record.getMessage() for record in caplog.records if record.name == "lbw"]
    assert len([line for line in console if "NOPE" in line]) == 1


def test_what_others_comment_stays(bench: Bench):
    p = bench.webui.request(prompt="a cat <lora:t_lora:1:lbw=NOPE>", **SHORT)
    p.comment("a comment of somebody else")
    bench.webui.processing.process_images(copy.copy(p))
    later = copy.copy(p)
    later.prompt = "a dog"
    with closing(later):
        result = bench.webui.processing.process_images(later)
    assert result.comments.splitlines() == ["a comment of somebody else"]


def test_one_request_that_is_made_again_and_again_says_what_made_each(bench: Bench):
    """As loopback does, which adds to the prompt, and SD upscale."""
    tags = ["<lora:t_lora:1:stop=50%:lbw=OUTD>", "", f"<lora:t_lora:1:lbw={RANDOM}>"]
    p = bench.webui.request(init_images=[PICTURE], **SHORT, denoising_strength=1.0)
    found = []
    with closing(p):
        for tag in tags:
            p.prompt = f"a red cat {tag}"
            result = bench.webui.processing.process_images(p)
            found.append(ours(result.infotexts[0]))
            p.init_images = [result.images[0]]
    fields = {"init_images": [PICTURE], "denoising_strength": 1.0}
    assert found == [alone(bench, f"a red cat {tag}", **fields) for tag in tags]


def test_each_batch_says_what_made_it(bench: Bench):
    """As in a prompt matrix: the host activates the tags of each batch's first prompt."""
    prompts = [FIRST, "a red cat", "a red cat <lora:t_lora:0.7>", "a red cat <lora:t_lora:1:stop=25%>"]
    result = bench.webui.generate(prompt=prompts, n_iter=4, seed=[1, 1, 1, 1], **SHORT)
    found = [ours(infotext) for infotext in result.infotexts[result.index_of_first_image :]]
    assert found == [alone(bench, prompt) for prompt in prompts]
    reversed_ = bench.webui.generate(prompt=prompts[::-1], n_iter=4, seed=[1, 1, 1, 1], **SHORT)
    assert [ours(text) for text in reversed_.infotexts[reversed_.index_of_first_image :]] == found[::-1]


def test_a_batch_that_is_left_to_the_host_has_nothing_of_the_one_before(bench: Bench, option: Callable[..., None]):
    option(lbw_plain_loras=False)
    prompts = [FIRST, "a red cat <lora:t_lora:0.7>"]
    result = bench.webui.generate(prompt=prompts, n_iter=2, seed=[1, 1], **SHORT)
    found = [ours(infotext) for infotext in result.infotexts[result.index_of_first_image :]]
    assert found == [alone(bench, FIRST), {}]
    assert "t_lora: OUTD" in result.comments


def test_a_status_is_there_if_the_last_batch_is_the_hosts_own(bench: Bench):
    prompts = ["a red cat <lora:t_lora:1:lbw=OUTD>", "a red cat"]
    result = bench.webui.generate(prompt=prompts, n_iter=2, **SHORT)
    assert "t_lora: OUTD" in result.comments


def test_the_result_of_several_batches_is_described_by_its_first_image(bench: Bench):
    result = bench.webui.generate(prompt=f"a red cat <lora:t_lora:1:lbw={RANDOM}>", n_iter=2, **SHORT)
    first, second = (ours(infotext)["LBW values"] for infotext in result.infotexts[result.index_of_first_image :])
    assert result.extra_generation_params["LBW values"] == first != second


INNER = {
    "a request of its own": lambda bench, p: bench.webui.request(init_images=[PICTURE], **SHORT),
    "with the outer one's parameters": lambda bench, p: bench.webui.request(
        init_images=[PICTURE], **SHORT, extra_generation_params=p.extra_generation_params
    ),
    "with a copy of them": lambda bench, p: bench.webui.request(
        init_images=[PICTURE], **SHORT, extra_generation_params=dict(p.extra_generation_params)
    ),
    "with a deep copy of them": lambda bench, p: bench.webui.request(
        init_images=[PICTURE], **SHORT, extra_generation_params=copy.deepcopy(p.extra_generation_params)
    ),
    "a copy": lambda bench, p: copy.copy(p),
}


@pytest.mark.parametrize("tags", ["both", "outside", "inside"])
@pytest.mark.parametrize("kind", INNER)
def test_an_image_inside_another_and_the_other_say_what_made_each(
    bench: Bench, after_each_image: Callable[..., None], kind: str, tags: str
):
    """As a detailer works: before the infotext of the outer image is written."""
    outer_prompt = "a red cat" if tags == "inside" else FIRST
    inner_prompt = "a face" if tags == "outside" else "a face <lora:t_lora2:1:stop=25%:lbw=INS>"
    inside = []

    def detail(p: Any, pp: Any) -> None:
        inner = INNER[kind](bench, p)
        inner.prompt, inner.n_iter, inner.seed, inner.denoising_strength = inner_prompt, 1, 1, 1.0
        with closing(inner):
            inside.append(bench.webui.processing.process_images(inner))

    after_each_image(detail)
    result = bench.webui.generate(prompt=outer_prompt, n_iter=2, seed=[1, 1], **SHORT)
    after_each_image(lambda p, pp: None)
    outside = [ours(infotext) for infotext in result.infotexts[result.index_of_first_image :]]
    assert outside == [alone(bench, outer_prompt)] * 2
    fields = {} if kind == "a copy" else {"init_images": [PICTURE], "denoising_strength": 1.0}
    assert [ours(each.infotexts[0]) for each in inside] == [alone(bench, inner_prompt, **fields)] * 2


def test_warnings_of_an_image_inside_another_are_told_with_both(bench: Bench, after_each_image: Callable[..., None]):
    inside = []

    def detail(p: Any, pp: Any) -> None:
        inner = copy.copy(p)
        inner.prompt = "a face <lora:t_lora:1:lbw=NOPE>"
        with closing(inner):
            inside.append(bench.webui.processing.process_images(inner))

    after_each_image(detail)
    result = bench.webui.generate(prompt="a cat <lora:t_lora:1:stop=abc>", **SHORT)
    assert [len(messages(each)) for each in inside] == [1] and "NOPE" in messages(inside[0])[0]
    assert len(messages(result)) == 2


def test_an_image_without_scripts_has_nothing_of_the_one_that_it_was_copied_from(bench: Bench):
    p = bench.webui.request(prompt="a red cat <lora:t_lora:0.7>", **SHORT)
    first = copy.copy(p)
    first.prompt = FIRST
    with closing(first):
        bench.webui.processing.process_images(first)
    p.scripts = None
    with closing(p):
        assert lbw_part(bench.webui.processing.process_images(p).infotexts[0]) == ""


def test_our_texts_can_be_copied_and_stored(bench: Bench):
    result = bench.webui.generate(prompt=FIRST, **SHORT)
    texts = {key: text for key, text in result.extra_generation_params.items() if key.startswith("LBW")}
    assert copy.deepcopy(texts) == copy.copy(texts) == pickle.loads(pickle.dumps(texts)) == texts != {}


def test_of_a_batch_that_is_described_anew_nothing_stays(bench: Bench):
    """As where the host loads the networks of the hires pass ahead of those of the first one."""
    from lbw.hosts import notes

    p = bench.webui.request()
    notes.begin(p)
    notes.take(p, {"LBW steps": "of both passes", "LBW version": "1"})
    notes.take(p, {"LBW version": "1"})
    assert p.extra_generation_params == {"LBW version": "1"}


@pytest.mark.parametrize("asks", [True, False], ids=["the host asks", "the host does not ask"])
@pytest.mark.parametrize("is_copy", [True, False], ids=["a copy", "the same request"])
def test_with_us_switched_off_nothing_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_copy: bool, asks: bool
):
    from lbw.hosts import notes

    if not asks:
        bench.not_on_forge("asks")
        monkeypatch.setattr(notes, "_calls", lambda: False)
        monkeypatch.setattr(notes.Note, "__call__", lambda note, **_: str(note))
    p = bench.webui.request(prompt=FIRST, **SHORT)
    off = bench.webui.request(["", False], prompt="a red cat", **SHORT)
    with closing(p):
        assert ours(bench.webui.processing.process_images(p).infotexts[0]) != {}
        later = copy.copy(p) if is_copy else p
        later.script_args = off.script_args
        assert ours(bench.webui.processing.process_images(later).infotexts[0]) == {}


def test_hosts_that_do_not_ask_for_texts_get_those_of_the_batch(
    bench: Bench, after_each_image: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    """Before 1.9 the host writes what stands there."""
    from lbw.hosts import notes

    bench.not_on_forge("asks")
    monkeypatch.setattr(notes, "_calls", lambda: False)
    monkeypatch.setattr(notes.Note, "__call__", lambda note, **_: str(note))
    prompts = [FIRST, "a red cat", "a red cat <lora:t_lora:1:stop=25%>"]

    def detail(p: Any, pp: Any) -> None:
        inner = copy.copy(p)
        inner.prompt, inner.n_iter = "a face <lora:t_lora2:1:0@0,1@1>", 1
        with closing(inner):
            inside = bench.webui.processing.process_images(inner)
        assert {*ours(inside.infotexts[0])} == {"LBW strengths", "LBW version"}

    after_each_image(detail)
    result = bench.webui.generate(prompt=prompts, n_iter=3, seed=[1, 1, 1], **SHORT)
    after_each_image(lambda p, pp: None)
    found = [ours(infotext) for infotext in result.infotexts[result.index_of_first_image :]]
    assert found == [alone(bench, prompt) for prompt in prompts]
    copies = by_copies(bench, prompts)
    assert [ours(each.infotexts[0]) for each in copies] == found


def test_the_hires_pass_is_told_apart(bench: Bench):
    prompt = "a red cat <lora:t_lora:1:stop=50%> <lora:t_lora2:0@0,1@1>"
    told = alone(bench, prompt, **HIRES)
    assert told["LBW steps"] == "t_lora: 0-0 of 2; t_lora: hires 0-0 of 2"
    first, hires = told["LBW strengths"].split("; ")
    assert hires == first.replace("t_lora2: te", "t_lora2: hires te")
    only = alone(bench, "a red cat", hr_prompt="a cat <lora:t_lora:1:stop=50%>", **HIRES)
    assert only["LBW steps"] == "t_lora: hires 0-0 of 2"


def test_values_of_the_hires_pass_come_back_to_it(bench: Bench):
    """Where its values would fit the first pass, and those of the first pass it."""
    vector = ",".join(["R"] * 17)
    fields = {"hr_prompt": f"a cat <lora:t_lora:1:lbw={vector}>", **HIRES}
    prompt = f"a red cat <lora:t_lora:1:lbw={vector.replace('R', '0.9', 1)}>"
    first, record = bench.record("t_lora", prompt=prompt, **fields, **SHORT)
    lines = ours(first.infotexts[0])["LBW values"].splitlines()
    assert len(lines) == 2 and lines[0].startswith("t_lora:0.9,") and lines[1].startswith("t_lora:hires:")
    args, pasted = paste(bench, first.infotexts[0].replace("Seed: 1,", "Seed: 5,"))
    again, repeated = bench.record("t_lora", args=args, **{**SHORT, **pasted}, **fields)
    assert pasted["seed"] == 5
    assert_close(repeated.strengths, record.strengths)
    assert ours(again.infotexts[0]) == ours(first.infotexts[0])


def test_equal_values_of_both_passes_are_written_once(bench: Bench):
    told = alone(bench, f"a red cat <lora:t_lora:1:lbw={RANDOM}>", **HIRES)
    assert len(told["LBW values"].splitlines()) == 1 and "hires" not in told["LBW values"]


def fails_in(bench: Bench, monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    """Have generations fail after sampling whose prompt has this in it."""
    kind = bench.webui.processing.StableDiffusionProcessingTxt2Img
    sample = kind.sample

    def sample_and_break(p: Any, *args: Any, **kwargs: Any) -> Any:
        samples = sample(p, *args, **kwargs)
        if prompt in p.prompt:
            raise RuntimeError("the sampler broke")
        return samples

    monkeypatch.setattr(kind, "sample", sample_and_break)


@pytest.mark.parametrize("following", ["without scripts", "switched off", "with us"])
def test_after_a_generation_that_failed_and_that_nobody_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, following: str
):
    """As a cell of the host's X/Y/Z plot does. What follows has its LoRAs, with our scripts or without."""
    plain = "a red cat <lora:t_lora:0.7>"
    make = {
        "without scripts": lambda: without_scripts(bench, plain),
        "switched off": lambda: bench.webui.generate(args=["", False], prompt=plain),
        "with us": lambda: bench.webui.generate(prompt=plain),
    }[following]
    expected = make()
    fails_in(bench, monkeypatch, "a dog")
    failed = bench.webui.request(prompt="a dog <lora:t_lora:1:lbw=OUTD:stop=2>", **SHORT)
    with pytest.raises(RuntimeError, match="the sampler broke"):
        bench.webui.processing.process_images(failed)
    found = make()
    assert found.images[0].tobytes() == expected.images[0].tobytes()
    from lbw.hosts import under_way

    under_way.end_failed()
    assert under_way.sessions() == []
    failed.close()


def test_a_generation_that_waits_for_one_inside_it_has_not_failed(bench: Bench, after_each_image: Callable[..., None]):
    from lbw.hosts import under_way

    seen = []

    def look(p: Any, pp: Any) -> None:
        under_way.end_failed()
        seen.append(len(under_way.sessions()))

    after_each_image(look)
    bench.webui.generate(prompt=FIRST, **SHORT)
    assert seen == [1]
