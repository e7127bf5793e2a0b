"""Network files of one layer, made by trainers' own libraries, with what those libraries make of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(24, 32),
    "1x1": lambda: nn.Conv2d(16, 32, 1),
    "3x3": lambda: nn.Conv2d(16, 32, 3, padding=1),
    "layer norm": lambda: nn.LayerNorm(32),
    "group norm": lambda: nn.GroupNorm(4, 32),
}
PROJECTIONS = ("linear", "1x1", "3x3")


@dataclass(frozen=True)
class Trained:
    """A trained layer as it stands in a file, and the library's own account of it."""

    tensors: dict[str, Tensor]
    merged: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    """A float64 weight -> (delta of the weight, delta of the bias or None)."""


Maker = Callable[[nn.Module, Path], Trained]


def make_layer(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layer = LAYERS[kind]()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1)
    return layer.half().float().requires_grad_(False)


def perturb(module: nn.Module, seed: int, size: float) -> None:
    """Random values that float16 can hold, so that a file in float16 loses nothing."""
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=random) * size
        parameter.data = (parameter.data + noise).half().float()


def saved(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors after a way through a file, as float16 except for single numbers."""
    values = {
        name: (value.detach().half() if value.dim() and value.is_floating_point() else value.detach()).contiguous()
        for name, value in tensors.items()
    }
    save_file({f"layer.{name}": value.clone() for name, value in values.items()}, path)
    return {name.removeprefix("layer."): value for name, value in load_file(path).items()}


def lycoris(class_name: str, *, size: float = 0.3, wide: bool = True, **options: Any) -> Maker:
    """A module of LyCORIS. ``wide``: its formula can be run in float64; else it is in float32."""

    def make(layer: nn.Module, path: Path) -> Trained:
        import lycoris.modules as library

        module = getattr(library, class_name)("layer", copy.deepcopy(layer), **{"lora_dim": 4, "alpha": 2.0, **options})
        perturb(module, 7, size)
        tensors = saved(module.state_dict(), path)

        def merged(weight: Tensor) -> tuple[Tensor, Tensor | None]:
            wider = torch.float64 if wide else torch.float32
            fresh = copy.deepcopy(module).to(wider)
            fresh.org_module = [copy.deepcopy(layer).to(wider)]
            fresh.org_module[0].weight.data = weight.to(wider)
            bias = None
            if hasattr(fresh, "get_weight"):  # LoHa, LoKr: what forward uses; get_diff_weight of 4.1 scales it twice
                delta = fresh.get_weight(weight.shape)
            else:
                delta, bias = fresh.get_diff_weight()
            if options.get("weight_decompose"):
                delta = fresh.apply_weight_decompose(weight + delta) - weight
            return delta.detach().double(), None if bias is None else bias.detach().double()

        return Trained(tensors, merged)

    return make


def lycoris_full(layer: nn.Module, path: Path) -> Trained:
    """LyCORIS trains the weight itself and writes the difference."""
    import lycoris.modules as library

    module = library.FullModule("layer", copy.deepcopy(layer))
    module.apply_to()
    perturb(module, 7, 0.05)
    tensors = saved(module.state_dict(), path)
    return Trained(tensors, lambda _weight: (tensors["diff"].double(), tensors["diff_b"].double()))


def lycoris2_glora(layer: nn.Module, path: Path) -> Trained:
    """The host reads the names of LyCORIS 2, which were the other way round, and no alpha."""
    made = lycoris("GLoRAModule", alpha=4.0)(layer, path)
    names = {"a1.weight": "a2.weight", "a2.weight": "a1.weight", "b1.weight": "b2.weight", "b2.weight": "b1.weight"}
    return Trained({names.get(name, name): value for name, value in made.tensors.items()}, made.merged)


def lycoris2_oft(layer: nn.Module, path: Path) -> Trained:
    """LyCORIS 2 wrote the rotations themselves, in float32."""
    import lycoris.modules as library

    module = library.DiagOFTModule("layer", copy.deepcopy(layer), lora_dim=4, constraint=0)
    perturb(module, 7, 0.2)
    rotations = module.get_r().detach()
    save_file({"layer.oft_diag": rotations.clone()}, path)
    wanted = lycoris("DiagOFTModule", size=0.2, wide=False, constraint=0)(layer, path.with_suffix(".new.safetensors"))
    return Trained({"oft_diag": rotations}, wanted.merged)


def peft_lora(layer: nn.Module, path: Path) -> Trained:
    """PEFT's LoRA; alpha equals the rank, for the host reads none with these names."""
    pytest.importorskip("peft", exc_type=ImportError)
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    model = get_peft_model(nn.Sequential(copy.deepcopy(layer)), LoraConfig(r=4, lora_alpha=4, target_modules=["0"]))
    adapter = nn.ParameterList([value for name, value in model.named_parameters() if "lora_" in name])
    perturb(adapter, 7, 0.3)
    tensors = saved(
        {name.removeprefix("base_model.model.0."): value for name, value in get_peft_model_state_dict(model).items()},
        path,
    )
    delta = model.double().base_model.model[0].get_delta_weight("default").detach()
    return Trained(tensors, lambda _weight: (delta, None))


TYPES: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "LoRA": (lycoris("LoConModule"), PROJECTIONS),
    "LoRA of PEFT": (peft_lora, PROJECTIONS),
    "LoCon in CP form": (lycoris("LoConModule", use_tucker=True), ("3x3",)),
    "LoHa": (lycoris("LohaModule"), PROJECTIONS),
    "LoHa of a high rank": (lycoris("LohaModule", lora_dim=12), PROJECTIONS),
    "LoHa in CP form": (lycoris("LohaModule", use_tucker=True), ("3x3",)),
    "LoHa of a high rank in CP form": (lycoris("LohaModule", use_tucker=True, lora_dim=12), ("3x3",)),
    "LoKr with a factorised w2": (lycoris("LokrModule", lora_dim=1), PROJECTIONS),
    "LoKr with both factorised": (lycoris("LokrModule", lora_dim=1, decompose_both=True), PROJECTIONS),
    "LoKr with both whole": (lycoris("LokrModule", full_matrix=True), PROJECTIONS),
    "LoKr with t2": (lycoris("LokrModule", lora_dim=1, use_tucker=True), ("3x3",)),
    "IA3 on the input": (lycoris("IA3Module", train_on_input=True), PROJECTIONS),
    "IA3 on the output": (lycoris("IA3Module", train_on_input=False), ("linear",)),
    "Full": (lycoris_full, PROJECTIONS),
    "Norm": (lycoris("NormModule"), ("layer norm", "group norm")),
    "GLoRA": (lycoris2_glora, ("linear",)),
    "OFT": (lycoris("DiagOFTModule", size=0.2, wide=False, constraint=0), PROJECTIONS),
    "OFT with a constraint": (lycoris("DiagOFTModule", size=0.2, wide=False, constraint=0.01), PROJECTIONS),
    "OFT with rescale": (lycoris("DiagOFTModule", size=0.2, wide=False, rescaled=True), PROJECTIONS),
    "OFT of LyCORIS 2": (lycoris2_oft, PROJECTIONS),
    "BOFT": (lycoris("ButterflyOFTModule", size=0.2, wide=False), PROJECTIONS),
    "BOFT with rescale": (lycoris("ButterflyOFTModule", size=0.2, wide=False, rescaled=True), PROJECTIONS),
    "DoRA on LoRA": (lycoris("LoConModule", weight_decompose=True, wd_on_out=False), PROJECTIONS),
    "DoRA on LoHa": (lycoris("LohaModule", weight_decompose=True, wd_on_out=False), PROJECTIONS),
    "DoRA on LoKr": (lycoris("LokrModule", full_matrix=True, weight_decompose=True, wd_on_out=False), PROJECTIONS),
}
"""Network type -> (its maker, the kinds of layer that the library trains and the host can apply it to)."""

CASES = [(name, kind) for name, (_maker, kinds) in TYPES.items() for kind in kinds]
EXACT = {name for name in TYPES if "OFT" not in name}
"""The types for which the library's result is there in float64."""
