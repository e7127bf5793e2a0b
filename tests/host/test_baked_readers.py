"""Programs other than WebUIs make of a baked file what the tags do that it is made of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.host import readers
from tests.host.checkpoints import use
from tests.host.conftest import Bench
from tests.host.network_files import MAKERS
from tests.host.test_bake import bake
from tests.host.test_lora_readers import (
    OWN,
    SINGLE,
    Formulas,
    as_it_is,
    assert_made,
    at,
    reader_of,
    scale_of_one,
    with_alpha,
    write,
)  # fmt: skip

STRENGTH = 0.8

LORAS = ("lora", "peft", "scale")
"""Those that are a product of two factors, whatever a file calls them: all programs read what is baked of them."""

AS_THEY_ARE = {"loha": scale_of_one, "loha_high": scale_of_one, "lokr": scale_of_one, "lokr_whole": with_alpha}
"""Types that stay what they are, and what a file has to be for LyCORIS to read it as hosts do."""

IN_LYCORIS = (
    *LORAS, "lora_cp", "full", "full_bias", "norm", *AS_THEY_ARE,
    "oft", "oft_diag", "boft", "dora", "dora_by_output", "dora_loha", "dora_full", "dora_ia3",
)  # fmt: skip
"""The types of which LyCORIS reads what is baked: the last of them, which no ratio scales, become differences."""

READ = [(reader, kind) for reader in ("kohya", "diffusers") for kind in LORAS]
READ += [("LyCORIS", kind) for kind in IN_LYCORIS]

REFUSED = ("addend", "ia3", "ia3_output", "glora")
"""What is baked of these has tensors that LyCORIS does not know, in whole or in part."""


def write_for_host(bench: Bench, name: str, kind: str, some: re.Pattern[str] | None = None) -> Formulas:
    path = bench.webui.lora_folder / f"{name}.safetensors"
    model = readers.model_of(bench.webui)
    formulas = write(path, kind, model) if some is None else write(path, kind, model, some)
    tensors = AS_THEY_ARE.get(kind, as_it_is)(load_file(path))
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return formulas


def bake_type(bench: Bench, folder: Path, kind: str) -> tuple[Path, Formulas]:
    bench.not_on_forge("what other programs read is no matter of the host")
    formulas = write_for_host(bench, f"t_read_{kind}", kind)
    path = folder / "baked.safetensors"
    bake(bench, path, f"<lora:t_read_{kind}:{STRENGTH}>", dtype="fp32")
    return path, at(STRENGTH, formulas)


@pytest.mark.parametrize("case", READ, ids=" ".join)
def test_a_reader_makes_of_a_baked_type_what_its_tag_does(bench: Bench, tmp_path: Path, case: tuple[str, str]):
    read = reader_of(case[0])
    path, wanted = bake_type(bench, tmp_path, case[1])
    model = readers.model_of(bench.webui)
    assert_made(read(path, model), wanted, model, SINGLE)


@pytest.mark.parametrize("kind", REFUSED)
def test_lycoris_refuses_what_is_baked_of_other_types(bench: Bench, tmp_path: Path, kind: str):
    read = reader_of("LyCORIS")
    path, _wanted = bake_type(bench, tmp_path, kind)
    with pytest.raises((readers.UnreadError, TypeError, RuntimeError)):
        read(path, readers.model_of(bench.webui))


def test_all_types_are_accounted_for():
    assert {*IN_LYCORIS, *REFUSED} == {*OWN, *MAKERS} - {"dora_lycoris"}  # of which the host makes something else


def joined(first: Formulas, second: Formulas) -> Formulas:
    """What two tags, of strengths 0.8 and -0.5, add together."""
    wanted = dict(at(STRENGTH, first))
    for name, (formula, _bias) in at(-0.5, second).items():
        before = wanted[name][0] if name in wanted else None
        wanted[name] = (lambda w, f=formula, g=before: f(w) if g is None else f(w) + g(w), None)
    return wanted


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("reader", readers.READERS)
def test_joined_loras_are_read(bench: Bench, checkpoints: list[str], tmp_path: Path, reader: str, family: str):
    """Two files for the same layers, so that all have one rank and one alpha."""
    bench.not_on_forge("what other programs read is no matter of the host")
    read = reader_of(reader)
    use(checkpoints, family)
    wanted = joined(write_for_host(bench, "t_read_1", "lora"), write_for_host(bench, "t_read_2", "peft"))
    path, model = tmp_path / "baked.safetensors", readers.model_of(bench.webui)
    bake(bench, path, f"<lora:t_read_1:{STRENGTH}> <lora:t_read_2:-0.5>", dtype="fp32")
    assert_made(read(path, model), wanted, model, SINGLE)


@pytest.mark.parametrize("reader", ["kohya", "LyCORIS"])
def test_loras_joined_in_some_layers_are_read(bench: Bench, tmp_path: Path, reader: str):
    """Layers have several ranks then, which diffusers reads of no version but with the alphas of that version."""
    bench.not_on_forge("what other programs read is no matter of the host")
    read = reader_of(reader)
    second = write_for_host(bench, "t_read_2", "peft", re.compile(r"mid_block_.*(attn[12]_to_q|conv1)$"))
    wanted = joined(write_for_host(bench, "t_read_1", "lora"), second)
    path, model = tmp_path / "baked.safetensors", readers.model_of(bench.webui)
    bake(bench, path, f"<lora:t_read_1:{STRENGTH}> <lora:t_read_2:-0.5>", dtype="fp32")
    assert_made(read(path, model), wanted, model, SINGLE)
