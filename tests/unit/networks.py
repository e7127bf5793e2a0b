"""LoRA networks as a host would load them, for tests and benchmarks that run without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lbw.engine.base_weights import Policy
from lbw.engine.batch import Batch
from lbw.engine.engine import LoraEngine
from lbw.engine.meter import StrengthMeter
from lbw.hosts.a1111.ledger import LayerAttributes
from lbw.hosts.a1111.parts import ModuleParts

GPU_ERRORS = (torch.cuda.OutOfMemoryError("injected"), RuntimeError("CUDA error: an illegal memory access"))


@dataclass(eq=False)
class Network:
    name: str
    te_multiplier: float = 1.0
    unet_multiplier: float = 1.0
    dyn_dim: int | None = None
    modules: dict[str, NetworkModuleLora] = field(default_factory=dict)
    path: str | None = None


class NetworkModuleLora:
    """A LoRA module with the attributes of the host's; factors as convolutions or linear layers without bias."""

    bias = None
    dora_scale = None

    def __init__(self, network: Network, key: str, up: Tensor, down: Tensor, alpha: float, mid: Tensor | None = None):
        self.network = network
        self.sd_key = key
        self.up_model, self.down_model = _holder(up), _holder(down)
        self.mid_model = None if mid is None else _holder(mid)
        self.dim, self.alpha = down.shape[0], alpha

    def calc_scale(self) -> float:
        return self.alpha / self.dim

    def delta(self) -> Tensor:
        """The delta at strength 1, in float64."""
        up, down = self.up_model.weight.double().flatten(1), self.down_model.weight.double()
        if self.mid_model is not None:
            mid = self.mid_model.weight.double()
            return torch.einsum("nmkl,in,mj->ijkl", mid, up, down.flatten(1)) * self.calc_scale()
        rank = self.network.dyn_dim
        return (up[:, :rank] @ down[:rank].flatten(1)).reshape(up.shape[0], *down.shape[1:]) * self.calc_scale()


def _holder(weight: Tensor) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module


def lora_engine(policy: Policy = Policy.AUTO, **options: Any) -> LoraEngine:
    """An engine for these networks, which keeps book as A1111 does."""
    return LoraEngine(LayerAttributes(), ModuleParts(), policy, **options)


def batches_of(engine: LoraEngine) -> list[Batch]:
    """What an engine writes together."""
    return [] if engine._partition is None else [*engine._partition.batches]


def strength_meter() -> StrengthMeter:
    return StrengthMeter(LayerAttributes(), ModuleParts())


def random_network(
    name: str,
    layers: Mapping[str, nn.Module],
    *,
    rank: int = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    mid: bool = False,
    device: str = "cpu",
    size: float = 0.01,
) -> Network:
    """A network for all of ``layers``; with the default ``size`` its deltas are some tenths of the weights."""
    random = torch.Generator(device).manual_seed(seed)
    network = Network(name)
    for key, layer in layers.items():
        out, into, *kernel = layer.weight.shape
        use_mid = mid and kernel not in ([], [1, 1])
        options = {"generator": random, "device": device}
        down = torch.randn((rank, into, *([1, 1] if use_mid else kernel)), **options)
        up = torch.randn((out, rank, *([1] * len(kernel))), **options) * (size / rank**0.5)
        core = torch.randn((rank, rank, *kernel), **options) * 0.3 if use_mid else None
        network.modules[key] = NetworkModuleLora(
            network, key, up.to(dtype), down.to(dtype), rank / 2, None if core is None else core.to(dtype)
        )
    return network


def small_model(dtype: torch.dtype, device: str, seed: int = 0, taller: int = 1) -> dict[str, nn.Module]:
    """One layer of each kind that a LoRA or a LoCon touches, odd shapes among them; ``taller`` multiplies the rows."""
    torch.manual_seed(seed)
    layers: dict[str, nn.Module] = {
        "diffusion_model_input_blocks_1_1_attn1_to_q": nn.Linear(48, 80 * taller),
        "diffusion_model_input_blocks_4_1_proj_in": nn.Conv2d(33, 65 * taller, 1),
        "diffusion_model_middle_block_0_in_layers_2": nn.Conv2d(32, 24 * taller, 3, padding=1),
        "diffusion_model_output_blocks_3_1_ff_net_2": nn.Linear(257, 31 * taller, bias=False),
        "transformer_text_model_encoder_layers_0_mlp_fc1": nn.Linear(64, 96 * taller),
    }
    for layer in layers.values():
        nn.init.normal_(layer.weight, std=0.05)
        layer.to(device=device, dtype=dtype).requires_grad_(False)
    return layers
