"""The host's `sd_model`: noise predictor, text encoders and autoencoder under the names that the host gives them."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from modules import shared
from modules.diffusion.text_encoder import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder, FrozenOpenCLIPEmbedder2
from modules.diffusion.unet import (
    DEMO_UNET,
    EDIT_UNET,
    INPAINTING_UNET,
    REFINER_UNET,
    SD1_UNET,
    SD2_UNET,
    SDXL_UNET,
    UNetConfig,
    UNetModel,
    timestep_embedding,
)
from modules.diffusion.vae import DEMO, NARROW, AutoencoderKL, DiagonalGaussianDistribution

TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
SIZE_EMBEDDING_DIM = 16


def make_alphas_cumprod() -> torch.Tensor:
    """The share of the signal left at each timestep, for betas whose square roots are evenly spaced."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


class DiffusionWrapper(nn.Module):
    """SD1's holder of the U-Net, so that layers are named `diffusion_model.*`."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.conditioning_key = "hybrid" if config.image_channels else "crossattn"
        self.diffusion_model = UNetModel(config)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: list[torch.Tensor] | None = None,  # mask and masked image, or the image to be edited
        c_crossattn: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        if self.conditioning_key == "hybrid":
            x = torch.cat([x, *c_concat], dim=1)
        return self.diffusion_model(x, t, context=torch.cat(c_crossattn, dim=1))


class OpenAIWrapper(nn.Module):
    """SDXL's holder of the U-Net; takes the conditioning as one dict."""

    conditioning_key = "crossattn"

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.diffusion_model = UNetModel(config)

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.diffusion_model(x, t, context=c["crossattn"], y=c["vector"])


class ConcatTimestepEmbedderND(nn.Module):
    """Sinusoidal embedding of a row of numbers, such as the image's height and width, joined into one vector."""

    def __init__(self, input_key: str, dim: int = SIZE_EMBEDDING_DIM):
        super().__init__()
        self.input_key = input_key
        self.dim = dim

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return timestep_embedding(rows.flatten(), self.dim).view(len(rows), -1)


class GeneralConditioner(nn.Module):
    """SDXL's conditioning: text encoders side by side, and a vector of pooled text and numbers such as image sizes."""

    def __init__(self, *embedders: nn.Module):
        super().__init__()
        self.embedders = nn.ModuleList(embedders)

    def forward(self, batch: dict, force_zero_embeddings: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
        """Encode `batch["txt"]` and the sizes; inputs named in `force_zero_embeddings` count as zeros."""
        crossattn, vector = [], []
        for embedder in self.embedders:
            embedded = embedder(batch[embedder.input_key])
            for part in embedded if isinstance(embedded, tuple) else (embedded,):
                value = torch.zeros_like(part) if embedder.input_key in force_zero_embeddings else part
                (crossattn if value.ndim == 3 else vector).append(value)
        return {"crossattn": torch.cat(crossattn, dim=2), "vector": torch.cat(vector, dim=1)}

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.embedders[0].tokenize(texts)

    def encode_embedding_init_text(self, init_text: str, nvpt: int) -> torch.Tensor:
        """The vectors of all text encoders, side by side."""
        with_words = [each for each in self.embedders if hasattr(each, "encode_embedding_init_text")]
        return torch.cat([each.encode_embedding_init_text(init_text, nvpt) for each in with_words], dim=1)

    def process_texts(self, texts: list[str]) -> tuple[list, int]:
        return self.embedders[0].process_texts(texts)

    def get_target_prompt_token_count(self, token_count: int) -> int:
        return self.embedders[0].get_target_prompt_token_count(token_count)


class LatentDiffusionBase(nn.Module):
    """What SD1 and SDXL have in common. The loader adds where the weights came from (`sd_checkpoint_info` etc.)."""

    parameterization = "eps"
    cond_stage_key = "txt"
    num_timesteps = TIMESTEPS
    latent_channels = 4
    vae_channels = NARROW
    scale_factor: float
    is_sd1 = is_sd2 = is_sdxl = is_sd3 = is_ssd = is_sdxl_inpaint = False
    lowvram = False

    def __init__(self):
        super().__init__()
        self.first_stage_model = AutoencoderKL(self.latent_channels, self.vae_channels)
        self.alphas_cumprod = make_alphas_cumprod()
        self.alphas_cumprod_original = self.alphas_cumprod

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.diffusion_model.dtype

    @contextlib.contextmanager
    def ema_scope(self, context: str | None = None) -> Iterator[None]:
        """Where a model kept averaged weights from training, they would be in force here."""
        yield

    def decode_first_stage(self, z: torch.Tensor) -> torch.Tensor:
        """Latents to pixels from -1 to 1."""
        return self.first_stage_model.decode(z / self.scale_factor)


class LatentDiffusion(LatentDiffusionBase):
    """SD1."""

    is_sd1 = True
    scale_factor = 0.18215
    unet = SD1_UNET

    def __init__(self):
        super().__init__()
        self.model = DiffusionWrapper(self.unet)
        self.cond_stage_model = self.make_text_encoder()

    def make_text_encoder(self) -> nn.Module:
        return FrozenCLIPEmbedder(dim=self.unet.context_dim)

    def get_learned_conditioning(self, prompts: list[str]) -> torch.Tensor:
        return self.cond_stage_model(prompts)

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: dict | list | torch.Tensor) -> torch.Tensor:
        """Predict the noise; `cond` is {"c_crossattn": [...]}, or its content alone."""
        if not isinstance(cond, dict):
            cond = {"c_crossattn": cond if isinstance(cond, list) else [cond]}
        return self.model(x, t, **cond)

    def encode_first_stage(self, x: torch.Tensor) -> DiagonalGaussianDistribution:
        return self.first_stage_model.encode(x)

    def get_first_stage_encoding(self, posterior: DiagonalGaussianDistribution | torch.Tensor) -> torch.Tensor:
        z = posterior.sample() if isinstance(posterior, DiagonalGaussianDistribution) else posterior
        return self.scale_factor * z


class LatentDiffusionDemo(LatentDiffusion):
    """SD1 in the width of the demo model, which has learned something."""

    unet = DEMO_UNET
    vae_channels = DEMO


class LatentInpaintDiffusion(LatentDiffusion):
    """SD1 that is given a mask and the image around it."""

    unet = INPAINTING_UNET


class LatentEditDiffusion(LatentDiffusion):
    """instruct-pix2pix: SD1 that is given the image to be edited."""

    cond_stage_key = "edit"
    unet = EDIT_UNET


class LatentDiffusion2(LatentDiffusion):
    """SD2."""

    is_sd1, is_sd2 = False, True
    unet = SD2_UNET

    def make_text_encoder(self) -> nn.Module:
        return FrozenOpenCLIPEmbedder(dim=self.unet.context_dim)


class DiffusionEngine(LatentDiffusionBase):
    """SDXL."""

    is_sdxl = True
    scale_factor = 0.13025
    unet = SDXL_UNET

    def __init__(self):
        super().__init__()
        self.model = OpenAIWrapper(self.unet)
        self.conditioner = GeneralConditioner(*self.make_embedders())

    def make_embedders(self) -> list[nn.Module]:
        return [
            FrozenCLIPEmbedder(dim=32, layer="hidden", layer_idx=11),
            FrozenOpenCLIPEmbedder2(dim=48),
            ConcatTimestepEmbedderND("original_size_as_tuple"),
            ConcatTimestepEmbedderND("crop_coords_top_left"),
            ConcatTimestepEmbedderND("target_size_as_tuple"),
        ]

    def get_learned_conditioning(self, batch: list[str]) -> dict[str, torch.Tensor]:
        """Encode prompts; the host's list type carries the image size and whether these are negative prompts."""
        height = getattr(batch, "height", None) or 1024
        width = getattr(batch, "width", None) or 1024

        def rows(*values: float) -> torch.Tensor:
            return torch.tensor([values], device=self.device, dtype=torch.float32).repeat(len(batch), 1)

        conds = {
            "txt": batch,
            "original_size_as_tuple": rows(height, width),
            "crop_coords_top_left": rows(shared.opts.sdxl_crop_top, shared.opts.sdxl_crop_left),
            "target_size_as_tuple": rows(height, width),
            "aesthetic_score": rows(6.0),
        }
        no_negative = getattr(batch, "is_negative_prompt", False) and all(text == "" for text in batch)
        return self.conditioner(conds, force_zero_embeddings=("txt",) if no_negative else ())

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
        """Predict the noise; `cond` has "crossattn" and "vector"."""
        return self.model(x, t, cond)

    def encode_first_stage(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale_factor * self.first_stage_model.encode(x).sample()

    def get_first_stage_encoding(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing is left to do: SDXL's `encode_first_stage` gives the latents."""
        return x


class RefinerEngine(DiffusionEngine):
    """SDXL's refiner: one text encoder, and instead of the size that is aimed at a score for beauty."""

    unet = REFINER_UNET

    def make_embedders(self) -> list[nn.Module]:
        return [
            FrozenOpenCLIPEmbedder2(dim=48),
            ConcatTimestepEmbedderND("original_size_as_tuple"),
            ConcatTimestepEmbedderND("crop_coords_top_left"),
            ConcatTimestepEmbedderND("aesthetic_score"),
        ]


MODEL_CLASSES = {
    "sd1": LatentDiffusion,
    "demo": LatentDiffusionDemo,
    "inpainting": LatentInpaintDiffusion,
    "edit": LatentEditDiffusion,
    "sd2": LatentDiffusion2,
    "sdxl": DiffusionEngine,
    "refiner": RefinerEngine,
}
