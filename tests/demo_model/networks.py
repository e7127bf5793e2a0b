"""The networks that are trained: those of the stand-in, in the demo's width, and LoRAs on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "webui"))

from kohya_names import TEXT_LINEAR, UNET_CONV, UNET_LINEAR, diffusers_name
from network_bytes import serialize

from modules.diffusion.latent_diffusion import LatentDiffusion, make_alphas_cumprod
from modules.diffusion.text_encoder import CLIPTextModel, FrozenCLIPEmbedder, Tokenizer
from modules.diffusion.unet import DEMO_UNET, UNetModel
from modules.diffusion.vae import DEMO, LOGVAR_MIN, AutoencoderKL

SCALE_FACTOR = LatentDiffusion.scale_factor
TOKENS = 77
"""That the text encoder gets of a caption."""
PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}


class DemoNetworks(nn.Module):
    """SD1's three networks, as in a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNetModel(DEMO_UNET)
        self.vae = AutoencoderKL(channels=DEMO)
        self.text_encoder = FrozenCLIPEmbedder(DEMO_UNET.context_dim)
        for name, module in self.unet.named_modules():
            if name.endswith(("out_layers.3", "proj_out", "out.2")):  # what is added to a residual path starts at 0
                nn.init.zeros_(module.weight)
        nn.init.normal_(self.text_encoder.transformer.text_model.embeddings.token_embedding.weight, std=0.3)
        nn.init.normal_(self.text_encoder.transformer.text_model.embeddings.position_embedding.weight, std=0.05)
        self.register_buffer("alphas_cumprod", make_alphas_cumprod(), persistent=False)

    def encode_words(self, tokens: Tensor) -> Tensor:
        """(captions, 77, context_dim), as the host conditions SD1 with."""
        transformer: CLIPTextModel = self.text_encoder.transformer
        return transformer(tokens).last_hidden_state

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents, (pictures, 4, height, width), at their timesteps, (pictures,): Ho et al. 2020, equation 4."""
        share = self.alphas_cumprod[timesteps][:, None, None, None]
        return share.sqrt() * latents + (1 - share).sqrt() * noise

    def tensors(self) -> dict[str, Tensor]:
        """A checkpoint's, in float16."""
        return {
            prefix + name: value.detach().cpu().half().contiguous()
            for part, prefix in PREFIXES.items()
            for name, value in getattr(self, part).state_dict().items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        for part, prefix in PREFIXES.items():
            own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            getattr(self, part).load_state_dict(own)


def tokens_of(captions: list[str]) -> Tensor:
    """(captions, 77) as the host makes them: a start, the words, and ends to fill up."""
    tokenizer = Tokenizer()
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(caption)] for caption in captions]
    return torch.tensor([row + [tokenizer.eos_token_id] * (TOKENS - len(row)) for row in rows])


@torch.no_grad()
def settle_latents(vae: AutoencoderKL, mean: Tensor, deviation: Tensor) -> None:
    """Bring each latent channel, times the scale factor by which a host multiplies, to mean 0 and deviation 1, by the
    autoencoder's two 1x1 convolutions. The encoder says that latents have no variance of their own."""
    channels = len(mean)
    unit = SCALE_FACTOR * deviation
    first, last = vae.quant_conv, vae.post_quant_conv
    first.bias[:channels] = (first.bias[:channels] - mean) / unit
    first.weight[:channels] /= unit[:, None, None, None]
    first.weight[channels:] = 0
    first.bias[channels:] = LOGVAR_MIN
    last.bias += last.weight[:, :, 0, 0] @ mean
    last.weight *= unit[None, :, None, None]


class LoRALayer(nn.Module):
    """What a LoRA adds to a layer's output: ``up(down(x)) * alpha / rank``; ``up`` starts at 0 (Hu et al. 2021)."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        else:
            shape = (layer.kernel_size, layer.stride, layer.padding)
            self.down = nn.Conv2d(layer.in_channels, rank, *shape, bias=False)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def add(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook of the layer."""
        return output + self.up(self.down(inputs[0])) * self.scale


class LoRA(nn.Module):
    """A LoRA for a model, in force until it is removed.

    Args:
        with_convolutions: whether it is a LoCon, for the U-Net's 3x3 convolutions too.
    """

    def __init__(self, model: DemoNetworks, rank: int, alpha: float, with_convolutions: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.layers = nn.ModuleDict()
        self._hooks = []
        for key, layer in self._targets(model, with_convolutions):
            self.layers[key] = part = LoRALayer(layer, rank, alpha)
            self._hooks.append(layer.register_forward_hook(part.add))

    @staticmethod
    def _targets(model: DemoNetworks, with_convolutions: bool) -> Iterator[tuple[str, nn.Module]]:
        for name, layer in model.unet.named_modules():
            is_convolution = bool(UNET_CONV.search(name)) and isinstance(layer, nn.Conv2d)
            if UNET_LINEAR.search(name) or (with_convolutions and is_convolution):
                yield diffusers_name(name), layer
        for name, layer in model.text_encoder.transformer.named_modules():
            if TEXT_LINEAR.search(name):
                yield f"lora_te_{name.replace('.', '_')}", layer

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def tensors(self) -> dict[str, Tensor]:
        """As kohya's trainer writes them, in float16."""
        found = {}
        for key, part in self.layers.items():
            found[f"{key}.lora_down.weight"] = part.down.weight.detach().cpu().half().contiguous()
            found[f"{key}.lora_up.weight"] = part.up.weight.detach().cpu().half().contiguous()
            found[f"{key}.alpha"] = torch.tensor(self.alpha).half()
        return found


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a file, the same bytes for the same tensors."""
    path.write_bytes(serialize(dict(sorted(tensors.items())), metadata))
