"""The step between pixels and latents: eight pixels a side become one latent position of four channels."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

NARROW, DEMO = 16, 24
"""Channels of an autoencoder that only carries colours, and of one that has learned pictures."""
LEVELS = 3
LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0


class DiagonalGaussianDistribution:
    """What the encoder gives: a mean and a variance for each latent value."""

    def __init__(self, parameters: torch.Tensor):
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.std = torch.exp(0.5 * logvar.clamp(LOGVAR_MIN, LOGVAR_MAX))

    def sample(self) -> torch.Tensor:
        """Draw once; always the same draw, so that the same image gives the same latents."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.std * noise.to(self.mean)

    def mode(self) -> torch.Tensor:
        return self.mean


class ResnetBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class Encoder(nn.Module):
    def __init__(self, latent_channels: int, channels: int):
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList(ResnetBlock(channels) for _ in range(LEVELS))
        self.conv_out = nn.Conv2d(channels, 2 * latent_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(x)
        for block in self.down:
            h = F.avg_pool2d(block(h), 2)
        return self.conv_out(h)


class Decoder(nn.Module):
    def __init__(self, latent_channels: int, channels: int):
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, channels, 3, padding=1)
        self.up = nn.ModuleList(ResnetBlock(channels) for _ in range(LEVELS))
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(z)
        for block in self.up:
            h = block(F.interpolate(h, scale_factor=2, mode="bilinear"))
        return self.conv_out(h)


class AutoencoderKL(nn.Module):
    def __init__(self, latent_channels: int = 4, channels: int = NARROW):
        super().__init__()
        self.encoder = Encoder(latent_channels, channels)
        self.decoder = Decoder(latent_channels, channels)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, x: torch.Tensor) -> DiagonalGaussianDistribution:
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(x)))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(z))
