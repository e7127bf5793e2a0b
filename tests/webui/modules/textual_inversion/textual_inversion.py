"""Textual inversion: words that stand for vectors. This host has no folder of them; networks may bring some along."""
from __future__ import annotations

from typing import Any

import torch

from modules import devices, shared


class Embedding:
    """The vectors that stand for the word `name`; for SDXL, those of each text encoder. `loaded` says whether a network
    that brought them has them in use."""

    def __init__(self, vec: torch.Tensor | dict[str, torch.Tensor], name: str):
        self.vec, self.name = vec, name
        each = list(vec.values()) if isinstance(vec, dict) else [vec]
        self.vectors, self.shape = each[-1].shape[0], sum(part.shape[-1] for part in each)
        self.loaded: bool | None = None
        self.shorthash = ""

    def vector(self, number: int) -> torch.Tensor | dict[str, torch.Tensor]:
        if isinstance(self.vec, dict):
            return {key: vectors[number] for key, vectors in self.vec.items()}
        return self.vec[number]


def create_embedding_from_data(data: dict[str, Any], name: str, filename: str = "", filepath: str | None = None):
    """An embedding from what a file has for it: the tensors in "string_to_param", those of SDXL's two text encoders, or
    one tensor of any name.

    Raises:
        ValueError: there is more than one.
    """
    if "string_to_param" not in data and {"clip_l", "clip_g"} <= data.keys():
        return Embedding({key: each.detach().to(devices.device, torch.float32) for key, each in data.items()}, name)
    tensors = list(data.get("string_to_param", data).values())
    if len(tensors) != 1:
        raise ValueError(f"{filename}: {len(tensors)} tensors for one embedding, expected 1")
    return Embedding(torch.atleast_2d(tensors[0].detach().to(devices.device, torch.float32)), name)


class EmbeddingDatabase:
    """Which words stand for vectors now: by name, and by the number of their first token.

    `expected_shape` is the length of a vector, -1 for a model whose encoder takes none here.
    """

    def __init__(self):
        self.ids_lookup: dict[int, list[tuple[list[int], Embedding]]] = {}
        self.word_embeddings: dict[str, Embedding] = {}
        self.skipped_embeddings: dict[str, Embedding] = {}
        self.expected_shape = -1

    def load_textual_inversion_embeddings(self, force_reload: bool = False) -> None:
        """The host calls this after each model load and before each generation, to find new files."""
        if not force_reload:
            return
        self.ids_lookup.clear()
        self.word_embeddings.clear()
        self.skipped_embeddings.clear()
        self.expected_shape = self.get_expected_shape()

    def get_expected_shape(self) -> int:
        encode = getattr(shared.sd_model.cond_stage_model, "encode_embedding_init_text", None)
        return encode(",", 1).shape[1] if encode is not None else -1

    def register_embedding(self, embedding: Embedding, model: Any) -> Embedding | None:
        return self.register_embedding_by_name(embedding, model, embedding.name)

    def register_embedding_by_name(self, embedding: Embedding | None, model: Any, name: str) -> Embedding | None:
        """Have the word `name` stand for these vectors, or with None for itself again."""
        ids = model.cond_stage_model.tokenize([name])[0]
        others = [entry for entry in self.ids_lookup.pop(ids[0], []) if entry[1].name != name]
        self.word_embeddings.pop(name, None)
        if embedding is not None:
            self.word_embeddings[name] = embedding
            others.append((ids, embedding))
        if others:
            self.ids_lookup[ids[0]] = sorted(others, key=lambda entry: len(entry[0]), reverse=True)
        return embedding

    def find_embedding_at_position(self, tokens: list[int], offset: int) -> tuple[Embedding | None, int | None]:
        """The embedding whose word begins here, the longest one first, and how many tokens the word has."""
        for ids, embedding in self.ids_lookup.get(tokens[offset], ()):
            if tokens[offset : offset + len(ids)] == ids:
                return embedding, len(ids)
        return None, None
