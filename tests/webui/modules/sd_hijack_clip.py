"""Prompts of any length with (emphasis:1.2) and BREAK, around the bare text encoders."""
from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from modules import devices, prompt_parser
from modules.diffusion.text_encoder import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder, FrozenOpenCLIPEmbedder2
from modules.shared import opts


class PromptChunk:
    """As much of a prompt as a text encoder reads at once, with a weight for each token.

    `fixes` are the vectors of textual inversions, as (position, vector); for SDXL, {text encoder: vector}.
    """

    def __init__(self):
        self.tokens: list[int] = []
        self.multipliers: list[float] = []
        self.fixes: list[tuple[int, Vector]] = []


Vector = torch.Tensor | dict[str, torch.Tensor]
Token = tuple[int, float, Vector | None]
"""(its number, its weight, the vector that takes its place)."""


class TextConditionalModel(nn.Module):
    """Cuts prompts into chunks of 75 tokens, encodes each between a start and an end token, and joins the results."""

    def __init__(self, wrapped: nn.Module, hijack):
        super().__init__()
        self.wrapped = wrapped
        self.hijack = hijack
        self.chunk_length = 75
        self.input_key = "txt"
        self.return_pooled = getattr(wrapped, "return_pooled", False)
        self.id_start = wrapped.tokenizer.bos_token_id
        self.id_end = wrapped.tokenizer.eos_token_id
        self.id_pad = self.id_end
        self.comma_token = wrapped.tokenizer.encode(",")[0]

    def unwrap(self) -> nn.Module:
        return self.wrapped

    def encode_with_transformers(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode one chunk for each prompt; gives the state of every token, and the pooled state if there is one."""
        raise NotImplementedError

    def get_target_prompt_token_count(self, token_count: int) -> int:
        """How long a prompt may grow before it needs one more chunk."""
        return math.ceil(max(token_count, 1) / self.chunk_length) * self.chunk_length

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [self.wrapped.tokenizer.encode(text) for text in texts]

    def _with_vectors(self, tokens: list[int], weight: float) -> Iterator[Token]:
        """The tokens of a piece of a prompt, with those of words that stand for vectors replaced."""
        position = 0
        while position < len(tokens):
            embedding, length = self.hijack.embedding_db.find_embedding_at_position(tokens, position)
            if embedding is None:
                yield tokens[position], weight, None
                position += 1
            else:
                yield from ((0, weight, embedding.vector(number)) for number in range(embedding.vectors))
                position += length

    def _finish_chunk(self, tokens: list[Token]) -> PromptChunk:
        padding = self.chunk_length - len(tokens)
        chunk = PromptChunk()
        chunk.tokens = [self.id_start, *(token for token, *_ in tokens), *[self.id_end] * (padding + 1)]
        chunk.multipliers = [1.0, *(weight for _, weight, _ in tokens), *[1.0] * (padding + 1)]
        chunk.fixes = [(i, vector) for i, (*_, vector) in enumerate(tokens, start=1) if vector is not None]
        return chunk

    def empty_chunk(self) -> PromptChunk:
        return self._finish_chunk([])

    def _break_position(self, tokens: list[Token]) -> int:
        """Where to cut a full chunk: behind its last comma if that is near the end, else at the end."""
        for distance in range(1, opts.comma_padding_backtrack + 1):
            if tokens[-distance][0] == self.comma_token:
                return len(tokens) - distance + 1
        return len(tokens)

    def tokenize_line(self, line: str) -> tuple[list[PromptChunk], int]:
        """One prompt to chunks, and the number of its tokens, where all but the last chunk count as full."""
        parsed = [[line, 1.0]] if opts.emphasis == "None" else prompt_parser.parse_prompt_attention(line)
        chunks: list[PromptChunk] = []
        current: list[Token] = []
        for tokens, (text, weight) in zip(self.tokenize([text for text, _ in parsed]), parsed, strict=True):
            if text == "BREAK" and weight == -1:
                chunks.append(self._finish_chunk(current))
                current = []
                continue
            for token in self._with_vectors(tokens, weight):
                if len(current) == self.chunk_length:
                    cut = len(current) if token[0] == self.comma_token else self._break_position(current)
                    chunks.append(self._finish_chunk(current[:cut]))
                    current = current[cut:]
                current.append(token)
        token_count = len(chunks) * self.chunk_length + len(current)
        if current or not chunks:
            chunks.append(self._finish_chunk(current))
        return chunks, token_count

    def process_texts(self, texts: list[str]) -> tuple[list[list[PromptChunk]], int]:
        """The chunks of each prompt, and the number of tokens in the longest."""
        lines = {text: self.tokenize_line(text) for text in texts}
        return [lines[text][0] for text in texts], max(count for _, count in lines.values())

    def forward(self, texts: list[str]) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts to (prompt, token, channel); with the first chunk's pooled state where the encoder has one."""
        prompts, _ = self.process_texts(texts)
        encoded = []
        for i in range(max(len(chunks) for chunks in prompts)):
            batch = [chunks[i] if i < len(chunks) else self.empty_chunk() for chunks in prompts]
            self.hijack.fixes = [x.fixes for x in batch]
            encoded.append(self.process_tokens([x.tokens for x in batch], [x.multipliers for x in batch]))
        if opts.emphasis != "Original" and any("(" in text or "[" in text for text in texts):
            self.hijack.extra_generation_params["Emphasis"] = opts.emphasis
        z = torch.hstack([z for z, _ in encoded])
        return (z, encoded[0][1]) if self.return_pooled else z

    def process_tokens(
        self, batch_tokens: list[list[int]], batch_multipliers: list[list[float]]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode one chunk for each prompt and weigh the tokens; "Original" keeps the mean of the whole as it was."""
        z, pooled = self.encode_with_transformers(torch.tensor(batch_tokens, device=devices.device))
        if opts.emphasis in ("Original", "No norm"):
            multipliers = torch.tensor(batch_multipliers, device=z.device, dtype=z.dtype)
            weighed = z * multipliers[..., None]
            z = weighed * (z.mean() / weighed.mean()) if opts.emphasis == "Original" else weighed
        return z, pooled


class EmbeddingsWithFixes(nn.Module):
    """Takes the place of the table of token vectors, and puts those of textual inversions where they belong.

    `textual_inversion_key` is the name that a textual inversion for several text encoders has for this one.
    """

    def __init__(self, wrapped: nn.Embedding, hijack, textual_inversion_key: str = "clip_l"):
        super().__init__()
        self.wrapped = wrapped
        self.hijack = hijack
        self.textual_inversion_key = textual_inversion_key

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        vectors = self.wrapped(input_ids)
        fixes, self.hijack.fixes = self.hijack.fixes or [], None
        for row, of_row in zip(vectors, fixes, strict=False):
            for position, vector in of_row:
                row[position] = vector[self.textual_inversion_key] if isinstance(vector, dict) else vector
        return vectors


class TextModelWithWords(TextConditionalModel):
    """One in whose prompts words may stand for vectors."""

    textual_inversion_key = "clip_l"

    def __init__(self, wrapped: nn.Module, hijack):
        super().__init__(wrapped, hijack)
        table = EmbeddingsWithFixes(self.embeddings.token_embedding, hijack, self.textual_inversion_key)
        self.embeddings.token_embedding = table

    @property
    def embeddings(self) -> nn.Module:
        return self.wrapped.transformer.text_model.embeddings

    def unwrap(self) -> nn.Module:
        """Give the table back, and what this is around."""
        self.embeddings.token_embedding = self.embeddings.token_embedding.wrapped
        return self.wrapped

    def encode_embedding_init_text(self, init_text: str, nvpt: int) -> torch.Tensor:
        """The vectors of a text's first tokens."""
        ids = torch.tensor(self.tokenize([init_text])[0][:nvpt], device=devices.device)
        return self.embeddings.token_embedding.wrapped(ids)


class FrozenCLIPEmbedderWithCustomWords(TextModelWithWords):
    wrapped: FrozenCLIPEmbedder

    def encode_with_transformers(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        outputs = self.wrapped.transformer(tokens)
        skip = opts.CLIP_stop_at_last_layers
        if skip > 1:
            return self.wrapped.transformer.text_model.final_layer_norm(outputs.hidden_states[-skip]), None
        return outputs.last_hidden_state, None


class FrozenCLIPEmbedderForSDXLWithCustomWords(TextModelWithWords):
    wrapped: FrozenCLIPEmbedder

    def encode_with_transformers(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        index = -opts.CLIP_stop_at_last_layers if opts.sdxl_clip_l_skip else self.wrapped.layer_idx
        return self.wrapped.transformer(tokens).hidden_states[index], None


class FrozenOpenCLIPEmbedderWithCustomWords(TextConditionalModel):
    wrapped: FrozenOpenCLIPEmbedder

    def encode_with_transformers(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.wrapped.encode(tokens), None


class FrozenOpenCLIPEmbedder2WithCustomWords(TextModelWithWords):
    wrapped: FrozenOpenCLIPEmbedder2
    textual_inversion_key = "clip_g"

    @property
    def embeddings(self) -> nn.Module:
        return self.wrapped.embeddings

    def encode_with_transformers(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.wrapped.encode(tokens)
