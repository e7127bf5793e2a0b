"""SD3 as the host holds it: MMDiT, two CLIP text encoders (T5 is left out, as it is by default), 16 latent channels."""
from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from modules.diffusion.latent_diffusion import LatentDiffusionBase
from modules.diffusion.text_encoder import CLIPTextModel, Tokenizer
from modules.models.sd3 import mmdit
from modules.sampling.denoisers import DiscreteSchedule
from modules.sd_hijack_clip import TextConditionalModel
from modules.textual_inversion.textual_inversion import EmbeddingDatabase

CLIP_L, CLIP_G, CONTEXT = 32, 48, 96
SHIFT = 3


class ClipEncoder(nn.Module):
    def __init__(self, dim: int, layers: int):
        super().__init__()
        self.transformer = CLIPTextModel(dim, 4, layers)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last but one layer's output, and the last one's at the end of the text."""
        outputs = self.transformer(tokens)
        end = (tokens == Tokenizer.eos_token_id).int().argmax(dim=1)
        return outputs.hidden_states[-2], outputs.last_hidden_state[torch.arange(len(tokens)), end]


class Sd3ClipLG(TextConditionalModel):
    def __init__(self, clip_l: ClipEncoder, clip_g: ClipEncoder):
        notes = SimpleNamespace(extra_generation_params={}, embedding_db=EmbeddingDatabase())  # no part in the hijack
        super().__init__(SimpleNamespace(tokenizer=Tokenizer(), return_pooled=True), notes)
        self.clip_l, self.clip_g = clip_l, clip_g

    def encode_with_transformers(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (out_l, pooled_l), (out_g, pooled_g) = self.clip_l(tokens), self.clip_g(tokens)
        return F.pad(torch.cat([out_l, out_g], -1), (0, CONTEXT - CLIP_L - CLIP_G)), torch.cat([pooled_l, pooled_g], -1)


class SD3Cond(nn.Module):
    def __init__(self):
        super().__init__()
        self.clip_g, self.clip_l = ClipEncoder(CLIP_G, 32), ClipEncoder(CLIP_L, 12)
        self.model_lg = Sd3ClipLG(self.clip_l, self.clip_g)

    def forward(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        crossattn, vector = self.model_lg(prompts)
        return {"crossattn": crossattn, "vector": vector}

    def process_texts(self, texts: list[str]) -> tuple[list, int]:
        return self.model_lg.process_texts(texts)

    def get_target_prompt_token_count(self, token_count: int) -> int:
        return self.model_lg.get_target_prompt_token_count(token_count)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.model_lg.tokenize(texts)

    def medvram_modules(self) -> list[nn.Module]:
        return [self.clip_g, self.clip_l]


class BaseModel(nn.Module):
    conditioning_key = "crossattn"

    def __init__(self, channels: int):
        super().__init__()
        self.diffusion_model = mmdit.MMDiT(channels, CONTEXT, CLIP_L + CLIP_G)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, context: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The clean latents: along the predicted velocity from noise level `sigma` down to 0."""
        velocity = self.diffusion_model(x, sigma * 1000, y, context).float()
        return x - velocity * sigma.view(-1, 1, 1, 1)


class SD3Denoiser(DiscreteSchedule):
    """The model gives clean latents by itself."""

    def __init__(self, model: SD3Inferencer):
        super().__init__(model.alphas_cumprod)
        self.inner_model = model

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.inner_model.apply_model(x, sigma, cond)


class SD3Inferencer(LatentDiffusionBase):
    is_sd3 = True
    latent_channels = 16
    scale_factor, shift_factor = 1.5305, 0.0609

    def __init__(self):
        super().__init__()
        self.model = BaseModel(self.latent_channels)
        self.text_encoders = SD3Cond()
        times = torch.arange(1, self.num_timesteps + 1) / self.num_timesteps
        sigmas = SHIFT * times / (1 + (SHIFT - 1) * times)
        self.alphas_cumprod = self.alphas_cumprod_original = 1 / (sigmas**2 + 1)

    @property
    def cond_stage_model(self) -> SD3Cond:
        return self.text_encoders

    def get_learned_conditioning(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        return self.text_encoders(prompts)

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model(x, t, cond["crossattn"], cond["vector"])

    def create_denoiser(self) -> SD3Denoiser:
        return SD3Denoiser(self)

    def decode_first_stage(self, z: torch.Tensor) -> torch.Tensor:
        return self.first_stage_model.decode(z / self.scale_factor + self.shift_factor)

    def encode_first_stage(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first_stage_model.encode(x).sample() - self.shift_factor) * self.scale_factor

    def get_first_stage_encoding(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def diffusers_weight_mapping(self) -> Iterator[tuple[str, str]]:
        """(a layer's name in diffusers, the host's name). The host's names for the text side of the attention have a
        dot in them, as no layer's name has, so that no network reaches it."""
        for i in range(mmdit.DEPTH):
            theirs, ours = f"transformer.transformer_blocks.{i}.attn.", f"diffusion_model_joint_blocks_{i}_"
            for part in "qkv":
                yield f"{theirs}to_{part}", f"{ours}x_block_attn_qkv_{part}_proj"
                yield f"{theirs}add_{part}_proj", f"{ours}context_block.attn_qkv_{part}_proj"
            yield f"{theirs}to_out.0", f"{ours}x_block_attn_proj"
            yield f"{theirs}add_out_proj.0", f"{ours}context_block_attn_proj"
