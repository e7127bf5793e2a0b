"""A baked file at strength 1, which the host puts into the weights by itself, does what the tags do that it is made
of."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.host.checkpoints import use
from tests.host.conftest import Bench
from tests.host.measure import OUTPUT_BLOCKS, forget_conditioning
from tests.host.network_files import MAKERS
from tests.host.test_network_types import PAIRS, write

FORMS = {
    "plain": ":0.8",
    "blocks": f":-0.7:lbw={OUTPUT_BLOCKS}",
    "elements": ":1:lbwe=t_attention",
    "te and unet": ":0.25:unet=1.5",
}
RULES = "t_attention:OUT04-OUT11:attn:0.5"
ROUNDING = {"fp32": 2.0**-20, "fp16": 2.0**-9, "bf16": 2.0**-6}
"""Of what is added to a weight: a product of two rounded factors, and the sums of it."""

OF_FORGE = 256
"""So much more is the rounding of the merges that hosts of the Forge family have."""


def bake(path: Path, prompt: str, **asked: Any) -> Any:
    """Bake a prompt's tags into a file, as a user's request does."""
    from lbw.bake.baking import Progress
    from lbw.bake.recipe import Dtype
    from lbw.hosts.backend import Backend
    from lbw.request.bake import Order, begin

    order = Order(prompt, **{"dtype": Dtype.FP32, "elements": RULES, **asked})
    begun = begin(order, Backend(), Progress())
    with path.open("w+b") as file:
        begun.baking.write(file, {})
    return begun


def path_of(bench: Bench, name: str) -> Path:
    return bench.webui.lora_folder / f"{name}.safetensors"


class FirstWeights:
    """The weights that layers have when they are first at work for an image.

    Args:
        active: whether the extension is.
    """

    def __init__(self, bench: Bench, prompt: str, active: bool) -> None:
        from lbw.request.arguments import ARGUMENTS

        self.weights: dict[str, Tensor] = {}
        names = [argument.name for argument in ARGUMENTS]
        values = [argument.default for argument in ARGUMENTS]
        values[names.index("active")], values[names.index("elements")] = active, RULES
        layers = {name: layer for name, layer in bench.layers().items() if name in bench.base}
        hooks = [layer.register_forward_hook(partial(self._see, name)) for name, layer in layers.items()]
        forget_conditioning(bench.webui)
        self.result = bench.webui.generate(values, prompt=prompt, steps=1)
        for hook in hooks:
            hook.remove()

    def _see(self, name: str, layer: Any, *_: Any) -> None:
        self.weights.setdefault(name, layer.weight.detach().cpu().double())

    def added(self, bench: Bench) -> dict[str, Tensor]:
        """What LoRAs add to each layer that they change."""
        found = {name: weight - bench.base[name].double() for name, weight in self.weights.items()}
        return {name: delta for name, delta in found.items() if bool(delta.any())}


def largest_difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """The largest of the layers' differences, relative to what is added to the layer."""
    assert wanted.keys() == found.keys()
    return max(float((found[name] - delta).norm() / delta.norm()) for name, delta in wanted.items())


def tags_and_file(bench: Bench, name: str, tags: str, **asked: Any) -> tuple[Any, float]:
    """What was baked of tags, and by how much the host with the file differs from us with the tags."""
    begun = bake(path_of(bench, name), tags, **asked)
    wanted = FirstWeights(bench, f"a red cat {tags}", True).added(bench)
    found = FirstWeights(bench, f"a red cat <lora:{name}:1>", False)
    assert wanted
    assert bench.webui.is_forge or not found.result.comments
    rounding = OF_FORGE if bench.webui.is_forge else 2  # real hosts sum in another order
    return begun, largest_difference(wanted, found.added(bench)) / rounding


def write_anew(bench: Bench, kind: str, seed: int = 11) -> None:
    path_of(bench, f"t_{kind}").unlink(missing_ok=True)  # a host may have mapped that of an earlier test into memory
    write(bench, kind, seed)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_type_is_baked(bench: Bench, kind: str, form: str):
    write_anew(bench, kind)
    begun, difference = tags_and_file(bench, f"t_baked_{kind}_{[*FORMS].index(form)}", f"<lora:t_{kind}{FORMS[form]}>")
    assert difference < ROUNDING["fp32"]
    assert not begun.messages or bench.webui.is_forge


KEPT = {"peft", "scale", "loha", "loha_high", "lokr", "lokr_whole", "ia3", "ia3_output", "full", "full_bias",
        "norm", "glora"}  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
def test_a_type_stays_what_it_is_where_that_is_exact(bench: Bench, kind: str):
    write_anew(bench, kind)
    scaled = "kept" if kind in KEPT else "full"
    for coefficient, form in (("0.5", scaled), ("1", "full" if kind == "addend" else "kept")):
        begun = bake(path_of(bench, f"t_form_{kind}_{coefficient}"), f"<lora:t_{kind}:{coefficient}>")
        assert {part.form.value for part in begun.baking.recipe.parts} == {form}
    whole, source = load_file(path_of(bench, f"t_form_{kind}_1")), load_file(path_of(bench, f"t_{kind}"))
    if kind in ("ia3", "full_bias", "norm", "glora", "oft", "boft", "dora_loha") and not bench.webui.is_forge:
        assert whole.keys() == source.keys()
        assert all(whole[name].equal(tensor.to(whole[name].dtype)) for name, tensor in source.items())


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["peft", "loha", "lokr_whole", "glora", "dora", "full_bias"])
def test_a_file_of_16_bits_is_as_near_as_its_type_can_be(bench: Bench, kind: str, dtype: str):
    """The host computes with what such a file has in 16 bits, too; we do not."""
    from lbw.bake.recipe import Dtype

    write_anew(bench, kind)
    name, tag = f"t_short_{kind}_{dtype}", f"<lora:t_{kind}:0.8>"
    bake(path_of(bench, name), tag, dtype=Dtype(dtype))
    wanted = FirstWeights(bench, f"a red cat {tag}", True).added(bench)
    ours = FirstWeights(bench, f"a red cat <lora:{name}:1:lbw={','.join(['1'] * 17)}>", True).added(bench)
    assert 0 < largest_difference(wanted, ours) < ROUNDING[dtype]
    hosts = FirstWeights(bench, f"a red cat <lora:{name}:1>", False).added(bench)
    assert 0 < largest_difference(wanted, hosts) < 4 * ROUNDING[dtype]
    made = load_file(path_of(bench, name))
    assert {tensor.dtype for tensor in made.values() if tensor.numel() > 1} == {Dtype(dtype).of_torch}


@pytest.mark.parametrize("pair", PAIRS, ids=" then ".join)
def test_tags_of_different_types_become_whole_differences(bench: Bench, pair: tuple[str, str]):
    for seed, kind in enumerate(pair):
        write_anew(bench, kind, seed)
    begun, difference = tags_and_file(
        bench, f"t_pair_{'_'.join(pair)}", f"<lora:t_{pair[0]}:0.8> <lora:t_{pair[1]}:-0.5>"
    )
    assert difference < ROUNDING["fp32"]
    assert "full" in {part.form.value for part in begun.baking.recipe.parts}


def test_loras_are_joined_exactly(bench: Bench):
    """All numbers of the tags are powers of two, so that nothing is rounded: the sums of products are the very same."""
    tags = "<lora:t_lora:0.5:lbw=1,1,1,0.5,0,1,1,1,0.25,1,1,1,1,1,1,1,1> <lora:t_locon:te=-2:unet=0.25>"
    begun, difference = tags_and_file(bench, "t_joined", tags)
    assert difference < ROUNDING["fp32"]
    assert {part.form.value for part in begun.baking.recipe.parts} == {"kept", "joined"}
    made, sources = load_file(path_of(bench, "t_joined")), [load_file(path_of(bench, n)) for n in ("t_lora", "t_locon")]
    joined = [part for part in begun.baking.recipe.parts if part.form.value == "joined"]
    ratios = [each.coefficients for each in begun.baking.bench.ingredients]
    for part in joined[::7]:
        wanted = sum(exact(source, part.name, each[part.layer]) for source, each in zip(sources, ratios, strict=True))
        assert exact(made, part.name, 1.0) == wanted


def exact(tensors: Mapping[str, Tensor], name: str, ratio: float) -> Fraction:
    """The first element of what a LoRA adds to a layer, without any rounding."""
    up, down = (tensors[f"{name}.lora_{side}.weight"].double().flatten(1) for side in ("up", "down"))
    scale = Fraction(float(tensors[f"{name}.alpha"])) / len(down)
    products = (Fraction(a) * Fraction(b) for a, b in zip(up[0].tolist(), down[:, 0].tolist(), strict=True))
    return sum(products, Fraction(0)) * scale * Fraction(ratio)


def test_what_a_rank_loses_is_what_is_told(bench: Bench):
    write_anew(bench, "dora")
    tags = "<lora:t_lora:0.8> <lora:t_lora2:0.6:lbw=OUTALL> <lora:t_dora:0.5>"
    begun = bake(path_of(bench, "t_cut"), tags, rank=3)
    wanted = FirstWeights(bench, f"a red cat {tags}", True).added(bench)
    found = FirstWeights(bench, "a red cat <lora:t_cut:1>", False).added(bench)
    cut = [part for part in begun.baking.recipe.parts if part.form.value == "cut"]
    assert cut and all(part.rank == 3 for part in cut)
    told: dict[str | None, list[float]] = {}
    for part in cut:
        matrix = wanted[part.layer].flatten(1)
        lost = float((found[part.layer] - wanted[part.layer]).norm())
        best = float(torch.linalg.svdvals(matrix)[3:].norm())
        assert lost == pytest.approx(best, rel=1e-3, abs=1e-5 * float(matrix.norm()))
        told.setdefault(begun.baking.bench.family.block_of(part.key), []).append(lost)
    assert told.keys() == begun.baking.losses.keys()
    for block, losses in told.items():
        assert begun.baking.losses[block].lost == pytest.approx(sum(each**2 for each in losses) ** 0.5, rel=1e-3)


def test_a_rank_above_what_there_is_loses_nothing(bench: Bench):
    """Two tags of equal files have twice the ranks of one, and are as low-rank as it; and a layer may be all 0."""
    tensors = load_file(path_of(bench, "t_lora"))
    name = next(name for name in tensors if name.endswith("lora_up.weight") and "unet" in name)
    tensors[name].zero_()
    for copy in ("t_twin1", "t_twin2"):
        save_file(tensors, path_of(bench, copy))
    begun, difference = tags_and_file(bench, "t_twins", "<lora:t_twin1:0.5> <lora:t_twin2:0.25>", rank=6)
    assert difference < ROUNDING["fp32"]
    assert {part.form.value for part in begun.baking.recipe.parts} == {"cut"}
    assert all(loss.share < 1e-6 for loss in begun.baking.losses.values())


def test_whole_differences_are_made_a_few_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    from lbw.bake import workbench

    write_anew(bench, "dora")
    begun = bake(path_of(bench, "t_portions"), "<lora:t_dora:0.5>")
    most = max(torch.Size(entry.shape).numel() for part in begun.baking.recipe.parts for entry in part.entries)
    monkeypatch.setattr(workbench, "_MOST_AT_ONCE", most)
    for _portion, tensors in begun.baking._portions():
        assert sum(tensor.numel() for tensor in tensors.values()) <= most


def test_a_block_at_0_leaves_its_parts_out(bench: Bench):
    begun = bake(path_of(bench, "t_out"), "<lora:t_lora:1:lbw=OUTALL>")
    blocks = {begun.baking.bench.family.block_of(part.key) for part in begun.baking.recipe.parts}
    assert blocks and all(block in ("BASE", None) or block.startswith("OUT") for block in blocks)
    assert not any("down_blocks" in name for name in load_file(path_of(bench, "t_out")))


def test_the_picture_is_of_what_is_written(bench: Bench):
    from lbw.hosts import network_files

    tags = "<lora:t_lora:0.8:lbw=OUTALL> <lora:t_mid:0.3>"
    begun = bake(path_of(bench, "t_seen"), tags)
    seen = begun.baking.strengths("t_seen")
    measured = network_files.measure("t_seen")
    assert seen.blocks == measured.blocks and seen.messages == ()
    sizes = [{part.key: (part.norms.delta, part.norms.weight) for part in each.parts} for each in (seen, measured)]
    assert sizes[0].keys() == sizes[1].keys()
    for key, (delta, weight) in sizes[1].items():  # the order of sums may differ
        assert sizes[0][key] == (pytest.approx(delta, rel=1e-5), pytest.approx(weight, rel=1e-5))


def test_a_schedule_is_told_and_its_value_at_a_step_is_baked(bench: Bench):
    tags = "<lora:t_lora:te=1:unet=0.5@0,1@1.0:stop=4>"
    for step, wanted in ((0, 0.5), (2, 0.5 + 0.5 * 2 / 7), (6, 0.0)):
        begun = bake(path_of(bench, f"t_step{step}"), f"{tags} <lora:t_lora2:0.5>", step=step, steps=8)
        assert f"step {step} of 8" in "".join(begun.messages) and "t_lora2" not in "".join(begun.messages)
        found = begun.baking.bench.ingredients[0].coefficients
        unet = {value for layer, value in found.items() if layer.startswith("diffusion_model")}
        assert min(unet) == max(unet) == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("tags, reason", [
    ("a red cat", "no LoRA tag"),
    ("<lora:t_lora:1:lbw=NONE>", "nothing is left"),
    ("<lora:t_lora:0>", "nothing is left"),
])
def test_what_cannot_be_baked_is_told(bench: Bench, tags: str, reason: str):
    from lbw.bake.host import BakeError

    with pytest.raises(BakeError, match=reason):
        bake(path_of(bench, "t_nothing"), tags)


def test_an_unknown_lora_is_told(bench: Bench):
    from lbw.engine.strengths import UnknownNetworkError

    with pytest.raises(UnknownNetworkError, match="t_missing"):
        bake(path_of(bench, "t_nothing"), "<lora:t_lora:1> <lora:t_missing:1>")


def test_parts_that_images_do_not_get_are_left_out_and_told(bench: Bench):
    path = path_of(bench, "t_odd")
    tensors = load_file(path_of(bench, "t_lora"))
    names = sorted({name.partition(".")[0] for name in tensors})
    tensors[f"{names[0]}.lora_up.weight"][0, 0] = float("nan")
    tensors["lora_unet_no_such_layer.lora_up.weight"] = torch.ones(4, 4)
    tensors["lora_unet_no_such_layer.lora_down.weight"] = torch.ones(4, 4)
    save_file(tensors, path)
    begun = bake(path_of(bench, "t_odd_baked"), "<lora:t_odd:1>")
    told = "\n".join(begun.messages)
    assert "NaN" in told and "lora_unet_no_such_layer" in told and begun.messages[0].startswith("<lora:t_odd>")
    made = {name.partition(".")[0] for name in load_file(path_of(bench, "t_odd_baked"))}
    assert made == {*names[1:]}


def test_another_checkpoint_under_way_ends_it(bench: Bench, checkpoints: list[str]):
    """The host puts weights of the same kind of model into the same layers."""
    from lbw.bake.host import BakeError

    write_anew(bench, "dora")
    begun = bake(path_of(bench, "t_switched"), "<lora:t_dora:0.5>")
    use(checkpoints, "other-sd1")
    with path_of(bench, "t_switched").open("w+b") as file, pytest.raises(BakeError, match="another model"):
        begun.baking.write(file, {})


def test_a_file_that_was_replaced_is_not_hashed_for_the_one_that_was_read(bench: Bench):
    from lbw.bake.baking import Progress
    from lbw.bake.host import BakeError
    from lbw.request.bake import hashes_of

    path = path_of(bench, "t_replaced")
    save_file(load_file(path_of(bench, "t_lora")), path)
    begun = bake(path_of(bench, "t_replaced_baked"), "<lora:t_replaced:0.5>")
    save_file(load_file(path_of(bench, "t_lora2")), path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
    with pytest.raises(BakeError, match="replaced"):
        hashes_of(begun.sources, Progress())


def test_values_that_are_too_small_for_a_type_are_told(bench: Bench):
    from lbw.bake.recipe import Dtype

    for dtype, is_told in ((Dtype.FP16, True), (Dtype.BF16, False), (Dtype.FP32, False)):
        begun = bake(path_of(bench, f"t_small_{dtype.value}"), "<lora:t_lora:0.0001>", dtype=dtype)
        assert ("too small for float16" in "".join(begun.report({}).messages)) == is_told


def test_a_tag_of_which_nothing_is_baked_is_told(bench: Bench):
    begun = bake(path_of(bench, "t_none"), "<lora:t_lora:0> <lora:t_lora2:1>")
    assert [each for each in begun.messages if "nothing of it is baked" in each and "t_lora>" in each]
    assert [source.name for source in begun.sources] == ["t_lora2"]
