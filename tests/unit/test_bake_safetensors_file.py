"""The writer of safetensors files: what the library reads, and the hashes that sd-scripts finds."""

from __future__ import annotations

import hashlib
import io
import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from lbw.bake import safetensors_file
from lbw.bake.hashes import PLACEHOLDERS
from lbw.bake.safetensors_file import Entry, in_order, size, write

TYPES = [
    name for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
        "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "uint16", "uint32", "uint64",
    ) if hasattr(torch, name)
]  # fmt: skip


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Any bits, NaN and infinities among them; of bool, what torch has for one."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    data = torch.randint(2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape)


def entries_of(tensors: dict[str, Tensor]) -> list[Entry]:
    return in_order(Entry(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items())


def written(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    entries = entries_of(tensors)
    write(file, entries, (tensors[entry.name] for entry in entries), metadata or {})
    assert file.tell() == size(entries, metadata or {}) == len(file.getvalue())
    return file.getvalue()


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def head_of(content: bytes) -> dict:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])


def sd_scripts_hashes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, str]:
    """As sd-scripts takes them before it saves a file: of one with the metadata that begin with ``ss_``."""
    content = save(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    length = int.from_bytes(content[:8], "little")
    model = hashlib.sha256(content[8 + length :]).hexdigest()
    legacy = hashlib.sha256(content[0x100000:][:0x10000]).hexdigest()[:8]
    return {"sshs_model_hash": model, "sshs_legacy_hash": legacy, "modelspec.hash_sha256": f"0x{model}"}


LORA = {
    "lora_unet_b.alpha": torch.tensor(4.0),
    "lora_unet_b.lora_down.weight": random((4, 3000), torch.float16, 1),
    "lora_unet_b.lora_up.weight": random((120_000, 4), torch.float16, 2),
    "lora_unet_a_b.lora_down.weight": random((8, 16_000), torch.bfloat16, 3),
    "lora_unet_a.lora_up.weight": random((320, 4, 3, 3), torch.float32, 4),
    "lora_unet_ä.diff": random((0, 4), torch.float32),
}
METADATA = {
    "ss_network_module": "networks.lora", "ss_network_args": '{"algo": "é\\n\t\x7f\x01"}', **PLACEHOLDERS,
    "lbw_tags": '["<lora:a:1>"]', "modelspec.title": 'a "title" \u2028 \U0001f600',
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5, 7), (2, 3, 1, 3)])
def test_the_library_reads_the_same_bits(tmp_path: Path, name: str, shape: tuple[int, ...]):
    tensor = random(shape, getattr(torch, name))
    path = tmp_path / "a.safetensors"
    path.write_bytes(written({"a": tensor}, {"key": "value"}))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"key": "value"}
        found = file.get_tensor("a")
    assert (found.dtype, found.shape, bits(found)) == (tensor.dtype, tensor.shape, bits(tensor))


def test_many_tensors_are_read_as_they_were(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(written(LORA, METADATA))
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(LORA)
        assert {name: bits(file.get_tensor(name)) for name in LORA} == {name: bits(LORA[name]) for name in LORA}
        assert {key: value for key, value in file.metadata().items() if key not in PLACEHOLDERS} == {
            key: value for key, value in METADATA.items() if key not in PLACEHOLDERS
        }


@pytest.mark.parametrize("tensor", [torch.arange(12.0).reshape(3, 4).T, torch.arange(12.0)[::2],
                                    torch.ones(3, requires_grad=True), torch.ones(1).expand(5)])  # fmt: skip
def test_a_tensor_may_be_a_view_or_a_parameter(tensor: Tensor):
    assert torch.equal(load(written({"a": tensor}))["a"], tensor)


def test_a_tensor_larger_than_a_chunk_is_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(safetensors_file, "_CHUNK", 1000)
    tensors = {"a": random((1001,), torch.float32), "b": random((250,), torch.float32, 1)}
    content = written(tensors, PLACEHOLDERS)
    assert content[-5004:] == bits(tensors["a"]) + bits(tensors["b"])
    assert head_of(content)["__metadata__"] == sd_scripts_hashes(tensors, {})


def test_head_and_order_are_those_of_the_library():
    tensors = {f"{place}.{name}": torch.zeros(3, dtype=getattr(torch, name)) for name in TYPES for place in "ba"}
    by_library = save(tensors, {"one": "ä"})  # of several metadata it has no order
    assert written(tensors, {"one": "ä"}) == by_library


@pytest.mark.parametrize("metadata", [{}, {"ss_a": "b"}, {"lbw_tags": "x" * 5000}])
def test_the_head_ends_at_a_multiple_of_eight(metadata: dict[str, str]):
    content = written({"a": torch.ones(1)}, metadata)
    assert content[8:9] == b"{" and (len(content) - 4) % 8 == 0


@pytest.mark.parametrize("without", [[], ["lbw_tags", "modelspec.title"], ["ss_network_args"]])
def test_hashes_are_those_of_sd_scripts(without: list[str]):
    metadata = {key: value for key, value in METADATA.items() if key not in without}
    content = written(LORA, metadata)
    said = {key: head_of(content)["__metadata__"][key] for key in PLACEHOLDERS}
    assert said == sd_scripts_hashes(LORA, metadata)
    assert len(content) > 0x110000, "no file whose legacy hash is of nothing"


def test_the_legacy_hash_of_a_small_file_is_of_nothing():
    said = head_of(written({"a": torch.ones(1)}, PLACEHOLDERS))["__metadata__"]["sshs_legacy_hash"]
    assert said == hashlib.sha256().hexdigest()[:8] == sd_scripts_hashes({"a": torch.ones(1)}, {})["sshs_legacy_hash"]


def test_the_legacy_hash_may_be_of_the_head():
    tensors = {f"lora_unet_{'x' * 100}_{number:05d}.alpha": torch.tensor(1.0) for number in range(8000)}
    said = head_of(written(tensors, {"ss_v2": "False", **PLACEHOLDERS}))["__metadata__"]["sshs_legacy_hash"]
    assert said == sd_scripts_hashes(tensors, {"ss_v2": "False"})["sshs_legacy_hash"]


@given(st.integers(0xFFF00, 0x110100), st.integers(0, 3))
def test_the_legacy_hash_is_of_the_same_bytes_wherever_data_end(length: int, more: int):
    tensors = {"a": torch.arange(length, dtype=torch.int64).to(torch.uint8), "b": torch.ones(more, dtype=torch.uint8)}
    said = head_of(written(tensors, PLACEHOLDERS))["__metadata__"]
    assert said == sd_scripts_hashes(tensors, {})


def test_hashes_that_nobody_asks_for_are_not_written():
    assert head_of(written(LORA, {"ss_v2": "False"}))["__metadata__"] == {"ss_v2": "False"}




def test_no_tensor_is_held_while_the_next_one_is_made():
    entries = in_order(Entry(f"{number:03d}", (1000,), torch.float32) for number in range(20))
    made: list[weakref.ref[Tensor]] = []

    def tensors() -> Iterator[Tensor]:
        for _entry in entries:
            assert [watched() for watched in made if watched() is not None] == []
            tensor = torch.zeros(1000)
            made.append(weakref.ref(tensor))
            yield tensor
            del tensor

    write(io.BytesIO(), entries, tensors(), PLACEHOLDERS)
    assert len(made) == 20


A, B = Entry("a", (2,), torch.float32), Entry("b", (2,), torch.float16)


@pytest.mark.parametrize(
    ("entries", "tensors", "message"),
    [
        ([A], [torch.ones(3)], r"a: expected torch.float32 \[2\], got torch.float32 \[3\]"),
        ([A], [torch.ones(2, dtype=torch.float16)], r"a: expected torch.float32 \[2\], got torch.float16 \[2\]"),
        ([A], [torch.ones(2, 1)], "a: expected"),
        ([A, B], [torch.ones(2)], "b: no tensor is left"),
        ([A], [torch.ones(2), torch.ones(2)], "more tensors than the 1"),
        ([B, A], [torch.ones(2).half(), torch.ones(2)], "order"),
        ([Entry("b", (2,), torch.float32), A], [torch.ones(2)] * 2, "order"),
        ([A, A], [torch.ones(2)] * 2, "two entries are called a"),
        ([Entry("__metadata__", (2,), torch.float32)], [torch.ones(2)], "two entries are called __metadata__"),
        ([Entry("a", (2,), torch.complex128)], [torch.ones(2, dtype=torch.complex128)], "cannot hold torch.complex128"),
        ([Entry("\ud800", (2,), torch.float32)], [torch.ones(2)], "surrogates"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(entries: list[Entry], tensors: list[Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        write(io.BytesIO(), entries, tensors, {})


def test_a_head_that_no_reader_takes_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(safetensors_file, "MOST_BYTES", 2000)
    with pytest.raises(ValueError, match="at most 2000"):
        written({"a": torch.ones(1)}, {"key": "x" * 2000})
