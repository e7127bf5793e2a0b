"""What the host wraps around a loaded model: long prompts, tiling, and notes that end up in the result."""
from __future__ import annotations

from typing import Any

from torch import nn

from modules import sd_hijack_clip
from modules.diffusion.text_encoder import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder, FrozenOpenCLIPEmbedder2
from modules.textual_inversion.textual_inversion import EmbeddingDatabase


class StableDiffusionModelHijack:
    """There is one, `model_hijack`. `comments` and `extra_generation_params` are those of the generation at work."""

    circular_enabled = False
    clip: nn.Module | None = None
    layers: list[nn.Module] | None = None
    optimization_method: str | None = None

    def __init__(self):
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: list[str] = []
        self.fixes: list | None = None
        self.embedding_db = EmbeddingDatabase()

    def hijack(self, m: nn.Module) -> None:
        """Wrap the text encoders of a freshly loaded model."""
        conditioner = getattr(m, "conditioner", None)
        if conditioner is not None:
            for i, embedder in enumerate(conditioner.embedders):
                if isinstance(embedder, FrozenCLIPEmbedder):
                    conditioner.embedders[i] = sd_hijack_clip.FrozenCLIPEmbedderForSDXLWithCustomWords(embedder, self)
                elif isinstance(embedder, FrozenOpenCLIPEmbedder2):
                    conditioner.embedders[i] = sd_hijack_clip.FrozenOpenCLIPEmbedder2WithCustomWords(embedder, self)
            m.cond_stage_model = conditioner
        elif m.is_sd3:
            pass  # it cuts prompts into chunks by itself
        elif isinstance(m.cond_stage_model, FrozenOpenCLIPEmbedder):
            m.cond_stage_model = sd_hijack_clip.FrozenOpenCLIPEmbedderWithCustomWords(m.cond_stage_model, self)
        else:
            m.cond_stage_model = sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords(m.cond_stage_model, self)
        self.clip = m.cond_stage_model
        self.layers = list(m.modules())

    def undo_hijack(self, m: nn.Module) -> None:
        """Unwrap them, so that the module names are those of a checkpoint file again."""
        conditioner = getattr(m, "conditioner", None)
        if conditioner is not None:
            for i, embedder in enumerate(conditioner.embedders):
                if isinstance(embedder, sd_hijack_clip.TextConditionalModel):
                    conditioner.embedders[i] = embedder.unwrap()
            if hasattr(m, "cond_stage_model"):
                del m.cond_stage_model
        elif isinstance(m.cond_stage_model, sd_hijack_clip.TextConditionalModel):
            m.cond_stage_model = m.cond_stage_model.unwrap()
        self.apply_circular(False)
        self.layers = None
        self.clip = None

    def redo_hijack(self, m: nn.Module) -> None:
        self.undo_hijack(m)
        self.hijack(m)

    def apply_circular(self, enable: bool) -> None:
        """Let convolutions wrap around the image's edges, for pictures that can be tiled."""
        if self.circular_enabled == enable:
            return
        self.circular_enabled = enable
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                layer.padding_mode = "circular" if enable else "zeros"

    def clear_comments(self) -> None:
        self.comments = []
        self.extra_generation_params = {}

    def get_prompt_lengths(self, text: str) -> tuple[int, int] | tuple[str, str]:
        """The number of tokens in a prompt, and how many fit before another chunk is needed."""
        if self.clip is None:
            return "-", "-"
        _, token_count = self.clip.process_texts([text])
        return token_count, self.clip.get_target_prompt_token_count(token_count)


model_hijack = StableDiffusionModelHijack()
