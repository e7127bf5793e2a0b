"""The noise predictor: a U-Net with the topology and module names of SD1, SD2 or SDXL, only much narrower."""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

NORM_GROUPS = 8


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net. `depths` is the number of transformer blocks at each resolution, 0 for none."""

    model_channels: int
    channel_mult: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context_dim: int
    num_heads: int = 4
    num_res_blocks: int = 2
    linear_projection: bool = False
    vector_dim: int | None = None
    latent_channels: int = 4
    image_channels: int = 0
    """Channels beside the latents that tell of an image to start from, and of a mask."""


SD1_UNET = UNetConfig(model_channels=16, channel_mult=(1, 2, 4, 4), depths=(1, 1, 1, 0), middle_depth=1, context_dim=64)
DEMO_UNET = replace(SD1_UNET, model_channels=32, channel_mult=(1, 1, 1, 1), context_dim=32)
"""Still narrower: this one is trained, and its weights lie in the repository."""
SDXL_UNET = UNetConfig(
    model_channels=16, channel_mult=(1, 2, 4), depths=(0, 2, 10), middle_depth=10, context_dim=80,
    linear_projection=True, vector_dim=48 + 6 * 16,
)
INPAINTING_UNET = replace(SD1_UNET, image_channels=5)
EDIT_UNET = replace(SD1_UNET, image_channels=4)
SD2_UNET = replace(SD1_UNET, context_dim=48, linear_projection=True)
REFINER_UNET = UNetConfig(
    model_channels=16, channel_mult=(1, 2, 4, 4), depths=(0, 4, 4, 0), middle_depth=4, context_dim=48,
    linear_projection=True, vector_dim=48 + 5 * 16,
)


def timestep_embedding(timesteps: torch.Tensor, dim: int, max_period: int = 10000) -> torch.Tensor:
    """Sinusoidal embedding of (possibly fractional) numbers, cosines first."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def normalization(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels)


class CrossAttention(nn.Module):
    """Attention of the image's positions to a context, or to each other where there is no context."""

    def __init__(self, query_dim: int, context_dim: int | None, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(query_dim, query_dim, bias=False)
        self.to_k = nn.Linear(context_dim or query_dim, query_dim, bias=False)
        self.to_v = nn.Linear(context_dim or query_dim, query_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(query_dim, query_dim), nn.Dropout(0.0))

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        context = x if context is None else context
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(attended.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """A linear layer whose one half gates the other."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.proj = nn.Linear(dim_in, dim_out * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int, mult: int = 4):
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, dim * mult), nn.Dropout(0.0), nn.Linear(dim * mult, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    def __init__(self, dim: int, context_dim: int, heads: int):
        super().__init__()
        self.attn1 = CrossAttention(dim, None, heads)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map. SD1 projects by 1x1 convolutions, SDXL by linear maps."""

    def __init__(self, channels: int, depth: int, config: UNetConfig):
        super().__init__()
        self.use_linear = config.linear_projection
        self.norm = normalization(channels)
        self.proj_in = self._projection(channels)
        blocks = (BasicTransformerBlock(channels, config.context_dim, config.num_heads) for _ in range(depth))
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = self._projection(channels)

    def _projection(self, channels: int) -> nn.Module:
        return nn.Linear(channels, channels) if self.use_linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        h = self.norm(x)
        if self.use_linear:
            h = self.proj_in(h.flatten(2).transpose(1, 2))
        else:
            h = self.proj_in(h).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context)
        if self.use_linear:
            return x + self.proj_out(h).transpose(1, 2).unflatten(2, (height, width))
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, (height, width)))


class ResBlock(nn.Module):
    """Two 3x3 convolutions around the residual path, with the time embedding added between them."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            normalization(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            normalization(out_channels), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.in_layers(x) + self.emb_layers(emb).type(x.dtype)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class TimestepEmbedSequential(nn.Sequential):
    """A sequence that hands the time embedding and the context to the members that take them."""

    def forward(self, x: torch.Tensor, emb: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    """input_blocks (going down), middle_block, output_blocks (going up, each reading what an input block wrote)."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.in_channels = config.latent_channels + config.image_channels
        self.out_channels = config.latent_channels
        self.model_channels = config.model_channels
        emb_dim = config.model_channels * 4
        self.time_embed = nn.Sequential(
            nn.Linear(config.model_channels, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        if config.vector_dim is not None:
            embed = nn.Sequential(nn.Linear(config.vector_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
            self.label_emb = nn.Sequential(embed)

        first = TimestepEmbedSequential(nn.Conv2d(self.in_channels, config.model_channels, 3, padding=1))
        self.input_blocks = nn.ModuleList([first])
        widths = [config.model_channels]
        for block, width in self._going_down(emb_dim):
            self.input_blocks.append(block)
            widths.append(width)
        channels = widths[-1]
        self.middle_block = TimestepEmbedSequential(
            ResBlock(channels, emb_dim, channels),
            SpatialTransformer(channels, config.middle_depth, config),
            ResBlock(channels, emb_dim, channels),
        )
        self.output_blocks = nn.ModuleList(self._going_up(emb_dim, channels, widths))
        self.out = nn.Sequential(
            normalization(config.model_channels),
            nn.SiLU(),
            nn.Conv2d(config.model_channels, config.latent_channels, 3, padding=1),
        )

    def _block(self, channels: int, emb_dim: int, width: int, depth: int) -> list[nn.Module]:
        layers: list[nn.Module] = [ResBlock(channels, emb_dim, width)]
        if depth:
            layers.append(SpatialTransformer(width, depth, self.config))
        return layers

    def _going_down(self, emb_dim: int) -> Iterator[tuple[TimestepEmbedSequential, int]]:
        config = self.config
        channels = config.model_channels
        for level, (mult, depth) in enumerate(zip(config.channel_mult, config.depths, strict=True)):
            width = config.model_channels * mult
            for _ in range(config.num_res_blocks):
                yield TimestepEmbedSequential(*self._block(channels, emb_dim, width, depth)), width
                channels = width
            if level < len(config.channel_mult) - 1:
                yield TimestepEmbedSequential(Downsample(channels)), channels

    def _going_up(self, emb_dim: int, channels: int, widths: list[int]) -> Iterator[TimestepEmbedSequential]:
        config = self.config
        skips = list(widths)
        for level in reversed(range(len(config.channel_mult))):
            width = config.model_channels * config.channel_mult[level]
            for i in range(config.num_res_blocks + 1):
                layers = self._block(channels + skips.pop(), emb_dim, width, config.depths[level])
                channels = width
                if level and i == config.num_res_blocks:
                    layers.append(Upsample(channels))
                yield TimestepEmbedSequential(*layers)

    @property
    def dtype(self) -> torch.dtype:
        """The number format to compute in; one of 8 bits is for storage only."""
        stored = self.out[2].weight.dtype
        return stored if stored.itemsize > 1 else torch.float32

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict the noise in the latents `x`; `y` is SDXL's vector of image size and pooled text."""
        dtype = self.dtype
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(dtype))
        if self.config.vector_dim is not None:
            emb = emb + self.label_emb(y.to(dtype))
        context = context.to(dtype)
        h = x.to(dtype)
        skips = []
        for block in self.input_blocks:
            h = block(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for block in self.output_blocks:
            skip = skips.pop()
            if h.shape[-2:] != skip.shape[-2:]:  # a side that does not divide by 2 was rounded up on the way down
                h = F.interpolate(h, skip.shape[-2:], mode="nearest")
            h = block(torch.cat([h, skip], dim=1), emb, context)
        return self.out(h.type(x.dtype))
