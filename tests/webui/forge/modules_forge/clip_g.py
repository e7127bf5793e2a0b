"""SDXL's second text encoder, with the module names of CLIP, where q, k and v are layers of their own."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.diffusion.text_encoder import CLIPTextModel, FrozenOpenCLIPEmbedder2, Tokenizer

PARTS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
         "attn.out_proj": "self_attn.out_proj"}
OUTSIDE_LAYERS = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
RE_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


class FrozenClipG(FrozenOpenCLIPEmbedder2):
    """Gives what the encoder of OpenCLIP's modules gives that it takes the place of."""

    def __init__(self, dim: int, heads: int = 4, layers: int = 32):
        nn.Module.__init__(self)
        self.tokenizer = Tokenizer()
        self.return_pooled = True
        self.transformer = CLIPTextModel(dim, heads, layers)
        for layer in self.transformer.text_model.encoder.layers:
            layer.mlp.activation = F.gelu
        self.text_projection = nn.Parameter(torch.zeros(dim, dim))

    @property
    def embeddings(self) -> nn.Module:
        return self.transformer.text_model.embeddings

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.transformer(tokens)
        end = (tokens == Tokenizer.eos_token_id).int().argmax(dim=1)
        last = outputs.last_hidden_state[torch.arange(len(tokens), device=tokens.device), end]
        return outputs.hidden_states[-2], last @ self.text_projection.to(last.dtype)


def converted(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor of OpenCLIP's encoder, under the names that it has here."""
    if name == "text_projection":
        return {name: tensor}
    inside = "transformer.text_model."
    if name in OUTSIDE_LAYERS:
        return {inside + OUTSIDE_LAYERS[name]: tensor}
    number, part, parameter = RE_LAYER.fullmatch(name).groups()
    layer = f"{inside}encoder.layers.{number}"
    if part == "attn.in_proj":
        return {f"{layer}.self_attn.{each}_proj.{parameter}": third.clone()
                for each, third in zip("qkv", tensor.chunk(3), strict=True)}
    return {f"{layer}.{PARTS[part]}.{parameter}": tensor}


def use(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put this encoder into an SDXL model that has no weights yet; the weights of a checkpoint, as they fit it then."""
    embedders = model.conditioner.embedders
    place = next(number for number, each in enumerate(embedders) if isinstance(each, FrozenOpenCLIPEmbedder2))
    with torch.random.fork_rng(devices=[]):
        embedders[place] = FrozenClipG(embedders[place].model.ln_final.weight.numel())
    old, new = f"conditioner.embedders.{place}.model.", f"conditioner.embedders.{place}."
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith(old):
            found.update({new + name: each for name, each in converted(key.removeprefix(old), tensor).items()})
        else:
            found[key] = tensor
    return found
