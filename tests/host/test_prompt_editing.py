"""LoRA tags in prompt editing and alternation: a LoRA is on in exactly those evaluations of the model in which the host
has a word that stands in the place of its tag."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from lbw.tags.families import SD1
from tests.host.conftest import Bench
from tests.host.lora_files import attention_layers, write_lora
from tests.host.measure import messages, recording, replaced, status

TAGS = {"a": "<lora:edit_a:0:1>", "b": "<lora:edit_b:0:0.5>", "c": "<lora:edit_c:0:-1>"}
WORDS = {"a": "castle", "b": "forest", "c": "river"}
NETWORKS = {"a": ("edit_a", 1.0), "b": ("edit_b", 0.5), "c": ("edit_c", -1.0)}


class Words:
    """The words that the host's text encoder has been given, and in which evaluation it has used them."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._texts: list[tuple[str, Tensor]] = []
        self.seen: list[set[str]] = []

    def encoding(self, encode: Any) -> Any:
        def wrapped(texts: Any, *args: Any, **kwargs: Any) -> Any:
            conds = encode(texts, *args, **kwargs)
            rows = conds["crossattn"] if isinstance(conds, dict) else conds
            self._texts += [(str(text), row.detach().clone()) for text, row in zip(texts, rows, strict=True)]
            return conds

        return wrapped

    def observe(self, params: Any) -> None:
        cond = params.text_cond
        rows = cond["crossattn"] if isinstance(cond, dict) else cond
        texts = [text for row in rows for text, known in self._texts if row.shape == known.shape and row.equal(known)]
        self.seen.append({key for key, word in WORDS.items() if any(word in text for text in texts)})


def words_in_force(bench: Bench, **fields: Any) -> list[set[str]]:
    """For each evaluation, the keys of the words that the host's conditioning has."""
    words = Words(bench)
    model = bench.webui.shared.sd_model
    for cache in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):  # or the host would not encode again
        kind = bench.webui.processing.StableDiffusionProcessingTxt2Img
        if getattr(kind, cache, None) is not None:
            setattr(kind, cache, [None, None])
    with replaced(model, "get_learned_conditioning", words.encoding), bench.webui.observing(words.observe, before=True):
        bench.webui.generate(**fields)
    return words.seen


DELTAS: dict[str, dict[str, Tensor]] = {}
"""What the LoRA files add at strength 1."""


@pytest.fixture(scope="module")
def files(_bench: Bench) -> None:
    """LoRA files for some layers of the U-Net, so that many switches and measurements take little time."""
    layers = attention_layers(_bench.layers())
    unet = [name for name in layers if SD1.block_of(name) in ("IN01", "IN07", "M00", "OUT04", "OUT11")]
    some = {name: layers[name] for name in unet[::4]}
    for seed, (name, _strength) in enumerate(NETWORKS.values(), 20):
        DELTAS[name] = write_lora(_bench.webui.lora_folder / f"{name}.safetensors", some, seed=seed, rank=2)


def loras_in_force(bench: Bench, **fields: Any) -> tuple[Any, list[dict[str, float]]]:
    """For each evaluation, {key of a tag: its LoRA's strength, measured from the weights}."""
    with recording(bench.webui, bench.base, DELTAS) as record:
        result = bench.webui.generate(**fields)
    strengths = []
    for seen in record.strengths:
        found = {}
        for key, (name, _strength) in NETWORKS.items():
            least = min(least for least, _ in seen[name].values())
            greatest = max(greatest for _, greatest in seen[name].values())
            assert greatest - least < 1e-2, f"{name} differs between blocks"
            found[key] = (least + greatest) / 2
        strengths.append(found)
    return result, strengths


def compare(bench: Bench, prompt: str, **fields: Any) -> list[set[str]]:
    """Generate with words, and then with tags in the same places; the tags that are on in each evaluation.

    Args:
        prompt: with ``{a}`` and so on for each of them.
    """
    prompts = {"prompt": prompt} | {name: fields.pop(name) for name in ["hr_prompt"] if name in fields}
    with_words, with_tags = (
        {name: text.format(**values) for name, text in prompts.items()} for values in (WORDS, TAGS)
    )
    expected = words_in_force(bench, **with_words, **fields)
    _, found = loras_in_force(bench, **with_tags, **fields)
    wanted = [
        {key: pytest.approx(strength if key in keys else 0.0, abs=5e-3) for key, (_, strength) in NETWORKS.items()}
        for keys in expected
    ]
    assert found == wanted
    return expected


@pytest.fixture
def images() -> None:
    """For tests of images, which need the U-Net."""


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, files: None) -> None:
    """Evaluations are counted here, and there are many."""
    if "images" not in request.fixturenames:
        request.getfixturevalue("quick_unet")


@pytest.fixture
def old_scheduling(bench: Bench) -> Iterator[None]:
    opts = bench.webui.shared.opts
    if not hasattr(opts, "use_old_scheduling"):
        pytest.skip("this host has no old scheduling")
    opts.use_old_scheduling = True
    yield
    opts.use_old_scheduling = False


PROMPTS = [
    "cat [{a}:{b}:0.5]",
    "cat [{a}:{b}:0.25] dog",
    "cat [{a}:{b}:3]",
    "cat [{a}:{b}: 3 ]",
    "cat [{a}:{b}:.75]",
    "cat [{a}:{b}:0]",
    "cat [{a}:{b}:0.0]",
    "cat [{a}:{b}:1]",
    "cat [{a}:{b}:1.0]",
    "cat [{a}:{b}:100]",
    "cat [{a}:{b}:-2]",
    "[{a}:0.5]",
    "[{a}:3]",
    "[{a}::0.5]",
    "[{a}::3]",
    "[:{a}:0.5]",
    "[{a}|{b}]",
    "[{a}|{b}|{c}]",
    "[{a}|]",
    "[|{a}]",
    "[{a}||{b}]",
    "[{a}|{b}] [{c}:3]",
    "[[{a}|{b}]:{c}:0.5]",
    "[{c}:[{a}|{b}]:0.5]",
    "[[{a}:{b}:2]:{c}:5]",
    "[{a}:[{b}:{c}:5]:2]",
    "[[[{a}]]:4]",
    "[([{a}:2]:1.2)::6]",
    "([{a}:{b}:4]:1.3)",
    "(cat, {a}:1.2) [{b}::4]",
    "[cat {a}:dog {b}:0.4]",
    "[{a} cat {b}:{c}:0.4]",
    "[{a}{b}:{c}:4]",
    "{c} [cat {a}|dog {b}]",
    "[cat, {a}]",
    "[{a}]",
    "[[{a}]] {b}",
    "[{a}:{b}]",
    "[{a}:{b}:half]",
    "[{a}:{b}:0.5",
    "{a}:{b}:0.5]",
    "\\[{a}:{b}:0.5\\]",
    "[cat:dog:0.5] {a}",
    "[cat:dog:3{a}] [{b}:4]",
    "a AND [{a}:{b}:4]",
    "[{a}:4] cat AND [{b}::4] dog :0.5",
    "[{a} AND {b}:4]",
    "[{a}:4] BREAK [{b}::4]",
    "[{a}:4] ) [{b}::4]",
    "[{a}:{a}:4] [{b}:{c}:5]",
    "[{a}:2][{b}:4][{c}:6]",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_tag_is_on_where_a_word_in_its_place_is(bench: Bench, prompt: str):
    compare(bench, prompt)


def test_the_host_is_compared_with_what_it_does(bench: Bench):
    """That the words are seen at all: four evaluations with the first one, as the host counts, then the other."""
    assert compare(bench, "[{a}:{b}:3]") == [{"a"}] * 4 + [{"b"}] * 4
    assert compare(bench, "[{a}|{b}]") == [{"a"}, *[{"a"}, {"b"}] * 3, {"a"}]


HIRES = [
    "[{a}:{b}:0.5]",
    "[{a}:{b}:1.5]",
    "[{a}:{b}:1.0]",
    "[{a}:{b}:1]",
    "[{a}:{b}:2.0]",
    "[{a}:{b}:1.25] [{c}:0.5]",
    "[{a}:{b}:10]",
    "[{a}:{b}:3]",
    "[{a}::8]",
    "[{a}|{b}|{c}]",
    "[[{a}|{b}]:{c}:1.5]",
    "[[{a}:{b}:0.5]:{c}:1.5]",
]


@pytest.mark.parametrize("prompt", HIRES)
def test_the_hires_pass_goes_on_as_the_host_has_it(bench: Bench, prompt: str):
    compare(bench, prompt, enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.8,
            hr_second_pass_steps=6, steps=8)  # fmt: skip


@pytest.mark.parametrize("prompt", HIRES[:4] + HIRES[9:11])
@pytest.mark.parametrize("hires", [{}, {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent"}])
def test_old_scheduling(bench: Bench, old_scheduling: None, prompt: str, hires: dict[str, Any]):
    compare(bench, prompt, denoising_strength=0.8, **hires)


def test_the_hires_pass_has_a_prompt_of_its_own(bench: Bench):
    compare(bench, "[{a}:{b}:4]", hr_prompt="[{c}:{a}:1.5] [{b}|cat]", enable_hr=True, hr_scale=1.5,
            hr_upscaler="Latent", denoising_strength=0.8)  # fmt: skip


TWO_PASS_SAMPLERS = {"Heun": "Euler", "Euler": "Heun"}


@pytest.mark.parametrize(("sampler", "other"), TWO_PASS_SAMPLERS.items())
def test_a_pass_counts_the_evaluations_of_its_own_sampler(bench: Bench, sampler: str, other: str):
    compare(bench, "[{a}:{b}:1.5] [{c}:20]", enable_hr=True, hr_scale=1.5, hr_upscaler="Latent",
            denoising_strength=0.8, sampler_name=sampler, hr_sampler_name=other)  # fmt: skip


@pytest.mark.parametrize("prompt", ["[{a}:{b}:0.5]", "[{a}:{b}:5]", "[{a}|{b}|{c}]", "[[{a}|{b}]:{c}:0.3]"])
@pytest.mark.parametrize(
    "sampler",
    [
        "Euler", "Heun", "DPM2", "DPM2 a", "DPM++ SDE", "DPM++ 2S a", "DPM++ 2M", "DPM fast", "DPM adaptive", "DDIM",
        "PLMS", "UniPC", "LMS", "Restart", "LCM",
    ],
)
def test_every_sampler_has_them_by_evaluations(bench: Bench, sampler: str, prompt: str):
    bench.require_sampler(sampler)
    compare(bench, prompt, sampler_name=sampler)


@pytest.mark.parametrize("sampler", ["Euler", "Heun"])
@pytest.mark.parametrize("prompt", ["[{a}:{b}:0.25]", "[{a}:{b}:3]", "[{a}|{b}|{c}]", "[{a}::0.9]"])
def test_img2img_runs_the_first_steps_of_the_prompt(bench: Bench, prompt: str, sampler: str):
    image = Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8))
    seen = compare(bench, prompt, init_images=[image], denoising_strength=0.5, steps=8, sampler_name=sampler)
    assert len(seen) < 2 * 8


def test_of_a_batch_of_different_prompts_the_tags_of_the_first_count(bench: Bench):
    prompts = ["[{a}:{b}:3] cat", "[{b}:{a}:6] dog {c}", "[{c}|{a}] dog", "cat {b}"]
    fields: dict[str, Any] = {"batch_size": 2, "n_iter": 2}
    _, found = loras_in_force(bench, prompt=[prompt.format(**TAGS) for prompt in prompts], **fields)
    first = words_in_force(bench, prompt=prompts[0].format(**WORDS))
    second = words_in_force(bench, prompt=prompts[2].format(**WORDS))
    for seen, keys in zip(found, [*first, *second], strict=True):
        assert seen == {
            key: pytest.approx(strength if key in keys else 0.0, abs=5e-3) for key, (_, strength) in NETWORKS.items()
        }


def test_a_tag_has_its_own_window_and_curve_besides(bench: Bench):
    tags = "[<lora:edit_a:0:1:stop=6>:<lora:edit_b:te=0:unet=0@0,1@7:start=5>:3] <lora:edit_c:0:-1:step=1-3>"
    _, found = loras_in_force(bench, prompt=tags)
    steps = range(8)
    assert [each["a"] for each in found] == pytest.approx([float(step <= 3) for step in steps], abs=5e-3)
    ramp = [step / 7 if step >= 5 else 0.0 for step in steps]
    assert [each["b"] for each in found] == pytest.approx(ramp, abs=5e-3)
    assert [each["c"] for each in found] == pytest.approx([-float(step in (1, 2)) for step in steps], abs=5e-3)


def conditionings(bench: Bench, prompt: str, **fields: Any) -> list[Tensor]:
    """The conditioning of each evaluation."""
    seen: list[Tensor] = []

    def observe(params: Any) -> None:
        cond = params.text_cond
        seen.append((cond["crossattn"] if isinstance(cond, dict) else cond).detach().clone())

    with bench.webui.observing(observe, before=True):
        bench.webui.generate(prompt=prompt, **fields)
    return seen


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("cat [{a}:{b}:0.5]", "cat"),
        ("cat [{a}|{b}|{c}] dog", "cat dog"),
        ("cat [{a}:3] dog [[{b}]::0.5]", "cat dog"),
        ("[cat {a}:dog {b}:0.4]", "[cat:dog:0.4]"),
        ("[cat {a}|{b} dog|{c}]", "[cat|dog|]"),
        ("cat [{a}] dog", "cat dog"),
        ("[[cat {a}:{b}:2]:dog:5] AND [{c}:4] tree :0.7", "[[cat::2]:dog:5] AND tree :0.7"),
    ],
)
def test_the_words_are_encoded_as_without_tags(bench: Bench, prompt: str, words: str):
    with_tags = conditionings(bench, prompt.format(**TAGS))
    without = conditionings(bench, words)
    assert len(with_tags) == len(without)
    assert all(one.equal(other) for one, other in zip(with_tags, without, strict=True))


@pytest.mark.parametrize("prompt", ["[cat {a}]", "{a} [cat:dog:0.5]", "[[{a}], (cat:1.2)]", "[{a}:{b}]"])
def test_tags_in_brackets_without_a_schedule_are_as_before(bench: Bench, images: None, prompt: str):
    """The image is that of the tags as they are beside the brackets, and nothing is said of prompt editing."""
    result = bench.webui.generate(prompt=prompt.format(**TAGS))
    beside = prompt.format(a="", b="", c="") + "".join(TAGS[key] for key in TAGS if f"{{{key}}}" in prompt)
    expected = bench.webui.generate(prompt=beside)
    assert np.array_equal(np.asarray(result.images[0]), np.asarray(expected.images[0]))
    assert "LBW prompt editing" not in result.infotexts[0]


def test_the_setting_switches_it_off_and_an_image_says_so(bench: Bench, images: None):
    prompt = "[{a}:{b}:3]".format(**TAGS)
    result, found = loras_in_force(bench, prompt=prompt, override_settings={"lbw_prompt_editing": False})
    assert all(each["a"] == pytest.approx(1, abs=5e-3) and each["b"] == pytest.approx(0.5, abs=5e-3) for each in found)
    assert bench.webui.parse_infotext(result.infotexts[0])["LBW prompt editing"] == "False"
    again = bench.webui.generate(prompt=prompt, override_settings={"lbw_prompt_editing": False})
    assert np.array_equal(np.asarray(result.images[0]), np.asarray(again.images[0]))
    edited = bench.webui.generate(prompt=prompt)
    assert bench.webui.parse_infotext(edited.infotexts[0])["LBW prompt editing"] == "True"
    assert not np.array_equal(np.asarray(result.images[0]), np.asarray(edited.images[0]))


def test_an_infotext_brings_the_setting_back(bench: Bench):
    """By the host's own function, which knows the settings that infotexts may set."""
    try:
        from modules.infotext_utils import get_override_settings
    except ImportError:
        pytest.skip("before 1.8 this was elsewhere")
    assert get_override_settings({"LBW prompt editing": "False"}) == [
        ("LBW prompt editing", "lbw_prompt_editing", False)
    ]
    assert get_override_settings({"LBW prompt editing": "True"}) == []


def test_steps_are_told(bench: Bench):
    result = bench.webui.generate(prompt="[{a}:{b}:3] [{c}:25]".format(**TAGS))
    assert "edit_a: steps 0-3 of 8" in status(result)
    assert "edit_b: steps 4-7 of 8" in status(result)
    told = bench.webui.parse_infotext(result.infotexts[0])["LBW steps"]
    assert told == "edit_a: 0-3 of 8; edit_b: 4-7 of 8; edit_c: none of 8"
    assert messages(result) == ["<lora:edit_c>: its brackets in the prompt have it in no step of the image"]


def test_of_a_tag_that_one_of_two_passes_has_nothing_is_told(bench: Bench):
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.8}
    result = bench.webui.generate(prompt="[{a}:{b}:0.5] [{c}:1.5]".format(**TAGS), **hires)
    assert messages(result) == []


@pytest.mark.parametrize("position", ["50%", "2.5sigma", "0,5"])
def test_what_is_no_position_for_the_host_is_told(bench: Bench, position: str):
    result, found = loras_in_force(bench, prompt=f"[{{a}}:{{b}}:{position}]".format(**TAGS))
    assert all(each["a"] == pytest.approx(1, abs=5e-3) for each in found)
    assert messages(result) == [
        f"[...:{position}]: {position!r} is no position in a prompt's brackets; expected a share (0.5) or a step (10); "
        "LoRAs in the brackets are on at all times"
    ]


@pytest.mark.parametrize("tag", ["<lora:edit_a:1>", "<LoRA:edit_a:1>", "<lyco:edit_a>"])
@pytest.mark.parametrize("field", ["negative_prompt", "hr_negative_prompt"])
def test_a_tag_in_the_negative_prompt_is_told(bench: Bench, tag: str, field: str):
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.8}
    result = bench.webui.generate(prompt="cat", **{field: f"blurry {tag}"}, **hires)
    assert messages(result) == [
        f"{tag} in the negative prompt: it has no effect there, and stays as words; expected in the prompt, with a "
        "negative strength to keep away from it: <lora:edit_a:-1>"
    ]


def test_of_too_many_brackets_the_loras_are_told_to_stay(bench: Bench):
    """The host's parser takes seconds for so many, and minutes for some more."""
    prompt = "[<lora:edit_a:0:1>:3]" + "[x:y:3]" * 50
    result, found = loras_in_force(bench, prompt=prompt)
    assert all(each["a"] == pytest.approx(1, abs=5e-3) for each in found)
    assert messages(result) == [
        "the brackets around LoRA tags cannot be read (203 brackets, colons and bars; expected at most "
        "100); these LoRAs are on at all times"
    ]


def test_emphases_without_a_tag_are_not_parsed(bench: Bench):
    """They are what a prompt has many of."""
    from modules import prompt_parser

    asked: list[str] = []

    def note(original: Any) -> Any:
        def schedules(prompts: Any, *args: Any, **kwargs: Any) -> Any:
            asked.extend(prompts)
            return original(prompts, *args, **kwargs)

        return schedules

    prompt = "(best (quality:1.2):1.1), [[art]], " * 40 + "[{a}:(cat):3] [dog:(x|y):0.5]"
    with replaced(prompt_parser, "get_learned_conditioning_prompt_schedules", note):
        bench.webui.generate(prompt=prompt.format(**TAGS), steps=1)
    assert "x[::3] [x:(x|x):0.5]" in asked


def test_the_batches_of_a_generation_ask_the_parser_once(bench: Bench):
    """It takes seconds for prompts that it still reads, and the host itself encodes a prompt once."""
    from modules import prompt_parser

    asked: list[Any] = []

    def note(original: Any) -> Any:
        def schedules(prompts: Any, *args: Any, **kwargs: Any) -> Any:
            asked.extend(text for text in prompts if "[x" in text)
            return original(prompts, *args, **kwargs)

        return schedules

    with replaced(prompt_parser, "get_learned_conditioning_prompt_schedules", note):
        bench.webui.generate(prompt="[owls {a}:{b}:1]".format(**TAGS), steps=1, n_iter=3)
    assert len(asked) == 2  # with words in the place of the tags, and without


@pytest.mark.parametrize(
    "prompt",
    [
        " AND ".join(f"[{{a}}:{number}]" for number in range(60)),
        "[cat:dog:3{a}] " + "[{b}:{c}:4]" * 20,  # each tag would be asked for alone
    ],
)
def test_the_parts_of_a_prompt_are_bounded_together(bench: Bench, prompt: str):
    result, found = loras_in_force(bench, prompt=prompt.format(**TAGS), steps=1)
    assert [{key for key, strength in each.items() if abs(strength) > 0.1} for each in found] == [
        {key for key in TAGS if f"{{{key}}}" in prompt}
    ]
    assert "brackets, colons and bars; expected at most 100" in messages(result)[0]


def test_a_prompt_may_have_every_sign_there_is(bench: Bench):
    signs = "".join(chr(code) for code in range(0xE000, 0xF900))
    bench.webui.generate(prompt=f"[{TAGS['a']}:3] {signs}", steps=1)


def test_a_parser_that_fails_leaves_the_loras_on(bench: Bench):
    from modules import prompt_parser

    def fail(_original: Any) -> Any:
        calls = []

        def schedules(*args: Any, **kwargs: Any) -> Any:
            calls.append(None)
            if len(calls) == 1:
                raise ValueError("broken")
            return _original(*args, **kwargs)

        return schedules

    with replaced(prompt_parser, "get_learned_conditioning_prompt_schedules", fail):
        result, found = loras_in_force(bench, prompt="[{a}:{b}:3]".format(**TAGS))
    assert all(each["a"] == pytest.approx(1, abs=5e-3) for each in found)
    assert messages(result) == [
        "the brackets around LoRA tags cannot be read (broken); these LoRAs are on at all times"
    ]


def test_other_tags_of_the_host_are_no_words(bench: Bench):
    """Tags of other kinds stand in brackets, too, and are counted apart."""
    _, found = loras_in_force(bench, prompt="[<hypernet:none:1>{a}:<lyco:edit_b:0:0.5>:3]".format(**TAGS))
    assert [round(each["a"]) for each in found] == [1] * 4 + [0] * 4
    assert [each["b"] for each in found] == pytest.approx([0] * 4 + [0.5] * 4, abs=5e-3)


def test_the_weights_go_back_after_an_interrupted_pass(bench: Bench):
    state = bench.webui.shared.state

    def stop(params: Any) -> None:
        state.interrupted = params.sampling_step >= 2

    with bench.webui.observing(stop):
        bench.webui.generate(prompt="[{a}|{b}]".format(**TAGS))
    state.interrupted = False
    bench.webui.generate(prompt="cat")
    assert bench.differences_from_base() == []
