"""Text encoders with the module names of CLIP (SD1, SDXL) and of OpenCLIP (SD2, SDXL, its refiner), and a tokenizer."""
from __future__ import annotations

import re
import zlib
from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

WORDS = 1022
POSITIONS = 77


class Tokenizer:
    """Words and punctuation to numbers by a checksum, so that there is no vocabulary to store."""

    bos_token_id = WORDS
    eos_token_id = WORDS + 1
    vocab_size = WORDS + 2

    _pieces = re.compile(r"[a-z]+|\d|[^\sa-z\d]+")

    def encode(self, text: str) -> list[int]:
        return [zlib.crc32(piece.encode()) % WORDS for piece in self._pieces.findall(text.lower())]


class EncoderOutput(NamedTuple):
    """`hidden_states[0]` is the embedding, `hidden_states[i]` what layer i gave."""

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


class CLIPAttention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class CLIPMLP(nn.Module):
    activation = staticmethod(quick_gelu)

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, dim * 4)
        self.fc2 = nn.Linear(dim * 4, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class CLIPEncoderLayer(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.self_attn = CLIPAttention(dim, heads)
        self.layer_norm1 = nn.LayerNorm(dim)
        self.mlp = CLIPMLP(dim)
        self.layer_norm2 = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPTextEmbeddings(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.token_embedding = nn.Embedding(Tokenizer.vocab_size, dim)
        self.position_embedding = nn.Embedding(POSITIONS, dim)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]


class CLIPEncoder(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(CLIPEncoderLayer(dim, heads) for _ in range(layers))


class CLIPTextTransformer(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int):
        super().__init__()
        self.embeddings = CLIPTextEmbeddings(dim)
        self.encoder = CLIPEncoder(dim, heads, layers)
        self.final_layer_norm = nn.LayerNorm(dim)


class CLIPTextModel(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int):
        super().__init__()
        self.text_model = CLIPTextTransformer(dim, heads, layers)

    def forward(self, input_ids: torch.Tensor) -> EncoderOutput:
        states = [self.text_model.embeddings(input_ids)]
        for layer in self.text_model.encoder.layers:
            states.append(layer(states[-1]))
        return EncoderOutput(self.text_model.final_layer_norm(states[-1]), tuple(states))


class FrozenCLIPEmbedder(nn.Module):
    """SD1's text encoder, and SDXL's first one, which gives the last but one layer's output (`layer` = "hidden")."""

    def __init__(self, dim: int, heads: int = 4, layers: int = 12, layer: str = "last", layer_idx: int | None = None):
        super().__init__()
        self.tokenizer = Tokenizer()
        self.transformer = CLIPTextModel(dim, heads, layers)
        self.layer = layer
        self.layer_idx = layer_idx


class ResidualAttentionBlock(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(dim, dim * 4), gelu=nn.GELU(), c_proj=nn.Linear(dim * 4, dim))
        )

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        h = self.ln_1(x).to(self.ln_1.weight.dtype)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int):
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(dim, heads) for _ in range(layers))


class OpenCLIPTextModel(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int):
        super().__init__()
        self.transformer = Transformer(dim, heads, layers)
        self.token_embedding = nn.Embedding(Tokenizer.vocab_size, dim)
        self.positional_embedding = nn.Parameter(torch.zeros(POSITIONS, dim))
        self.ln_final = nn.LayerNorm(dim)
        self.text_projection = nn.Parameter(torch.zeros(dim, dim))


class OpenCLIPEmbedder(nn.Module):
    """What the text encoders of SD2 and SDXL have in common."""

    def __init__(self, dim: int, heads: int, layers: int):
        super().__init__()
        self.tokenizer = Tokenizer()
        self.model = OpenCLIPTextModel(dim, heads, layers)

    def _last_two_states(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = tokens.shape[1]
        weight = self.model.positional_embedding
        mask = torch.full((length, length), float("-inf"), dtype=weight.dtype, device=weight.device).triu(1)
        x = penultimate = self.model.token_embedding(tokens) + weight[:length]
        for block in self.model.transformer.resblocks:
            penultimate = x
            x = block(x, mask)
        return penultimate, x


class FrozenOpenCLIPEmbedder(OpenCLIPEmbedder):
    """SD2's text encoder: gives the last but one layer's output, normed."""

    def __init__(self, dim: int, heads: int = 4, layers: int = 24):
        super().__init__(dim, heads, layers)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.ln_final(self._last_two_states(tokens)[0])


class FrozenOpenCLIPEmbedder2(OpenCLIPEmbedder):
    """SDXL's second text encoder: gives the last but one layer's output, and a pooled vector for the whole text."""

    def __init__(self, dim: int, heads: int = 4, layers: int = 32):
        super().__init__(dim, heads, layers)
        self.return_pooled = True

    @property
    def embeddings(self) -> nn.Module:
        """The module that has the table of token vectors."""
        return self.model

    def encode(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The state before the last layer, and the normed and projected state at the first end token after it."""
        penultimate, x = self._last_two_states(tokens)
        end = (tokens == Tokenizer.eos_token_id).int().argmax(dim=1)
        last = self.model.ln_final(x)[torch.arange(len(tokens), device=tokens.device), end]
        return penultimate, last @ self.model.text_projection.to(last.dtype)
