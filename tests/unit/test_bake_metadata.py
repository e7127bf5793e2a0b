"""What a baked file says of itself, as its readers read it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from lbw.bake.hashes import PLACEHOLDERS
from lbw.bake.metadata import LONGEST_LICENSE, LONGEST_TEXT, MOST_WORDS, Source, describe
from lbw.bake.safetensors_file import Entry, write
from lbw.files.head import Head
from lbw.files.origin import model_name, of_head
from lbw.tags.families import FLUX, KNOWN, SD1, SDXL, Family, family_of_layers

SD2 = family_of_layers(["model_transformer_resblocks_0_attn", "diffusion_model_input_blocks_1_1_proj_in"])
UNKNOWN = family_of_layers([f"diffusion_model_rows_{number}_attn" for number in range(4)])
FAMILIES = {model_name(family): family for family in (*KNOWN, SD2)}

SDXL_BY_KOHYA = {
    "ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False", "ss_network_module": "networks.lora",
    "ss_network_dim": "16", "ss_network_alpha": "8.0", "ss_output_name": "old", "ss_epoch": "10", "ss_steps": "1000",
    "ss_learning_rate": "0.0001", "ss_mixed_precision": "bf16", "ss_num_train_images": "20", "ss_seed": "42",
    "ss_sd_model_name": "base.safetensors", "ss_sd_model_hash": "31e35c80", "ss_new_sd_model_hash": "None",
    "ss_training_comment": "mine", "ss_session_id": "1", "ss_training_started_at": "1.0", "ss_dataset_dirs": "{}",
    "ss_tag_frequency": json.dumps({"10_cat": {"cat": 10, "sitting": 3}}),
    "sshs_model_hash": "ab" * 32, "sshs_legacy_hash": "cd" * 4,
    "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models", "modelspec.title": "Old one",
    "modelspec.date": "2023-01-01T00:00:00", "modelspec.resolution": "1024x1024", "modelspec.author": "me",
    "modelspec.license": "MIT", "modelspec.trigger_phrase": "mypetcat", "modelspec.hash_sha256": "0xabc",
    "modelspec.thumbnail": "data:image/jpeg;base64,abc", "modelspec.prediction_type": "epsilon",
}  # fmt: skip

MADE = datetime(2024, 5, 6, 7, 8, 9, 123456)


def described(*metadata: Mapping[str, object], family: Family = SDXL, with_words: bool = False, **other: Any) -> dict:
    sources = [Source(f"source{number}", each, f"{number}" * 64) for number, each in enumerate(metadata)]
    arguments: dict[str, Any] = {"kinds": {"lora"}, "ranks": [16, 16], "alphas": [8.0], "made": MADE, **other}
    return describe("new", sources, ["<lora:a:1>"], family, with_words=with_words, **arguments)


def in_a_file(metadata: dict[str, str]) -> Mapping[str, Any]:
    """The metadata as a host reads them from a file, JSON in them included."""
    file = io.BytesIO()
    write(file, [Entry("a", (1,), torch.float32)], [torch.ones(1)], metadata)
    length = int.from_bytes(file.getvalue()[:8], "little")
    found = json.loads(file.getvalue()[8 : 8 + length])["__metadata__"]
    for key, value in found.items():
        if value.startswith("{"):
            with suppress(ValueError):
                found[key] = json.loads(value)
    return found


def by_a1111(metadata: Mapping[str, Any]) -> str:
    """How AUTOMATIC1111 lists a file."""
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return "SDXL"
    return "SD2" if str(metadata.get("ss_v2", "")) == "True" else "SD1"


def by_forge(metadata: Mapping[str, Any]) -> str:
    """How Forge does."""
    architecture = metadata.get("modelspec.architecture")
    if metadata.get("modelspec.implementation") == "https://github.com/black-forest-labs/flux":
        return "Flux"
    if architecture in ("flux-1-dev/lora", "stable-diffusion-xl-v1-base/lora"):
        return "Flux" if architecture.startswith("flux") else "SDXL"
    by_name = by_a1111(metadata)
    return by_name if by_name != "SD1" or architecture == "stable-diffusion-v1/lora" else "Unknown"


LIES: list[dict[str, str]] = [
    {},
    SDXL_BY_KOHYA,
    {"ss_base_model_version": "sd_v1", "ss_v2": "True", "modelspec.architecture": "stable-diffusion-v1/lora"},
    {"ss_base_model_version": "flux1", "modelspec.architecture": "flux-1-dev/lora",
     "modelspec.implementation": "https://github.com/black-forest-labs/flux"},
]  # fmt: skip


@pytest.mark.parametrize("said", LIES, ids=["nothing", "SDXL", "SD1 and SD2", "Flux"])
@pytest.mark.parametrize("title", FAMILIES)
def test_hosts_list_it_with_the_models_it_is_for(title: str, said: dict[str, str]):
    found = in_a_file(described(said, family=FAMILIES[title]))
    expected = {"SDXL refiner": "SDXL"}.get(title, title)
    assert by_a1111(found) == (expected if expected in ("SD2", "SDXL") else "SD1")
    assert by_forge(found) == (expected if expected in ("SD1", "SD2", "SDXL", "Flux") else "Unknown")


@pytest.mark.parametrize("title", FAMILIES)
def test_we_take_it_for_one_of_its_model(title: str):
    """By its metadata alone; of a published size, what it is a size of."""
    found = of_head(Head({}, described({}, family=FAMILIES[title])))
    assert found.is_for(FAMILIES[title])


@pytest.mark.parametrize(
    ("family", "version", "v2", "architecture", "implementation"),
    [
        (SD1, "sd_v1", "False", "stable-diffusion-v1/lora", "diffusers"),
        (SD2, "sd_v2", "True", "stable-diffusion-v2-512/lora", "diffusers"),
        (SDXL, "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora",
         "https://github.com/Stability-AI/generative-models"),
        (FLUX, "flux1", "False", "flux-1-dev/lora", "https://github.com/black-forest-labs/flux"),
        (FAMILIES["SD3"], None, "False", "stable-diffusion-3/lora", "diffusers"),
        (FAMILIES["Lumina 2"], "lumina2", "False", "lumina-2/lora", "https://github.com/Alpha-VLLM/Lumina-Image-2.0"),
        (UNKNOWN, None, "False", "unknown/lora", "unknown"),
    ],
)  # fmt: skip
def test_a_model_is_called_as_sd_scripts_calls_it(
    family: Family, version: str | None, v2: str, architecture: str, implementation: str
):
    found = described({}, family=family)
    assert (found.get("ss_base_model_version"), found["ss_v2"]) == (version, v2)
    assert found["modelspec.architecture"] == architecture
    assert found["modelspec.implementation"] == implementation


@pytest.mark.parametrize(
    ("family", "said", "expected"),
    [
        (SD1, {"ss_base_model_version": "sd_v1_v"}, {"ss_base_model_version": "sd_v1_v"}),
        (SD2, {"ss_base_model_version": "sd_v2_v"}, {"ss_base_model_version": "sd_v2_v",
                                                     "modelspec.architecture": "stable-diffusion-v2-768-v/lora"}),
        (FLUX, {"modelspec.architecture": "flux-1-schnell/lora"}, {"modelspec.architecture": "flux-1-schnell/lora"}),
        (FLUX, {"ss_base_model_version": "flux_kontext"}, {"ss_base_model_version": "flux_kontext"}),
        (FLUX, {"ss_base_model_version": "flux_2_dev"}, {"ss_base_model_version": "flux1"}),
        (FLUX, {"modelspec.architecture": "flux <b>/lora"}, {"modelspec.architecture": "flux-1-dev/lora"}),
        (FAMILIES["SD3"], {"ss_base_model_version": "5-medium"}, {"ss_base_model_version": "5-medium"}),
        (FAMILIES["Qwen-Image"], {"modelspec.architecture": "Qwen-Image-Edit"},
         {"modelspec.architecture": "Qwen-Image-Edit/lora"}),
        (UNKNOWN, {"ss_base_model_version": "krea2", "modelspec.architecture": "Krea-2/lora"},
         {"ss_base_model_version": "krea2", "modelspec.architecture": "Krea-2/lora"}),
    ],
)  # fmt: skip
def test_a_source_may_know_the_model_better(family: Family, said: dict[str, str], expected: dict[str, str]):
    found = described(said, said, family=family)
    assert {key: found[key] for key in expected} == expected


def test_sources_that_differ_leave_it_to_the_model():
    found = described({"ss_base_model_version": "sd_v1_v"}, {"ss_base_model_version": "sd_v1"}, {}, family=SD1)
    assert found["ss_base_model_version"] == "sd_v1"


def test_all_that_one_file_says_of_itself():
    assert described(SDXL_BY_KOHYA, notes=["step 5"]) == {
        "ss_network_module": "networks.lora", "ss_network_dim": "16", "ss_network_alpha": "8", "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0", "ss_output_name": "new",
        "ss_sd_model_name": "base.safetensors", "ss_sd_model_hash": "31e35c80",
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models", "modelspec.title": "new",
        "modelspec.date": "2024-05-06T07:08:09", "modelspec.resolution": "1024x1024", "modelspec.author": "me",
        "modelspec.license": "MIT", "modelspec.prediction_type": "epsilon", "modelspec.merged_from": "Old one",
        "sshs_model_hash": "0" * 64, "sshs_legacy_hash": "0" * 8, "modelspec.hash_sha256": "0x" + "0" * 64,
        "lbw_tags": '["<lora:a:1>"]', "lbw_notes": '["step 5"]',
        "lbw_sources": json.dumps([{"name": "source0", "sha256": "0" * 64, "sshs_model_hash": "ab" * 32}]),
    }  # fmt: skip


@pytest.mark.parametrize(
    "key", ["ss_sd_model_name", "ss_sd_model_hash", "modelspec.author", "modelspec.resolution",
            "modelspec.prediction_type"])  # fmt: skip
def test_only_what_all_sources_say_is_carried_over(key: str):
    assert described(SDXL_BY_KOHYA, dict(SDXL_BY_KOHYA))[key] == SDXL_BY_KOHYA[key]
    assert key not in described(SDXL_BY_KOHYA, {**SDXL_BY_KOHYA, key: "another"})
    assert key not in described(SDXL_BY_KOHYA, {})


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        (["MIT"], "MIT"), (["MIT", "MIT "], "MIT"), (["MIT", "CC-BY-4.0", "MIT"], "MIT; CC-BY-4.0"),
        ([None, "MIT"], "MIT"), ([None], None), (["None", "  "], None), ([7, "MIT"], "MIT"),
        (["x" * LONGEST_LICENSE], "x" * LONGEST_LICENSE),
        (["x" * (LONGEST_LICENSE + 1)], "x" * LONGEST_LICENSE + " … (cut)"),
    ],
)  # fmt: skip
def test_all_licenses_stand_there(licenses: list[object], expected: str | None):
    metadata = [{} if each is None else {"modelspec.license": each} for each in licenses]
    assert described(*metadata).get("modelspec.license") == expected


@pytest.mark.parametrize(
    ("kinds", "module", "arguments"),
    [
        ({"lora"}, "networks.lora", None), ({"loha"}, "lycoris.kohya", '{"algo": "loha"}'),
        (["lokr", "lokr"], "lycoris.kohya", '{"algo": "lokr"}'), ({"oft"}, "lycoris.kohya", '{"algo": "diag-oft"}'),
        ({"lora", "loha"}, "lycoris.kohya", None), ({"lora", "full"}, "lycoris.kohya", None),
        ({"something"}, "lycoris.kohya", None),
    ],
)  # fmt: skip
def test_the_module_is_the_one_that_has_such_parts(kinds: Any, module: str, arguments: str | None):
    found = described(kinds=kinds)
    assert (found["ss_network_module"], found.get("ss_network_args")) == (module, arguments)


@pytest.mark.parametrize(
    ("ranks", "alphas", "dim", "alpha"),
    [
        ([4], [4.0], "4", "4"), ([4, 4], [0.5, 0.5], "4", "0.5"), ([4, 8], [1, 1], "Dynamic", "1"),
        ([4], [1.0, 2.0], "4", "Dynamic"), ([], [], None, None), (range(3), iter([1e-7]), "Dynamic", "1e-07"),
    ],
)  # fmt: skip
def test_ranks_and_alphas_are_told_where_all_are_equal(ranks: Any, alphas: Any, dim: str | None, alpha: str | None):
    found = described(ranks=ranks, alphas=alphas)
    assert (found.get("ss_network_dim"), found.get("ss_network_alpha")) == (dim, alpha)


def test_words_come_along_only_if_asked_for():
    other = {"ss_tag_frequency": json.dumps({"10_cat": {"dog": 4}, "5_dog": {"dog": 2}}),
             "modelspec.trigger_phrase": "mypetdog"}  # fmt: skip
    without = described(SDXL_BY_KOHYA, other)
    assert not {"ss_tag_frequency", "modelspec.trigger_phrase"} & set(without)
    assert "mypet" not in str(without)
    found = described(SDXL_BY_KOHYA, other, dict(SDXL_BY_KOHYA), with_words=True)
    assert found["modelspec.trigger_phrase"] == "mypetcat, mypetdog"
    assert in_a_file(found)["ss_tag_frequency"] == {
        "10_cat": {"cat": 10, "sitting": 3}, "10_cat (2)": {"dog": 4}, "5_dog": {"dog": 2}
    }  # fmt: skip


def test_of_very_many_words_the_most_frequent_ones_stay():
    words = {f"word{count}": count for count in range(1, 3 * MOST_WORDS)}
    frequencies = in_a_file(described({"ss_tag_frequency": json.dumps({"a": words})}, with_words=True))
    kept = frequencies["ss_tag_frequency"]["a"]
    assert len(kept) == MOST_WORDS and min(kept.values()) == 2 * MOST_WORDS


@pytest.mark.parametrize(
    "frequencies",
    ["", "{", "[]", "null", "7", "NaN", '{"a": 7}', '{"a": []}', '{"a": {"b": NaN}}', '{"a": {"b": "7"}}',
     '{"a": {"b": 1e400}}', '{"a": {"b": -1}}', '{"a": {"b": true}}', '{"a": {"b": 99999999999999}}',
     '{"a": {"\\ud800": 1}}', '{"\\ud800": {"b": 1}}', '{"a": {"": 1}}', '{"a": ' * 100_000,
     " " * 4_000_000 + '{"a": {"b": 1}}',
     '{"a": {"b": 1' + "0" * 10_000 + "}}", json.dumps({"a": {"x" * 201: 1}}), {"a": {"b": 1}}, None, 7],
    ids=lambda value: str(value)[:30])  # fmt: skip
def test_words_that_cannot_be_read_are_left_out(frequencies: object):
    assert "ss_tag_frequency" not in described({"ss_tag_frequency": frequencies}, with_words=True)


def test_titles_of_sources_are_told_or_else_their_names():
    sources = [{"modelspec.title": "One"}, {"modelspec.title": "x" * 2000}, {"modelspec.title": "One"}]
    assert described(*sources)["modelspec.merged_from"] == "One, source1"


HOSTILE = ["x" * 1_000_000, "\ud800", "\0", "{", "NaN", "", " ", "None", None, 7, float("nan"), {"a": 1}, ["a"]]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("family", [SDXL, UNKNOWN], ids=["SDXL", "unknown"])
def test_hostile_metadata_make_no_large_or_broken_file(value: object, family: Family):
    metadata = dict.fromkeys(SDXL_BY_KOHYA, value)
    found = described(metadata, metadata, family=family, with_words=True)
    assert len(json.dumps(found)) < 4000 + LONGEST_LICENSE
    assert set(in_a_file(found)) == set(found)
    assert save({"a": torch.ones(1)}, found)
    assert found["modelspec.title"] == found["ss_output_name"] == "new"


@given(st.dictionaries(st.sampled_from(sorted(SDXL_BY_KOHYA)), st.text() | st.none() | st.integers()))
def test_whatever_sources_say_is_text_that_can_be_written(metadata: dict[str, object]):
    found = described(metadata, family=UNKNOWN, with_words=True)
    assert all(isinstance(value, str) and value.encode() for value in found.values())


def test_a_name_that_is_no_text_is_told_as_far_as_it_goes():
    source = Source("a\udcff", {}, "0" * 64)
    found = describe("new", [source], ["<lora:a\udcff:1>"], SD1, kinds=(), ranks=(), alphas=(), made=MADE,
                     with_words=False)  # fmt: skip
    assert found["modelspec.merged_from"] == "a?" and in_a_file(found)


@pytest.mark.parametrize("said", ["", "x" * 64, "ab" * 33, "<b>", None, 7])
def test_a_hash_of_a_source_is_told_only_if_it_is_one(said: object):
    assert json.loads(described({"sshs_model_hash": said})["lbw_sources"]) == [{"name": "source0", "sha256": "0" * 64}]


def test_hashes_of_the_sources_are_not_those_of_the_file():
    found = described(SDXL_BY_KOHYA)
    assert {key: found[key] for key in PLACEHOLDERS} == PLACEHOLDERS


@pytest.mark.parametrize("length", [LONGEST_TEXT, LONGEST_TEXT + 1])
def test_longer_values_are_left_out(length: int):
    found = described({"modelspec.author": "x" * length})
    assert found.get("modelspec.author") == ("x" * length if length == LONGEST_TEXT else None)
