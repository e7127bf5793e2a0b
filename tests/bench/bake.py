"""How long it takes to bake, and what it takes of memory: SDXL's U-Net, all its linear layers of attention.

    python -m tests.bench.bake [--ranks 32 128] [--scale 1] [--devices cpu cuda] [--only NAME] [--json FILE]

``--scale N`` divides the widths by N. Each case runs in a process of its own, whose memory of its own (without files
that are mapped) is looked at every 10 ms; what the model takes does not count. GPU memory is the most that torch had
beyond the model. The floor is a copy of the sources' bytes; the rival does what scripts for merging do: read all, join,
write all. With the model on the CPU and ``cuda``, layers come to the GPU one by one, as with --medvram.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lbw.bake.baking import Baking, Progress
from lbw.bake.sources import Source, named_parts
from lbw.bake.workbench import Ingredient, Workbench
from lbw.engine.meter import StrengthMeter
from lbw.files.layer_names import ModelLayers
from lbw.hosts.a1111.ledger import LayerAttributes
from lbw.hosts.a1111.parts import ModuleParts
from tests.bench.sdxl_shapes import attention_layers
from tests.unit.host_modules import make_module
from tests.unit.networks import Network


class BenchHost:
    """The protocol of :mod:`lbw.bake.host`, of layers without a WebUI."""

    def __init__(self, layers: dict[str, nn.Module], device: str) -> None:
        self.ledger, self.parts = LayerAttributes(), ModuleParts()
        self.meter = StrengthMeter(self.ledger, self.parts)
        self.device = torch.device(device)
        self._layers, self._names = layers, ModelLayers(layers)

    @contextmanager
    def turn(self) -> Iterator[Mapping[str, nn.Module]]:
        yield self._layers

    def network_of(self, file: Any, tensors: Mapping[str, Tensor], dyn_dim: int | None = None) -> Network:
        network = Network(str(file), dyn_dim=dyn_dim)
        for part in named_parts(tensors):
            key = self._names.find(part.layer)
            if key is not None:
                found = {kind: tensors[name] for kind, name in part.tensors.items()}
                network.modules[key] = make_module(network, found)
        return network


def sdxl_layers(scale: int, device: str) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    for name, out, into in attention_layers():
        layer = nn.Linear(into // scale, out // scale, bias=False, device=device, dtype=torch.float16)
        layers[name] = layer.requires_grad_(False)
        layer.weight.normal_(std=0.02)
    return layers


def write_lora(path: Path, scale: int, rank: int, seed: int, *, dora: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, out, into in attention_layers():
        layer = name.replace("diffusion_model", "lora_unet", 1)
        out, into = out // scale, into // scale
        tensors[f"{layer}.lora_up.weight"] = torch.randn(out, rank, generator=random).half() * 0.01
        tensors[f"{layer}.lora_down.weight"] = torch.randn(rank, into, generator=random).half()
        tensors[f"{layer}.alpha"] = torch.tensor(rank / 2).half()
        if dora:
            tensors[f"{layer}.dora_scale"] = torch.full((1, into), 1.5).half()
    save_file(tensors, path)


CASES: dict[str, tuple[int, bool, int | None]] = {
    "one tag, block weights": (1, False, None),
    "two tags, joined": (2, False, None),
    "two tags, to rank 32": (2, False, 32),
    "a DoRA at 0.5, to rank 32": (1, True, 32),
}
"""{case: how many files, whether they are DoRAs, the rank that is asked for}."""


def bake(
    layers: dict[str, nn.Module], device: str, paths: list[Path], target: Path, rank: int | None
) -> dict[str, Any]:
    ratios = {name: 0.0 if "middle" in name else 0.5 if "input" in name else 1.0 for name in layers}
    strength = 0.5 if "dora" in paths[0].name else 1.0
    ingredients = [
        Ingredient(Source(path.stem, path.stem, str(path)), {name: strength * ratio for name, ratio in ratios.items()})
        for path in paths
    ]
    baking = Baking(Workbench(BenchHost(layers, device), ingredients), torch.float16, rank, Progress())
    with target.open("w+b") as file:
        baking.write(file, {"sshs_model_hash": ""})
    lost = [loss.share for loss in baking.losses.values()]
    return {"lost": max(lost, default=0.0)}


def merge(paths: list[Path], target: Path) -> dict[str, Any]:
    """What a script does that merges LoRAs, all in memory."""
    files = [load_file(path) for path in paths]
    made: dict[str, Tensor] = {}
    for name in files[0]:
        if not name.endswith("lora_down.weight"):
            continue
        layer = name.removesuffix(".lora_down.weight")
        made[name] = torch.cat([file[name] for file in files])
        ups = [file[f"{layer}.lora_up.weight"].float() * 0.5 for file in files]
        made[f"{layer}.lora_up.weight"] = torch.cat(ups, 1).half()
        made[f"{layer}.alpha"] = torch.tensor(len(made[name]) / 2).half()
    save_file(made, target)
    return {}


def copy(paths: list[Path], target: Path) -> dict[str, Any]:
    with target.open("wb") as file:
        for path in paths:
            with path.open("rb") as source:
                while chunk := source.read(1 << 24):
                    file.write(chunk)
    return {}


def _own_memory() -> int:
    """Bytes of memory that belong to this process alone."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


@contextmanager
def _watching(found: dict[str, Any]) -> Iterator[None]:
    """Look at memory and time while the block runs."""
    is_over = threading.Event()
    before = most = _own_memory()

    def look() -> None:
        nonlocal most
        while not is_over.wait(0.01):
            most = max(most, _own_memory())

    watcher = threading.Thread(target=look)
    on_gpu = torch.cuda.is_initialized()
    held = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    watcher.start()
    begin = time.perf_counter()
    yield
    found["s"] = time.perf_counter() - begin
    is_over.set()
    watcher.join()
    found["memory_mb"] = (most - before) / 1e6
    found["gpu_mb"] = (torch.cuda.max_memory_allocated() - held) / 1e6 if on_gpu else 0.0


def _run(work: str, paths: list[Path], target: Path, scale: int, where: str, rank: int | None, answer: Any) -> None:
    weights, device = {"cpu": ("cpu", "cpu"), "cuda": ("cuda", "cuda"), "medvram": ("cpu", "cuda")}[where]
    found: dict[str, Any] = {}
    if work == "bake":
        layers = sdxl_layers(scale, weights)
        torch.zeros(1, device=device)
    with _watching(found):
        if work == "bake":
            found |= bake(layers, device, paths, target, rank)
        else:
            found |= {"merge": merge, "copy": copy}[work](paths, target)
    answer.put(found)


def measured(*args: Any) -> dict[str, Any]:
    """A case in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_run, args=(*args, answer))
    process.start()
    found: dict[str, Any] = answer.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--devices", nargs="+", default=["cpu"] + ["cuda", "medvram"] * torch.cuda.is_available())
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'':44}{'seconds':>9}{'x copy':>8}{'x merge':>8}{'memory MB':>11}{'GPU MB':>8}{'lost':>8}{'file MB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for rank in options.ranks:
            for name, (count, dora, cut_to) in CASES.items():
                if options.only not in name:
                    continue
                kind = "dora" if dora else "lora"
                paths = [Path(folder) / f"{kind}{rank}_{index}.safetensors" for index in range(count)]
                for seed, path in enumerate(paths):
                    if not path.exists():
                        write_lora(path, options.scale, rank, seed, dora=dora)
                target = Path(folder) / "baked.safetensors"
                rivals = {work: measured(work, paths, target, options.scale, "cpu", None) for work in ("copy", "merge")}
                for where in options.devices:
                    row = measured("bake", paths, target, options.scale, where, cut_to)
                    row |= {"case": f"rank {rank}: {name}, {where}", "file_mb": target.stat().st_size / 1e6}
                    row |= {f"{work}_s": found["s"] for work, found in rivals.items()}
                    row["merge_memory_mb"] = rivals["merge"]["memory_mb"]
                    rows.append(row)
                    times = f"{row['s']:9.2f}{row['s'] / row['copy_s']:8.1f}{row['s'] / row['merge_s']:8.1f}"
                    memory = f"{row['memory_mb']:11.0f}{row['gpu_mb']:8.0f}"
                    print(
                        f"{row['case']:44}{times}{memory}{row['lost']:8.1%}{row['file_mb']:9.0f}"
                        f"   (merge: {row['merge_memory_mb']:.0f} MB)",
                        flush=True,
                    )
                    target.unlink()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
