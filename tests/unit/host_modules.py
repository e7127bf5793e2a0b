"""Network modules with the names and attributes of the host's, made from a file's tensors, for runs without a host."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

ATTRIBUTES: dict[str, dict[str, str]] = {
    "NetworkModuleHada": {
        "w1a": "hada_w1_a", "w1b": "hada_w1_b", "w2a": "hada_w2_a", "w2b": "hada_w2_b",
        "t1": "hada_t1", "t2": "hada_t2",
    },
    "NetworkModuleLokr": {
        "w1": "lokr_w1", "w1a": "lokr_w1_a", "w1b": "lokr_w1_b", "w2": "lokr_w2", "w2a": "lokr_w2_a",
        "w2b": "lokr_w2_b", "t2": "lokr_t2",
    },
    "NetworkModuleIa3": {"w": "weight", "on_input": "on_input"},
    "NetworkModuleFull": {"weight": "diff", "ex_bias": "diff_b"},
    "NetworkModuleNorm": {"w_norm": "w_norm", "b_norm": "b_norm"},
    "NetworkModuleGLora": {"w1a": "a1.weight", "w2a": "a2.weight", "w1b": "b1.weight", "w2b": "b2.weight"},
    "NetworkModuleOFT": {"oft_blocks": "oft_blocks", "rescale": "rescale"},
    "NetworkModuleLora": {},
}
"""The host's class -> {its attribute: the tensor in the file}."""

_SIGNS = {
    "hada_w1_a": "NetworkModuleHada", "lokr_w1": "NetworkModuleLokr", "on_input": "NetworkModuleIa3",
    "diff": "NetworkModuleFull", "w_norm": "NetworkModuleNorm", "a1.weight": "NetworkModuleGLora",
    "oft_blocks": "NetworkModuleOFT", "oft_diag": "NetworkModuleOFT", "lora_A.weight": "NetworkModuleLora",
    "lora_up.weight": "NetworkModuleLora",
}
_RANKS = {"NetworkModuleHada": "w1b", "NetworkModuleLokr": "w2b"}


def make_module(network: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A module as the host's loader makes it, as far as deltas ask for it."""
    name = next(kind for sign, kind in _SIGNS.items() if sign in tensors)
    attributes: dict[str, Any] = {key: tensors.get(part) for key, part in ATTRIBUTES[name].items()}
    scale = float(tensors["scale"]) if "scale" in tensors else 1.0
    rank = attributes.get(_RANKS.get(name, ""))
    if rank is not None and "alpha" in tensors:
        scale = float(tensors["alpha"]) / rank.shape[0]
    if name == "NetworkModuleOFT":
        attributes |= {"is_R": "oft_diag" in tensors, "constraint": float(tensors.get("alpha", 0.0))}
        attributes["oft_blocks"] = tensors.get("oft_blocks", tensors.get("oft_diag"))
    if name == "NetworkModuleLora":
        up = tensors.get("lora_up.weight", tensors.get("lora_B.weight"))
        down = tensors.get("lora_down.weight", tensors.get("lora_A.weight"))
        attributes |= {"up_model": SimpleNamespace(weight=up), "down_model": SimpleNamespace(weight=down)}
        attributes["mid_model"] = None
    attributes |= {"bias": tensors.get("bias"), "dora_scale": tensors.get("dora_scale"), "network": network}
    return type(name, (), attributes | {"calc_scale": lambda _self: scale})()


def layer_for(kind: str) -> nn.Module:
    """A layer of a kind that tests/host/network_files.py knows, without gradients."""
    layers = {"linear": nn.Linear(128, 192), "convolution": nn.Conv2d(32, 64, 3), "norm": nn.GroupNorm(4, 64)}
    layer = layers[kind]
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.05)
    return layer.requires_grad_(False)
