"""Programs other than WebUIs make of a file what the formulas of its network types say, or refuse it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.host import readers
from tests.host.checkpoints import switch, use
from tests.host.network_files import MAKERS, NORM, Formula, Made, Random, kind_of, peft_lora, write_network
from tests.host.readers import Change, Model
from tests.host.webui import WebUI

Formulas = Mapping[str, tuple[Formula, Tensor | None]]

SOME = re.compile(
    r"(down_blocks_1|mid_block|up_blocks_1|input_blocks_4|middle_block|output_blocks_3|encoder_layers_(0|1))_.*"
    r"(attn[12]_to_(q|k|v|out_0)|ff_net_2|proj_in|proj_out|conv[12]?|conv_shortcut|time_emb_proj|emb_layers_1"
    r"|(in|out)_layers_[023]|skip_connection|norm[123]?|mlp_fc[12]|[qkv]_proj|out_proj|layer_norm1)$"
)
"""Some layers of each kind, in blocks of each side and in the text encoders."""


# Types that trainers write in forms of which the host has none


def lora(weight: Tensor, random: Random) -> Made:
    tensors, formula, _ = peft_lora(weight, random)
    named = {"lora_up.weight": tensors["lora_B.weight"], "lora_down.weight": tensors["lora_A.weight"]}
    return named | {"alpha": torch.tensor(2.0)}, lambda w: 0.5 * formula(w), None


def lora_in_cp_form(weight: Tensor, random: Random) -> Made:
    out, into, *kernel = weight.shape
    up, down = random(out, 4, *[1] * len(kernel)), random(4, into, *[1] * len(kernel))
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}
    if set(kernel) <= {1}:
        product = up.double().flatten(1) @ down.double().flatten(1)
        return tensors, lambda w: 0.5 * product.reshape(w.shape), None
    core = random(4, 4, *kernel)
    delta = torch.einsum("or,rskl,si->oikl", up.double().flatten(1), core.double(), down.double().flatten(1))
    return tensors | {"lora_mid.weight": core}, lambda _w: 0.5 * delta, None


def dora_of_lycoris(weight: Tensor, random: Random) -> Made:
    """A length for each output channel, divided by the norms of the outputs; hosts divide by those of the inputs."""
    tensors, formula, _ = lora(weight, random)
    wanted = (1 + random(len(weight), *[1] * (weight.dim() - 1), size=0.2).abs()).float()

    def decomposed(w: Tensor) -> Tensor:
        moved = w + formula(w)
        norms = moved.flatten(1).norm(dim=1).reshape(wanted.shape)
        return wanted.double() * moved / norms - w

    return tensors | {"dora_scale": wanted}, decomposed, None


OWN: dict[str, Callable[[Tensor, Random], Made]] = {
    "lora": lora,
    "lora_cp": lora_in_cp_form,
    "dora_lycoris": dora_of_lycoris,
}


def write(path: Path, kind: str, model: Model, some: re.Pattern[str] = SOME) -> Formulas:
    """A file of a type for those of ``some`` layers that can have a part of it."""
    layers = {name: part.layer for name, part in model.items() if some.search(name)}
    if kind == "boft":  # its stages pair blocks, their number being a power of two
        layers = {name: layer for name, layer in layers.items() if len(layer.weight).bit_count() == 1}
    if kind in MAKERS:
        return write_network(path, kind, layers, 11, naming=str)
    tensors, formulas = {}, {}
    for number, (name, layer) in enumerate(layers.items()):
        if kind_of(layer) != NORM:
            made, formula, bias = OWN[kind](layer.weight.float(), Random(number))
            tensors |= {f"{name}.{part}": value for part, value in made.items()}
            formulas[name] = (formula, bias)
    save_file(tensors, path)
    return formulas


# What a file has to be for LyCORIS to read it as hosts do

Tensors = dict[str, Tensor]


def scale_of_one(tensors: Tensors) -> Tensors:
    """LyCORIS 4.1 multiplies by alpha / rank twice, and cannot do without an alpha: here it is the rank."""
    ranks = {"hada_w1_b": 0, "lokr_w2_b": 0}
    for key in [key for key in tensors if key.rpartition(".")[2] in ranks]:
        name = key.rpartition(".")[0]
        rank = tensors[key].shape[0]
        tensors[key] = tensors[key].double() * float(tensors[f"{name}.alpha"]) / rank
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors


def with_alpha(tensors: Tensors) -> Tensors:
    """Two whole factors have no rank, but LyCORIS asks for an alpha."""
    names = {key.partition(".")[0] for key in tensors}
    return tensors | {f"{name}.alpha": torch.tensor(1.0) for name in names}


def names_of_lycoris_3(tensors: Tensors) -> Tensors:
    """Since version 3 the names are the other way round, and the alpha counts: here it is the rank."""
    other = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
    renamed = {re.sub(r"\b[ab][12]\b", lambda m: other[m[0]], key): value for key, value in tensors.items()}
    for key in [key for key in renamed if key.endswith(".alpha")]:
        renamed[key] = torch.tensor(float(len(renamed[key.replace("alpha", "a2.weight")])))
    return renamed


def with_all_stages(tensors: Tensors) -> Tensors:
    """LyCORIS expects as many stages as there can be: further ones that rotate nothing."""
    for key in [key for key in tensors if key.endswith(".oft_blocks")]:
        stages = tensors[key]
        missing = stages.shape[1].bit_length() - len(stages)
        tensors[key] = torch.cat([stages, torch.zeros(missing, *stages.shape[1:])])
    return tensors


def as_it_is(tensors: Tensors) -> Tensors:
    return tensors


EXACT, SINGLE = 1e-12, 2e-5

READ: dict[tuple[str, str], tuple[Callable[[Tensors], Tensors], float]] = {
    ("kohya", "lora"): (as_it_is, EXACT),
    ("diffusers", "lora"): (as_it_is, EXACT),
    ("LyCORIS", "lora"): (as_it_is, EXACT),
    ("LyCORIS", "lora_cp"): (as_it_is, EXACT),
    ("LyCORIS", "loha"): (scale_of_one, EXACT),
    ("LyCORIS", "loha_high"): (scale_of_one, SINGLE),
    ("LyCORIS", "lokr"): (scale_of_one, EXACT),
    ("LyCORIS", "lokr_whole"): (with_alpha, EXACT),
    ("LyCORIS", "full"): (as_it_is, EXACT),
    ("LyCORIS", "full_bias"): (as_it_is, EXACT),
    ("LyCORIS", "norm"): (as_it_is, EXACT),
    ("LyCORIS", "glora"): (names_of_lycoris_3, EXACT),
    ("LyCORIS", "oft"): (as_it_is, SINGLE),
    ("LyCORIS", "boft"): (with_all_stages, SINGLE),
    ("LyCORIS", "dora_lycoris"): (as_it_is, EXACT),
}
"""(reader, type) -> (what has to be done to a file that hosts read, how exact the reader is, in shares of the largest
element). All other types, a reader refuses."""


def close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def at(strength: float, formulas: Formulas) -> Formulas:
    """What a tag of a strength makes of formulas."""
    return {
        name: (lambda w, formula=formula: strength * formula(w), None if bias is None else strength * bias)
        for name, (formula, bias) in formulas.items()
    }


def assert_made(found: Mapping[str, Change], formulas: Formulas, model: Model, tolerance: float) -> None:
    assert formulas
    assert found.keys() == formulas.keys()
    for name, (weight, bias) in found.items():
        formula, wanted_bias = formulas[name]
        base = model[name].layer.weight
        # the change of a weight is known to the last places of the weight itself
        assert close(base + weight, base + formula(base), tolerance), name
        assert (bias is None) == (wanted_bias is None), name
        if bias is not None and wanted_bias is not None:
            assert close(bias, wanted_bias, tolerance), name


@pytest.fixture(scope="module")
def models(webui: WebUI) -> dict[str, Model]:
    """{family: its model, as other programs have it}"""
    from modules import sd_models

    if webui.is_forge:
        pytest.skip("the Forge family: what other programs read is no matter of the host")
    first = webui.shared.sd_model.sd_checkpoint_info
    found = {"SD1": readers.model_of(webui)}
    use([*sd_models.checkpoints_list], "sdxl")
    found["SDXL"] = readers.model_of(webui)
    switch(first)
    return found


@pytest.fixture(params=["SD1", "SDXL"])
def model(request: pytest.FixtureRequest, models: dict[str, Model]) -> Model:
    return models[request.param]


def reader_of(name: str) -> readers.Reader:
    pytest.importorskip({"LyCORIS": "lycoris", "diffusers": "diffusers", "kohya": "torch"}[name])
    return readers.READERS[name]


@pytest.mark.parametrize("case", READ, ids=" ".join)
def test_a_reader_makes_of_a_type_what_its_formula_says(tmp_path: Path, model: Model, case: tuple[str, str]):
    read = reader_of(case[0])
    change, tolerance = READ[case]
    path = tmp_path / "network.safetensors"
    formulas = write(path, case[1], model)
    save_file({key: value.contiguous() for key, value in change(load_file(path)).items()}, path)
    assert_made(read(path, model), formulas, model, tolerance)


REFUSED = [(reader, kind) for reader in readers.READERS for kind in [*OWN, *MAKERS] if (reader, kind) not in READ]


@pytest.mark.parametrize("model", ["SD1"], indirect=True)
@pytest.mark.parametrize("case", REFUSED, ids=" ".join)
def test_a_reader_refuses_the_other_types(tmp_path: Path, model: Model, case: tuple[str, str]):
    read = reader_of(case[0])
    path = tmp_path / "network.safetensors"
    assert write(path, case[1], model)
    with pytest.raises((readers.UnreadError, ValueError, TypeError, AttributeError, RuntimeError)):
        read(path, model)


def write_ranks(path: Path, model: Model, alpha: Callable[[str, int], float]) -> Formulas:
    """A LoRA with a rank of its own for each layer, as several files joined have; ``alpha`` of (component, rank)."""
    tensors, formulas = {}, {}
    trained = [item for item in model.items() if SOME.search(item[0]) and item[1].layer.weight.dim() > 1]
    for number, (name, part) in enumerate(trained):
        rank, random = 2 + number % 3, Random(number)
        out, into, *kernel = part.layer.weight.shape
        up, down = random(out, rank, *[1] * len(kernel)), random(rank, into, *kernel)
        value = alpha(part.component, rank)
        delta = (up.double().flatten(1) @ down.double().flatten(1)).reshape(part.layer.weight.shape) * (value / rank)
        made = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(value)}
        tensors |= {f"{name}.{key}": tensor for key, tensor in made.items()}
        formulas[name] = (lambda _w, delta=delta: delta, None)
    save_file(tensors, path)
    return formulas


@pytest.mark.parametrize("reader", readers.READERS)
def test_layers_of_several_ranks_are_read(tmp_path: Path, model: Model, reader: str):
    """With such alphas as diffusers needs: the rank in the U-Net, the same for all layers in a text encoder."""
    path = tmp_path / "network.safetensors"
    formulas = write_ranks(path, model, lambda component, rank: float(rank) if component == "unet" else 4.0)
    assert_made(reader_of(reader)(path, model), formulas, model, EXACT)


@pytest.mark.parametrize("model", ["SD1"], indirect=True)
@pytest.mark.parametrize(
    ("alpha", "wrong"),
    [(lambda component, rank: 1.0, "unet"), (lambda component, rank: float(rank), "text_encoder")],
    ids=["the same in the U-Net", "the rank in the text encoder"],
)
def test_diffusers_reads_no_other_alphas_of_several_ranks(
    tmp_path: Path, model: Model, alpha: Callable[[str, int], float], wrong: str
):
    path = tmp_path / "network.safetensors"
    formulas = write_ranks(path, model, alpha)
    found = reader_of("diffusers")(path, model)
    differing = {name for name in formulas if not close(found[name][0], formulas[name][0](torch.empty(0)), EXACT)}
    assert {model[name].component for name in differing} == {wrong}
    assert_made(reader_of("kohya")(path, model), formulas, model, EXACT)
