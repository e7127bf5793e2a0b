"""SD3's noise predictor: a transformer over the text and the image together, with the module names of MMDiT, narrow."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.diffusion.unet import timestep_embedding

DEPTH, WIDTH, HEADS, PATCH = 24, 32, 4, 2


class QkvLinear(nn.Linear):
    """Query, key and value in the rows of one weight, in this order."""


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


def norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, pre_only: bool):
        super().__init__()
        self.heads = heads
        self.qkv = QkvLinear(width, 3 * width)
        if not pre_only:
            self.proj = nn.Linear(width, width)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Query, key and value, each as [batch, heads, positions, channels]."""
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class DismantledBlock(nn.Module):
    """One side of a joint block, in the halves before and after the common attention. The last text side has only the
    first (`pre_only`)."""

    def __init__(self, width: int, heads: int, pre_only: bool):
        super().__init__()
        self.pre_only = pre_only
        self.norm1 = norm(width)
        self.attn = SelfAttention(width, heads, pre_only)
        if not pre_only:
            self.norm2 = norm(width)
            self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, (2 if pre_only else 6) * width))

    def before(self, x: torch.Tensor, c: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """(query, key and value; what :meth:`after` needs of the modulation)."""
        shift, scale, *rest = self.adaLN_modulation(c).chunk(2 if self.pre_only else 6, dim=1)
        return self.attn.split(modulate(self.norm1(x), shift, scale)), tuple(rest)

    def after(self, attended: torch.Tensor, x: torch.Tensor, rest: tuple[torch.Tensor, ...]) -> torch.Tensor:
        gate, shift, scale, mlp_gate = rest
        x = x + gate[:, None] * self.attn.proj(attended)
        return x + mlp_gate[:, None] * self.mlp(modulate(self.norm2(x), shift, scale))


class JointBlock(nn.Module):
    def __init__(self, width: int, heads: int, pre_only: bool):
        super().__init__()
        self.context_block = DismantledBlock(width, heads, pre_only)
        self.x_block = DismantledBlock(width, heads, pre_only=False)

    def forward(
        self, context: torch.Tensor, x: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        of_text, text_rest = self.context_block.before(context, c)
        of_image, image_rest = self.x_block.before(x, c)
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(of_text, of_image, strict=True))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        text, image = attended.split([context.shape[1], x.shape[1]], dim=1)
        after = None if self.context_block.pre_only else self.context_block.after(text, context, text_rest)
        return after, self.x_block.after(image, x, image_rest)


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, PATCH, stride=PATCH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Embedder(nn.Module):
    """A vector, of a timestep or of the pooled text, to what modulates the blocks."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x)


class FinalLayer(nn.Module):
    def __init__(self, width: int, channels: int):
        super().__init__()
        self.norm_final = norm(width)
        self.linear = nn.Linear(width, PATCH * PATCH * channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.linear(modulate(self.norm_final(x), *self.adaLN_modulation(c).chunk(2, dim=1)))


class MMDiT(nn.Module):
    TIMESTEP_SIZE = 64

    def __init__(self, channels: int, context_dim: int, vector_dim: int):
        super().__init__()
        self.x_embedder = PatchEmbed(channels, WIDTH)
        self.t_embedder = Embedder(self.TIMESTEP_SIZE, WIDTH)
        self.y_embedder = Embedder(vector_dim, WIDTH)
        self.context_embedder = nn.Linear(context_dim, WIDTH)
        self.joint_blocks = nn.ModuleList(JointBlock(WIDTH, HEADS, pre_only=i == DEPTH - 1) for i in range(DEPTH))
        self.final_layer = FinalLayer(WIDTH, channels)

    @property
    def dtype(self) -> torch.dtype:
        stored = self.final_layer.linear.weight.dtype
        return stored if stored.itemsize > 1 else torch.float32

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Predict the velocity at the latents `x`; `y` is the pooled text."""
        dtype, (height, width) = self.dtype, x.shape[-2:]
        c = self.t_embedder(timestep_embedding(t, self.TIMESTEP_SIZE).to(dtype)) + self.y_embedder(y.to(dtype))
        text, image = self.context_embedder(context.to(dtype)), self.x_embedder(x.to(dtype))
        places = torch.arange(image.shape[1], device=x.device)
        image = image + timestep_embedding(places, WIDTH).to(dtype)
        for block in self.joint_blocks:
            text, image = block(text, image, c)
        patches = self.final_layer(image, c).transpose(1, 2)
        pixels = patches.unflatten(1, (PATCH, PATCH, -1)).permute(0, 3, 1, 2, 4).flatten(1, 3)
        return F.fold(pixels, (height, width), PATCH, stride=PATCH)
