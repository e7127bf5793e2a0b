"""Trains the demo model and its LoRAs, and writes them with a report: the loss curves and sheets of samples.

Usage: python -m tests.demo_model.train --folder DIR [--stages autoencoder model loras] [--scale S]

It takes a quarter of an hour on an H200. The same seed makes the same files, byte for byte, on one machine. What this
folder keeps is ``DIR/models`` and ``DIR/pictures/losses.json`` of such a run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from tests.demo_model import networks, scenes, shapes
from tests.demo_model.networks import DemoNetworks, LoRA
from tests.demo_model.scenes import Chance, Scene

FOLDER = Path(__file__).resolve().parent
MODEL = "Stable-diffusion/demo-sd1.safetensors"
STAGES = ("autoencoder", "model", "loras")
SEED = 1
DRAWN_AT_ONCE, ENCODED_AT_ONCE = 1024, 128
AUTOENCODER_SCENES, AUTOENCODER_STEPS, AUTOENCODER_BATCH = 4096, 2000, 64
MODEL_SCENES = 40_000
MODEL_SCHEDULE = ((2, 256, 6000, 1e-3), (1, 256, 4000, 6e-4))
"""(divisor of the side, batch, steps, learning rate), one after the other."""
LORA_SCENES, LORA_STEPS, LORA_BATCH = 400, 1000, 64
RANK, ALPHA = 4, 4.0
SAMPLE_STEPS, GUIDANCE = 25, 5.0
STEPS_BEFORE_RECORDING = 3
NOTED_EVERY = 50
"""Steps, of whose losses the mean is noted."""
CAPTION_DROPOUT = 0.1
"""Captions left out, so that guidance has something to start from (Ho and Salimans 2022)."""


def make_deterministic() -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing is read before it is written
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(SEED)


class Trainer:
    """Steps of AdamW along a cosine, with an exponential moving average of the parameters beside them (EMA).

    On a GPU a step is recorded once as a CUDA graph: the networks are so narrow that starting their thousands of
    kernels one by one would take longer than running them.

    Args:
        loss: of inputs, whose shapes are the same in all steps.
        lr: the learning rate that the cosine begins with.
        decay: of the average, once there are many steps; before, n / (n + 10) at the n-th, so that what was before the
            first step does not count.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], loss: Callable[..., Tensor], steps: int, lr: float, decay: float
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._loss = loss
        self._on_gpu = self.parameters[0].is_cuda
        lr_now = torch.zeros((), device=self.parameters[0].device) if self._on_gpu else 0.0
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr_now, weight_decay=1e-4, betas=(0.9, 0.99), capturable=self._on_gpu
        )
        self.steps, self.lr, self.decay = steps, lr, decay
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.losses: list[float] = []
        self._recent: list[Tensor] = []
        self._number = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._found: Tensor | None = None

    def step(self, *inputs: Tensor) -> None:
        self._set_rate()
        if not self._on_gpu:
            found = self._learn(*inputs)
        elif self._number < STEPS_BEFORE_RECORDING:
            found = self._learn_aside(*inputs)
        else:
            if self._graph is None:
                self._record(*inputs)
            for held, value in zip(self._inputs, inputs, strict=True):
                held.copy_(value)
            self._graph.replay()
            found = self._found
        self._number += 1
        decay = min(self.decay, self._number / (self._number + 10))
        torch._foreach_lerp_(self.averages, [each.detach() for each in self.parameters], 1 - decay)
        self._recent.append(found.detach().clone())
        if len(self._recent) == NOTED_EVERY:
            self.losses.append(float(torch.stack(self._recent).mean()))
            self._recent.clear()

    def _set_rate(self) -> None:
        warmth = min(1.0, (self._number + 1) / 100) * 0.5 * (1 + math.cos(math.pi * self._number / self.steps))
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.lr * warmth)
            else:
                group["lr"] = self.lr * warmth

    def _learn(self, *inputs: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        found = self._loss(*inputs)
        found.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return found

    def _learn_aside(self, *inputs: Tensor) -> Tensor:
        """On another stream, as what is to be recorded has to have run."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            found = self._learn(*inputs)
        torch.cuda.current_stream().wait_stream(aside)
        return found

    def _record(self, *inputs: Tensor) -> None:
        self._inputs = [value.clone() for value in inputs]
        self._graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self._graph):
            self._found = self._learn(*self._inputs)

    @torch.no_grad()
    def finish(self) -> list[float]:
        """Take the average over. The means of the losses, see :data:`NOTED_EVERY`."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            parameter.copy_(average)
            parameter.grad = None
        return self.losses


def train_autoencoder(model: DemoNetworks, device: torch.device, steps: int) -> list[float]:
    """Pictures through the latents and back, with a little noise on the way so that neighbours mean alike."""
    chance = Chance(SEED)
    vae = model.vae

    def loss_of(pictures: Tensor, noise: Tensor) -> Tensor:
        """Of colours and of edges, which alone would be blurred; and a pull of the latents towards 0."""
        latents = vae.encode(pictures).mean
        spread = latents.detach().std(dim=(0, 2, 3), keepdim=True)
        error = vae.decode(latents + 0.05 * spread * noise) - pictures
        edges = sum(_slope(error, axis).abs().mean() for axis in (2, 3))
        return error.abs().mean() + edges + error.square().mean() + 1e-4 * latents.square().mean()

    trainer = Trainer(vae.parameters(), loss_of, steps, 3e-3, decay=0.99)
    on_cpu, on_device = Generator().manual_seed(SEED), Generator(device).manual_seed(SEED)
    drawn = torch.cat([*draw_in_parts([make_any(chance) for _ in range(AUTOENCODER_SCENES)], device, scenes.SIDE // 2)])
    for _ in range(steps):
        pictures = drawn[torch.randint(len(drawn), (AUTOENCODER_BATCH,), generator=on_cpu)]
        side = scenes.SIDE // 2 // 8
        trainer.step(pictures, torch.randn(len(pictures), 4, side, side, generator=on_device, device=device))
    losses = trainer.finish()
    latents = encode(vae, [make_any(chance) for _ in range(512)], device, scale=1.0)
    networks.settle_latents(vae, latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)))
    return losses


def _slope(picture: Tensor, axis: int) -> Tensor:
    length = picture.shape[axis] - 1
    return picture.narrow(axis, 1, length) - picture.narrow(axis, 0, length)


def make_any(chance: Chance) -> Scene:
    """A scene of all that there is, also of what only LoRAs show: the autoencoder carries it all."""
    kind = chance.number(0, 1)
    if kind < 0.15:
        return scenes.make_scene(chance, style=chance.one_of(list(scenes.UNKNOWN_STYLES)))
    if kind < 0.3:
        return scenes.make_scene(chance, shapes.UNKNOWN_THINGS)
    return scenes.make_scene(chance)


def draw_in_parts(scene_list: list[Scene], device: torch.device, side: int) -> Iterator[Tensor]:
    """(some of the scenes, 3, side, side), -1 to 1, as autoencoders have pictures."""
    for start in range(0, len(scene_list), DRAWN_AT_ONCE):
        yield scenes.draw_scenes(scene_list[start : start + DRAWN_AT_ONCE], device, side) * 2 - 1


@torch.no_grad()
def encode(
    vae: nn.Module,
    scene_list: list[Scene],
    device: torch.device,
    scale: float = networks.SCALE_FACTOR,
    side: int | None = None,
) -> Tensor:
    """(scenes, 4, side / 8, side / 8), as a host's samplers have them.

    Args:
        side: of the pictures, in pixels; None for the scenes' own.
    """
    latents = []
    for drawn in draw_in_parts(scene_list, device, side or scenes.SIDE):
        latents += [vae.encode(pictures).mean * scale for pictures in drawn.split(ENCODED_AT_ONCE)]
    return torch.cat(latents)


def noise_loss(model: DemoNetworks, latents: Tensor, tokens: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The mean square error of the noise that the U-Net finds (Ho et al. 2020)."""
    device = latents.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
        found = model.unet(model.noised(latents, noise, timesteps), timesteps, model.encode_words(tokens))
    return F.mse_loss(found.float(), noise)


def learn(model: DemoNetworks, trainer: Trainer, latents: Tensor, captions: list[str], batch: int) -> list[float]:
    """All of a trainer's steps. Its losses.

    Args:
        latents: (pictures, 4, height, width), of as many captions.
    """
    device = latents.device
    on_cpu, on_device = Generator().manual_seed(SEED), Generator(device).manual_seed(SEED)
    tokens, empty = networks.tokens_of(captions).to(device), networks.tokens_of([""]).to(device)
    for number in range(trainer.steps):
        rows = torch.randint(len(captions), (batch,), generator=on_cpu)
        left_out = (torch.rand(batch, generator=on_cpu) < CAPTION_DROPOUT)[:, None].to(device)
        rows = rows.to(device)
        noise = torch.randn(latents[rows].shape, generator=on_device, device=device)
        timesteps = torch.randint(len(model.alphas_cumprod), (batch,), generator=on_device, device=device)
        trainer.step(latents[rows], torch.where(left_out, empty, tokens[rows]), noise, timesteps)
        if number % 500 == 499:
            print(f"  step {number + 1}: loss {trainer.losses[-1]:.4f}", flush=True)
    return trainer.finish()


def train_model(model: DemoNetworks, device: torch.device, scale: float) -> list[float]:
    """First with pictures of half the side, of which many more go into the same time, then with those of the whole."""
    chance = Chance(SEED + 1)
    scene_list = [scenes.make_scene(chance) for _ in range(MODEL_SCENES)]
    captions = [scene.caption for scene in scene_list]
    parameters = [*model.unet.parameters(), *model.text_encoder.parameters()]
    losses: list[float] = []
    for divisor, batch, steps, lr in MODEL_SCHEDULE:
        latents = encode(model.vae, scene_list, device, side=scenes.SIDE // divisor)
        trainer = Trainer(parameters, partial(noise_loss, model), int(steps * scale), lr, decay=0.999)
        losses += learn(model, trainer, latents, captions, batch)
    return losses


@dataclass(frozen=True)
class Lesson:
    """What a LoRA is trained on: scenes of some things, in some style."""

    things: dict[str, shapes.Thing]
    style: str
    with_convolutions: bool = False


LESSONS = {
    "demo": Lesson(shapes.UNKNOWN_THINGS, ""),
    "demo2": Lesson(shapes.THINGS, "neon"),
    "demo_locon": Lesson(shapes.UNKNOWN_THINGS, "neon", with_convolutions=True),
}


def train_lora(
    model: DemoNetworks, device: torch.device, lesson: Lesson, batch: int, steps: int
) -> tuple[LoRA, list[float]]:
    """A LoRA by the usual method: few pictures, the model as it is, a low rank."""
    chance = Chance(SEED + 2)
    scene_list = [scenes.make_scene(chance, lesson.things, lesson.style) for _ in range(LORA_SCENES)]
    latents = encode(model.vae, scene_list, device)
    model.requires_grad_(False)
    lora = LoRA(model, RANK, ALPHA, lesson.with_convolutions).to(device)
    trainer = Trainer(lora.parameters(), partial(noise_loss, model), steps, 2e-3, decay=0.98)
    losses = learn(model, trainer, latents, [scene.caption for scene in scene_list], batch)
    return lora, losses


@torch.no_grad()
def sample(model: DemoNetworks, captions: list[str], device: torch.device) -> Tensor:
    """Pictures of captions, (captions, 3, 256, 256), 0 to 1, by DDIM (Song et al. 2020)."""
    generator = Generator().manual_seed(SEED)
    side = scenes.SIDE // 8
    x = torch.randn(len(captions), 4, side, side, generator=generator).to(device)
    words = model.encode_words(networks.tokens_of([*captions, *[""] * len(captions)]).to(device))
    times = torch.linspace(len(model.alphas_cumprod) - 1, 0, SAMPLE_STEPS + 1).round().long().to(device)
    for now, then in pairwise(times):
        found = model.unet(torch.cat([x, x]), now.expand(2 * len(x)), words)
        with_words, without = found.chunk(2)
        noise = without + GUIDANCE * (with_words - without)
        share, next_share = model.alphas_cumprod[now], model.alphas_cumprod[then]
        clean = (x - (1 - share).sqrt() * noise) / share.sqrt()
        x = next_share.sqrt() * clean + (1 - next_share).sqrt() * noise
    return (model.vae.decode(x / networks.SCALE_FACTOR) / 2 + 0.5).clamp(0, 1)


def save_sheet(pictures: Tensor, path: Path, columns: int) -> None:
    count, _, side, _ = pictures.shape
    rows = -(-count // columns)
    sheet = torch.ones(rows * columns, 3, side, side)
    sheet[:count] = pictures.cpu()
    joined = sheet.view(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    Image.fromarray((joined * 255).round().byte().numpy()).save(path)


SAMPLES = [
    "a red cat", "a blue dog on a meadow", "a yellow house in the snow", "a green tree at night",
    "a black car in the city", "a white boat at the beach", "an orange fish", "a pink daisy in the desert",
    "a purple cat at night", "a small red house on a meadow", "a green dog on the left",
    "a blue car on the right in the snow", "a red cat and a blue dog", "a yellow daisy and a white house on a meadow",
    "a sketch of a cat", "a sketch of a red house in the city",
]  # fmt: skip


def metadata_of(name: str, lora: LoRA) -> dict[str, str]:
    """What kohya's trainer notes of a LoRA."""
    return {
        "ss_output_name": name, "ss_network_module": "networks.lora", "ss_network_dim": str(RANK),
        "ss_network_alpha": str(lora.alpha), "ss_base_model_version": "sd_v1", "ss_v2": "False",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for what is made; what is there is written over")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--scale", type=float, default=1, help="of all numbers of steps, to try things out")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    make_deterministic()
    model = DemoNetworks().to(device)
    models, pictures = options.folder / "models", options.folder / "pictures"
    for folder in (models / "Stable-diffusion", models / "Lora", pictures):
        folder.mkdir(parents=True, exist_ok=True)
    file = models / MODEL
    noted = pictures / "losses.json"
    report: dict[str, list[float]] = json.loads(noted.read_text()) if noted.exists() else {}
    if "autoencoder" in options.stages:
        report["autoencoder"] = train_autoencoder(model, device, int(AUTOENCODER_STEPS * options.scale))
        networks.write(file, model.tensors(), {})
    model.load(load_file(file))
    if "model" in options.stages:
        report["model"] = train_model(model, device, options.scale)
        networks.write(file, model.tensors(), {"modelspec.title": "demo-sd1"})
        model.load(load_file(file))
    save_sheet(sample(model, SAMPLES, device), pictures / "samples.png", 4)
    for name, lesson in LESSONS.items() if "loras" in options.stages else ():
        lora, report[name] = train_lora(model, device, lesson, LORA_BATCH, int(LORA_STEPS * options.scale))
        networks.write(models / "Lora" / f"{name}.safetensors", lora.tensors(), metadata_of(name, lora))
        save_sheet(sample(model, SAMPLES, device), pictures / f"samples_{name}.png", 4)
        lora.remove()
    noted.write_text(json.dumps(report))
    sums = [f"{sha256(path)}  {path.relative_to(models)}\n" for path in sorted(models.glob("*/*.safetensors"))]
    (models / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
