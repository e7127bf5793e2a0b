"""Network files of every type for whatever model is loaded, with each layer's formula in float64.

The formulas are written down once more here, from the papers and the formats, so that a host's or a library's code
is no part of what a weight is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.host.lora_files import kohya_name

Formula = Callable[[Tensor], Tensor]
"""A float64 weight -> what the network adds to it at strength 1."""

Made = tuple[dict[str, Tensor], Formula, Tensor | None]
"""(a file's tensors for a layer, the formula, what is added to the layer's bias)."""

RANK = 4


class Random:
    """Random tensors for one layer, of values that float16 can hold."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, size: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self._generator) * size).half().float()


def _kernel(weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape[2:])


def _flat(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight[0].numel()


def _size(weight: Tensor) -> float:
    return 0.25 * float(weight.double().std())


def peft_lora(weight: Tensor, random: Random) -> Made:
    out, into = weight.shape[:2]
    up = random(out, RANK, *[1] * len(_kernel(weight)), size=_size(weight) / RANK**0.5)
    down = random(RANK, into, *_kernel(weight))
    delta = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
    return {"lora_B.weight": up, "lora_A.weight": down}, lambda _w: delta, None


def lora_with_scale(weight: Tensor, random: Random) -> Made:
    tensors, formula, _ = peft_lora(weight, random)
    named = {"lora_up.weight": tensors["lora_B.weight"], "lora_down.weight": tensors["lora_A.weight"]}
    return named | {"scale": torch.tensor(0.75), "alpha": torch.tensor(9.0)}, lambda w: 0.75 * formula(w), None


def lora_with_addend(weight: Tensor, random: Random) -> Made:
    tensors, formula, _ = lora_with_scale(weight, random)
    addend = random(*weight.shape, size=_size(weight))
    return tensors | {"bias": addend}, lambda w: formula(w) + 0.75 * addend.double(), None


def loha(rank: int) -> Callable[[Tensor, Random], Made]:
    def make(weight: Tensor, random: Random) -> Made:
        out, into = _flat(weight)
        a, c = random(out, rank, size=_size(weight)), random(out, rank)
        b, d = random(rank, into, size=rank**-0.5), random(rank, into, size=rank**-0.5)
        delta = (a.double() @ b.double()) * (c.double() @ d.double()) * (2 / rank)
        tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(2.0)}
        return tensors, lambda _w: delta.reshape(weight.shape), None

    return make


def lokr(whole: bool) -> Callable[[Tensor, Random], Made]:
    def make(weight: Tensor, random: Random) -> Made:
        out, into = weight.shape[:2]
        small = random(2, 2)
        kernel = _kernel(weight)
        if whole:
            large = random(out // 2, into // 2, *kernel, size=_size(weight))
            tensors = {"lokr_w2": large}
        else:
            up = random(out // 2, RANK, size=_size(weight))
            down = random(RANK, weight[0].numel() // 2, size=RANK**-0.5)
            tensors = {"lokr_w2_a": up, "lokr_w2_b": down, "alpha": torch.tensor(2.0)}
            large = (up.double() @ down.double()) * (2 / RANK)
        blocks = large.double().reshape(out // 2, into // 2, *kernel)
        delta = torch.cat([torch.cat([small[i, j].double() * blocks for j in (0, 1)], 1) for i in (0, 1)])
        return tensors | {"lokr_w1": small}, lambda _w: delta, None

    return make


def ia3(weight: Tensor, random: Random) -> Made:
    factors = random(1, weight.shape[1], *[1] * len(_kernel(weight)), size=0.25)
    return {"weight": factors, "on_input": torch.tensor(1)}, lambda w: w * factors.double(), None


def ia3_output(weight: Tensor, random: Random) -> Made:
    factors = random(weight.shape[0], size=0.25)
    return {"weight": factors, "on_input": torch.tensor(0)}, lambda w: w * factors.double()[:, None], None


def full(weight: Tensor, random: Random) -> Made:
    value = random(*weight.shape, size=_size(weight))
    return {"diff": value}, lambda _w: value.double(), None


def full_with_bias(weight: Tensor, random: Random) -> Made:
    tensors, formula, _ = full(weight, random)
    bias = random(weight.shape[0], size=0.1)
    return tensors | {"diff_b": bias}, formula, bias.double()


def norm(weight: Tensor, random: Random) -> Made:
    value, bias = random(len(weight), size=0.25), random(len(weight), size=0.1)
    return {"w_norm": value, "b_norm": bias}, lambda _w: value.double(), bias.double()


def glora(weight: Tensor, random: Random) -> Made:
    out, into = weight.shape
    a_up, a_down = random(into, RANK, size=0.25 * into**-0.5), random(RANK, into)
    b_up, b_down = random(out, RANK, size=_size(weight) / RANK**0.5), random(RANK, into)
    tensors = {"a2.weight": a_up, "a1.weight": a_down, "b2.weight": b_up, "b1.weight": b_down}
    formula = lambda w: w @ a_up.double() @ a_down.double() + b_up.double() @ b_down.double()  # noqa: E731
    return tensors | {"alpha": torch.tensor(2.0)}, formula, None


def _cayley(blocks: Tensor) -> Tensor:
    skew = blocks.double() - blocks.double().transpose(-1, -2)
    eye = torch.eye(blocks.shape[-1], dtype=torch.float64)
    return torch.linalg.solve(eye - skew, eye + skew, left=False)


def _block_diagonal(blocks: Tensor) -> Tensor:
    return torch.block_diag(*blocks)


def _rotated(rotation: Tensor, weight: Tensor) -> Tensor:
    return (rotation @ weight.flatten(1)).reshape(weight.shape)


def oft(weight: Tensor, random: Random) -> Made:
    blocks = random(len(weight) // 4, 4, 4, size=0.1)
    rotation = _block_diagonal(_cayley(blocks)).T
    tensors = {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}
    return tensors, lambda w: _rotated(rotation, w) - w, None


def oft_diag(weight: Tensor, random: Random) -> Made:
    tensors, *_ = oft(weight, random)
    rotations = _cayley(tensors["oft_blocks"]).float()
    exact = _block_diagonal(rotations.double()).T
    return {"oft_diag": rotations}, lambda w: _rotated(exact, w) - w, None


def boft(weight: Tensor, random: Random) -> Made:
    """Two stages: the second one rotates rows i and i + size/2 of neighbouring blocks together."""
    size, count = 4, len(weight) // 4
    stages = random(2, count, size, size, size=0.1)
    rescale = 1 + random(len(weight), *[1] * (weight.dim() - 1), size=0.05)
    rows = torch.arange(len(weight))
    rotation = torch.eye(len(weight), dtype=torch.float64)
    for i, blocks in enumerate(_cayley(stages)):
        apart = 2**i * size // 2
        order = rows.reshape(-1, 2, apart).transpose(1, 2).reshape(-1)
        stage = torch.zeros(len(weight), len(weight), dtype=torch.float64)
        stage[order[:, None], order[None, :]] = _block_diagonal(blocks)
        rotation = stage @ rotation
    tensors = {"oft_blocks": stages, "rescale": rescale, "alpha": torch.tensor(0.0)}
    return tensors, lambda w: _rotated(rotation, w) * rescale.double() - w, None


def dora(inner: Callable[[Tensor, Random], Made]) -> Callable[[Tensor, Random], Made]:
    """``dora_scale`` holds a length for each input channel, as the host reads it."""

    def lengths(weight: Tensor) -> Tensor:
        return weight.pow(2).sum([dim for dim in range(weight.dim()) if dim != 1], keepdim=True).sqrt()

    def make(weight: Tensor, random: Random) -> Made:
        tensors, formula, bias = inner(weight, random)
        wanted = (lengths(weight.double()) * 1.1).float()

        def decomposed(w: Tensor) -> Tensor:
            moved = w + formula(w)
            return wanted.double() * moved / lengths(moved) - w

        return tensors | {"dora_scale": wanted}, decomposed, bias

    return make


def dora_by_output(weight: Tensor, random: Random) -> Made:
    """A length for each output channel, as today's trainers write it; the host divides by the norms of the inputs."""
    tensors, formula, bias = lora_with_scale(weight, random)
    wanted = 1 + random(len(weight), *[1] * (weight.dim() - 1), size=0.2).abs()

    def decomposed(w: Tensor) -> Tensor:
        moved = w + formula(w)
        norms = moved.pow(2).sum([dim for dim in range(w.dim()) if dim != 1], keepdim=True).sqrt()
        return wanted.double() * moved / norms - w

    return tensors | {"dora_scale": wanted}, decomposed, bias


LINEAR, CONVOLUTION, NORM = "linear", "convolution", "norm"

MAKERS: dict[str, tuple[Callable[[Tensor, Random], Made], tuple[str, ...]]] = {
    "peft": (peft_lora, (LINEAR, CONVOLUTION)),
    "scale": (lora_with_scale, (LINEAR, CONVOLUTION)),
    "addend": (lora_with_addend, (LINEAR, CONVOLUTION)),
    "loha": (loha(RANK), (LINEAR, CONVOLUTION)),
    "loha_high": (loha(12), (LINEAR, CONVOLUTION)),
    "lokr": (lokr(False), (LINEAR, CONVOLUTION)),
    "lokr_whole": (lokr(True), (LINEAR, CONVOLUTION)),
    "ia3": (ia3, (LINEAR, CONVOLUTION)),
    "ia3_output": (ia3_output, (LINEAR,)),
    "full": (full, (LINEAR, CONVOLUTION)),
    "full_bias": (full_with_bias, (LINEAR, CONVOLUTION)),
    "norm": (norm, (NORM,)),
    "glora": (glora, (LINEAR,)),
    "oft": (oft, (LINEAR, CONVOLUTION)),
    "oft_diag": (oft_diag, (LINEAR, CONVOLUTION)),
    "boft": (boft, (LINEAR, CONVOLUTION)),
    "dora": (dora(lora_with_scale), (LINEAR, CONVOLUTION)),
    "dora_by_output": (dora_by_output, (LINEAR, CONVOLUTION)),
    "dora_loha": (dora(loha(RANK)), (LINEAR, CONVOLUTION)),
    "dora_full": (dora(full_with_bias), (LINEAR, CONVOLUTION)),
    "dora_ia3": (dora(ia3), (LINEAR, CONVOLUTION)),
}
"""Network type -> (its maker, the kinds of layer that a file of it is written for)."""


def kind_of(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.Linear) or type(layer).__name__ == "Linear":  # hosts have classes of their own
        return LINEAR
    if isinstance(layer, nn.Conv2d):
        return CONVOLUTION
    return NORM if isinstance(layer, nn.GroupNorm | nn.LayerNorm) else None


def _fits(kind: str, layer: nn.Module) -> bool:
    """Whether the layer can have a part of the type: the sides of a Kronecker product and blocks need even sizes, and
    the host's own Full raises at the second forward of a layer to which it gave a bias."""
    weight = layer.weight
    if kind_of(layer) not in MAKERS[kind][1] or (kind.endswith(("full", "bias")) and layer.bias is None):
        return False
    return weight.dim() == 1 or (len(weight) % 8 == 0 and weight.shape[1] % 4 == 0)


def write_network(
    path: Path, kind: str, layers: Mapping[str, nn.Module], seed: int, naming: Callable[[str], str] = kohya_name
) -> dict[str, tuple[Formula, Tensor | None]]:
    """Write a file of a type for those of ``layers`` that can have a part of it; ``naming`` gives a layer's name in it.

    Returns:
        {layer name: (its formula, what is added to its bias)}.
    """
    tensors: dict[str, Tensor] = {}
    formulas = {}
    for number, (name, layer) in enumerate(layers.items()):
        if _fits(kind, layer):
            made, formula, bias = MAKERS[kind][0](layer.weight.detach().cpu().float(), Random(1000 * seed + number))
            tensors |= {f"{naming(name)}.{part}": value.contiguous() for part, value in made.items()}
            formulas[name] = (formula, bias)
    save_file(tensors, path)
    return formulas


def in_half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a float16 file has them: all tensors that it can hold exactly."""
    halves = {key: value.half() for key, value in tensors.items()}
    return {key: half if half.float().equal(tensors[key].float()) else tensors[key] for key, half in halves.items()}
